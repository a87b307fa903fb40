"""Which queues there are: the default one, and those by name that jobs were put into."""

from typing import Final, cast

from tailrace.joblog import Broker
from tailrace.schemas.keys import DEFAULT_QUEUE, Keys

#: More are not looked through. Their workers take their jobs all the same.
MOST_QUEUES: Final = 100


def ask_queues(keys: Keys) -> tuple[str | int, ...]:
    """The command whose answer `queues_told` reads, for whoever sends it with others."""
    return ("ZRANGE", keys.queues, -MOST_QUEUES, -1)


def queues_told(answer: object) -> list[str]:
    """The names of all queues, the default one first; only that one if the answer is an error."""
    names = cast("list[bytes]", answer) if isinstance(answer, list) else []
    return [DEFAULT_QUEUE, *sorted(name.decode("utf-8", "replace") for name in names)]


async def known_queues(broker: Broker, keys: Keys) -> list[str]:
    """The names of all queues, the default one first. Raises: BrokerUnavailable, BrokerUnsuitable."""
    return queues_told(await broker.queue.call(*ask_queues(keys)))


async def forget_old_queues(broker: Broker, keys: Keys) -> None:
    """Forget those in which no job can be any more. Raises: BrokerUnavailable, BrokerUnsuitable."""
    await broker.queue.call("ZREMRANGEBYSCORE", keys.queues, "-inf", await broker.queue.now_ms())
