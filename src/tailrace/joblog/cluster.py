"""Logs on a Redis Cluster or Valkey Cluster: each command goes to the primary that serves its job's slot.

Every node is an ordinary broker with connections of its own, so a node that is away holds up nobody but its own jobs.
Only logs live here: the queue, and what is not one job's, have a server of their own.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from tailrace.joblog.cluster_map import SCHEMES, Address, ClusterMap, named_by
from tailrace.joblog.connections import Broker, Script
from tailrace.joblog.pipe import Pipe
from tailrace.joblog.pubsub import PubSub, Take
from tailrace.joblog.tasks import end
from tailrace.joblog.translation import Word, translated
from tailrace.joblog.wire import pack

#: Between tries, while nodes disagree on who serves a slot. A failover takes longer: callers wait, as for any server.
_PAUSES_S: Final = (0.0, 0.02, 0.05, 0.1, 0.2)
#: Where a command has its first key; others have it as their first argument. (Those without any are named.)
_KEY_AT: Final = {"EVALSHA": 3, "EVAL": 3}
_KEYLESS: Final = frozenset({"TIME", "PING", "INFO", "SCRIPT", "SCRIPT LOAD", "CONFIG"})


def is_cluster(url: str) -> bool:
    """Whether a URL names a cluster: `redis+cluster://[user:password@]host:port[,host:port ...][?options]`."""
    return url.partition("://")[0].lower() in SCHEMES


class ClusterBroker(Broker):
    """A broker over many nodes. `many` has the error of a node that is away in its commands' places, and raises only where
    all are."""

    def __init__(self, nodes: ClusterMap, *, queue: Broker) -> None:
        self._map = nodes
        self._queue = queue
        self._knows_flags = True

    @property
    def redis(self) -> Redis:  # type: ignore[override]  # of many, one
        return self._map.node(self._map.primaries[0]).redis

    @property
    def parts(self) -> Mapping[Address, Broker]:
        return {address: self._map.node(address) for address in self._map.primaries}

    @property
    def spread(self) -> bool:
        return True

    def place(self, key: str) -> Address:
        return self._map.owner(key)

    def form(self, script: Script) -> Script:
        return script.sharded

    def pipe(self, place: Address = "") -> Pipe:
        return self._map.node(place or self._map.primaries[0]).pipe()

    async def pubsub(self, take: Take, place: Address = "") -> PubSub:
        return await self._map.node(place or self._map.primaries[0]).pubsub(take)

    def on_change(self, call: Callable[[], None]) -> None:
        self._map.on_change.append(call)

    def doubt(self, error: BaseException | None = None, place: Address = "") -> None:
        if isinstance(error, MovedError):
            self._map.moved(error, place)
        else:
            self._map.doubt()

    async def look_again(self) -> None:
        await self._map.look()

    async def load(self, script: Script) -> None:
        async def at(address: Address) -> None:
            await self._map.node(address).load(self.form(script))

        with translated():
            if not self._map.known:
                await self._map.look()
        found = await asyncio.gather(*map(at, self._map.primaries), return_exceptions=True)
        failed = [each for each in found if each is not None]
        if len(failed) == len(found):
            raise failed[0]

    async def now_ms(self) -> int:
        """The clock of the primary that answers first: one that is away must not keep the others' jobs from being judged."""
        with translated():
            if not self._map.known:
                await self._map.look()
        asking = {asyncio.create_task(node.now_ms(), name="tailrace-cluster-clock") for node in self.parts.values()}
        waiting, told = asking, set[asyncio.Task[int]]()
        try:
            while waiting and not any(task.exception() is None for task in told):
                told, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return min(told, key=lambda task: task.exception() is not None).result()
        finally:
            await end(asking)

    async def asked(self, error: AskError, packed: bytes, place: Address = "") -> Any:
        _, answer = await self._map.node(named_by(error, place)).shared_pipe.ask([pack(("ASKING",)), packed])
        return answer

    async def answers(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Raises: the error of every node, if no command was answered."""
        if not self._map.known:
            await self._map.look()
        answers: dict[int, Any] = {}
        waiting = list(range(len(commands)))
        for pause_s in _PAUSES_S:
            if pause_s:
                await asyncio.sleep(pause_s)
            await self._ask_once(commands, waiting, answers)
            waiting = [number for number in waiting if self._again(answers[number])]
            if not waiting:
                break
            if any(isinstance(answers[number], RedisConnectionError | OSError | TimeoutError) for number in waiting):
                before = {number: self._owner(commands, number) for number in waiting}
                await self._map.look()
                # A node that is away, and that nobody has replaced yet: waiting here would not help.
                waiting = [number for number in waiting if self._moved(commands, number, before, answers[number])]
        found = [answers[number] for number in range(len(commands))]
        if found and all(isinstance(each, RedisConnectionError | OSError | TimeoutError) for each in found):
            raise found[0]
        return found

    async def _ask_once(
        self, commands: Sequence[Sequence[Word]], numbers: Sequence[int], answers: dict[int, Any]
    ) -> None:
        by_node: dict[Address, list[int]] = {}
        for number in numbers:
            by_node.setdefault(self._owner(commands, number), []).append(number)
        await asyncio.gather(*(self._ask_node(node, commands, mine, answers) for node, mine in by_node.items()))

    async def _ask_node(
        self, address: Address, commands: Sequence[Sequence[Word]], numbers: Sequence[int], answers: dict[int, Any]
    ) -> None:
        try:
            found = await self._map.node(address).answers([commands[number] for number in numbers])
        except (RedisError, OSError, TimeoutError) as error:
            answers.update(dict.fromkeys(numbers, error))
            return
        for number, answer in zip(numbers, found, strict=True):
            answers[number] = answer
            if isinstance(answer, MovedError):
                self._map.moved(answer, address)
            elif isinstance(answer, AskError):
                target = self._map.node(named_by(answer, address))
                try:
                    _, answers[number] = await target.answers([("ASKING",), commands[number]])
                except (RedisError, OSError, TimeoutError) as error:
                    answers[number] = error
            elif isinstance(answer, ClusterDownError | ReadOnlyError):
                self._map.doubt()

    def _owner(self, commands: Sequence[Sequence[Word]], number: int) -> Address:
        """Who is asked this command. One without a key goes where its neighbours go."""
        for command in (commands[number], *commands):
            key = _key(command)
            if key is not None:
                return self._map.owner(key)
        return self._map.primaries[0]

    def _again(self, answer: Any) -> bool:
        return isinstance(
            answer,
            AskError | TryAgainError | ClusterDownError | ReadOnlyError | RedisConnectionError | OSError | TimeoutError,
        )

    def _moved(self, commands: Sequence[Sequence[Word]], number: int, before: dict[int, Address], answer: Any) -> bool:
        if not isinstance(answer, RedisConnectionError | OSError | TimeoutError):
            return True
        return self._owner(commands, number) != before[number]


def _key(command: Sequence[Word]) -> str | None:
    name = command[0]
    if not isinstance(name, str) or name in _KEYLESS:
        return None
    at = _KEY_AT.get(name, 1)
    key = command[at] if len(command) > at else None
    return key.decode() if isinstance(key, bytes) else None if key is None else str(key)
