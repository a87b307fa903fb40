"""Which workers there are, for people: each announces itself while it lives. Nothing depends on it; leases are what counts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tailrace.joblog import Broker, Script
from tailrace.schemas import DEFAULT_QUEUE, WIRE_VERSION, Keys

#: How long a worker is remembered that fell silent without taking its leave.
REMEMBERED_MS: Final = 3_600_000

#: KEYS workers, card; ARGV 1 name, 2 card, 3 how long the card counts, 4 how long a name is remembered; all in ms.
_ANNOUNCE: Final = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
local old = string.format('%.0f', now - tonumber(ARGV[4]))
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', old)) do redis.call('ZREM', KEYS[1], name) end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
""")


_SAID: Final = ("host", "pid", "jobs", "max_jobs", "version", "wire", "queues")


@dataclass(frozen=True, slots=True)
class WorkerCard:
    """What a worker says of itself."""

    name: str
    host: str = ""
    pid: int = 0
    jobs: int = 0
    """How many it ran when it last announced itself."""
    max_jobs: int = 0
    seen_ms: int = 0
    """When that was, by the server's clock."""
    alive: bool = True
    """Whether that is recent."""
    version: str = ""
    """Of tailrace; "" of a worker too old to say."""
    wire: int = WIRE_VERSION
    """The version of the wire format that it writes."""
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    """The queues that it takes jobs from, in its order."""


async def announce(broker: Broker, keys: Keys, card: WorkerCard, *, counts_s: float) -> None:
    """Say that this worker lives; it counts for so long. Raises: BrokerUnavailable, BrokerUnsuitable."""
    said = {name: value for name, value in asdict(card).items() if name in _SAID}
    names = [keys.workers, keys.worker(card.name)]
    await broker.queue.run(_ANNOUNCE, names, [card.name, json.dumps(said), int(counts_s * 1000), REMEMBERED_MS])


async def take_leave(broker: Broker, keys: Keys, name: str) -> None:
    """Say that this worker ends as it should. Raises: BrokerUnavailable, BrokerUnsuitable."""
    await broker.queue.call("ZREM", keys.workers, name)
    await broker.queue.call("DEL", keys.worker(name))


async def known_workers(broker: Broker, keys: Keys) -> list[WorkerCard]:
    """The workers of the last hour, the longest silent first. Raises: BrokerUnavailable, BrokerUnsuitable."""
    found = with_scores(await broker.queue.call("ZRANGE", keys.workers, 0, -1, "WITHSCORES"))
    names = [name for name, _ in found]
    cards = await broker.queue.many([("GET", keys.worker(name)) for name in names]) if names else []
    return [_card(name, int(score), card) for name, (_, score), card in zip(names, found, cards, strict=True)]


def _card(name: str, seen_ms: int, raw: object) -> WorkerCard:
    if not isinstance(raw, bytes):
        return WorkerCard(name, seen_ms=seen_ms, alive=False)
    try:
        said: Any = json.loads(raw)
        return WorkerCard(
            name,
            host=str(said["host"]),
            pid=int(said["pid"]),
            jobs=int(said["jobs"]),
            max_jobs=int(said["max_jobs"]),
            version=str(said.get("version", ""))[:64],
            wire=int(said.get("wire", 1)),
            seen_ms=seen_ms,
            queues=tuple(map(str, said.get("queues", [DEFAULT_QUEUE]))),
        )
    except (ValueError, LookupError, TypeError, AttributeError):  # not written by us: somebody is there all the same
        return WorkerCard(name, seen_ms=seen_ms)


def with_scores(answer: Sequence[bytes]) -> list[tuple[str, float]]:
    """Members and scores, as the server lists them."""
    return [
        (member.decode("utf-8", "replace"), float(score))
        for member, score in zip(answer[::2], answer[1::2], strict=True)
    ]
