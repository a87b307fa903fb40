"""Logs on a Redis Cluster or Valkey Cluster: each command goes to the primary that serves its job's slot.

Every node is an ordinary broker with connections of its own, so a node that is away holds up nobody but its own jobs.
Only logs live here: the queue, and what is not one job's, have a server of their own.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from tailrace.joblog.cluster_map import SCHEMES, SILENT_S, Address, ClusterMap, named_by
from tailrace.joblog.connections import Broker, Script
from tailrace.joblog.pipe import Pipe
from tailrace.joblog.pubsub import PubSub, Take
from tailrace.joblog.tasks import end
from tailrace.joblog.translation import Unsent, Word, not_carried_out, translated
from tailrace.joblog.wire import pack
from tailrace.schemas import BrokerUnavailable, TailraceError

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

    def well(self, key: str) -> bool:
        return self._map.well(self._map.owner(key))

    def hangs(self, key: str) -> bool:
        return self._map.silent(self._map.owner(key))

    async def load(self, script: Script, place: Address = "") -> None:
        """At this node alone: one that hangs must not keep the others waiting."""
        await self._map.node(place or self._map.primaries[0]).load(self.form(script))

    async def run_many(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Word]]]) -> list[Any]:
        """Each node's by themselves. Waits for no slot that is between two nodes. Raises: as `answers`."""
        commands = [("EVALSHA", self.form(script).sha, len(keys), *keys, *args) for keys, args in calls]
        with translated():
            if not self._map.known:
                await self._map.look()
        by_node: dict[Address, list[int]] = {}
        for number in range(len(commands)):
            by_node.setdefault(self._owner(commands, number), []).append(number)
        found = await asyncio.gather(
            *(self._run_there(script, [commands[number] for number in mine]) for mine in by_node.values())
        )
        answers: list[Any] = [None] * len(commands)
        for mine, theirs in zip(by_node.values(), found, strict=True):
            for number, answer in zip(mine, theirs, strict=True):
                answers[number] = answer
        for number, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):  # at another node by now
                try:
                    answers[number] = await self.run(script, *calls[number])
                except TailraceError as error:
                    answers[number] = error
        if answers and all(isinstance(each, BrokerUnavailable) for each in answers):
            raise answers[0]
        return answers

    async def _run_there(self, script: Script, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """The answers of one node; BrokerUnavailable in all places if it has none."""
        try:
            answers = await self.many(commands)
            if unknown := [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]:
                load = ("SCRIPT LOAD", self.form(script).source)
                _, *again = await self.many([load, *(commands[number] for number in unknown)])
                for number, answer in zip(unknown, again, strict=True):
                    answers[number] = answer
        except BrokerUnavailable as error:
            return [error] * len(commands)
        return answers

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

    async def asked(self, error: AskError, packed: bytes, place: Address, script: Script) -> Any:
        asking, pipe = [pack(("ASKING",)), packed], self._map.node(named_by(error, place)).shared_pipe
        _, answer = await pipe.ask(asking)
        if isinstance(answer, NoScriptError):
            _, _, answer = await pipe.ask([pack(("SCRIPT", "LOAD", self.form(script).source)), *asking])
        return answer

    async def answers(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Who asks several nodes does not wait long for one that hangs: the others' answers are worth more.

        Raises: the error of every node, if no command was answered.
        """
        if not self._map.known:
            await self._map.look()
        answers: dict[int, Any] = {}
        #: By command, the first time that nobody knows what came of it: a later refusal does not tell either.
        unknown: dict[int, Any] = {}
        waiting = list(range(len(commands)))
        for pause_s in _PAUSES_S:
            if pause_s:
                await asyncio.sleep(pause_s)
            # Known before: the map closes the connections of a node that was replaced, also those that are waited on.
            asked = {number: self._owner(commands, number) for number in waiting}
            await self._ask_once(commands, waiting, answers)
            for number in waiting:
                if _is_away(answers[number]) and not isinstance(answers[number], Unsent):
                    unknown.setdefault(number, answers[number])
            waiting = [number for number in waiting if self._again(answers[number])]
            if not waiting:
                break
            if any(_is_away(answers[number]) for number in waiting):
                await self._map.look()
                # A node that is away, and that nobody has replaced yet: waiting here would not help.
                waiting = [number for number in waiting if self._moved(commands, number, asked, answers[number])]
        for number, error in unknown.items():
            if isinstance(answers[number], Exception) and not_carried_out(answers[number]):
                answers[number] = error
        found = [answers[number] for number in range(len(commands))]
        if found and all(_is_away(each) for each in found):
            raise found[0]
        return found

    async def _ask_once(
        self, commands: Sequence[Sequence[Word]], numbers: Sequence[int], answers: dict[int, Any]
    ) -> None:
        by_node: dict[Address, list[int]] = {}
        for number in numbers:
            by_node.setdefault(self._owner(commands, number), []).append(number)
        # Who has answers already does not wait long for the rest.
        patience_s = None if len(numbers) == len(commands) else SILENT_S
        await self._ask_nodes(by_node, [(command,) for command in commands], answers, patience_s)
        elsewhere: dict[Address, list[int]] = {}
        for address, mine in by_node.items():
            for number in mine:
                answer = answers[number]
                if isinstance(answer, MovedError):
                    self._map.moved(answer, address)
                elif isinstance(answer, AskError):
                    elsewhere.setdefault(named_by(answer, address), []).append(number)
                elif isinstance(answer, ClusterDownError | ReadOnlyError):
                    self._map.doubt()
        if elsewhere:
            if sum(map(len, elsewhere.values())) < len(commands):
                patience_s = SILENT_S
            await self._ask_nodes(elsewhere, [(("ASKING",), command) for command in commands], answers, patience_s)

    async def _ask_nodes(
        self,
        by_node: Mapping[Address, Sequence[int]],
        groups: Sequence[Sequence[Sequence[Word]]],
        answers: dict[int, Any],
        patience_s: float | None,
    ) -> None:
        """Ask each node the groups of commands that have its numbers. `patience_s`: how long; None: until the first has
        answered, and for the others SILENT_S more."""
        if patience_s is None and len(by_node) == 1:
            ((address, mine),) = by_node.items()
            answers.update(zip(mine, await self._ask_node(address, [groups[number] for number in mine]), strict=True))
            return
        silent = TimeoutError(f"no answer within {SILENT_S:g} s")
        answers.update((number, silent) for mine in by_node.values() for number in mine)
        asked = [address for address in by_node if not self._map.silent(address)]
        if patience_s is None:
            asked = asked or list(by_node)
        waiting: dict[asyncio.Task[list[Any]], Address] = {}
        for address in asked:
            theirs = [groups[number] for number in by_node[address]]
            waiting[asyncio.create_task(self._ask_node(address, theirs), name="tailrace-cluster-node")] = address
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for task in done:
                    found = task.result()
                    answers.update(zip(by_node[waiting.pop(task)], found, strict=True))
                    if not all(map(_is_away, found)):
                        patience_s = SILENT_S
        except BaseException:
            await end(waiting)
            raise
        for task in waiting:
            self._map.leave_to_itself(task)

    async def _ask_node(self, address: Address, groups: Sequence[Sequence[Sequence[Word]]]) -> list[Any]:
        """The last answer of each group, or the error of all. Raises nothing of redis-py's."""
        try:
            found = await self._map.node(address).answers([command for group in groups for command in group])
        except (RedisError, OSError, TimeoutError) as error:
            self._map.told(address, answers=False)
            return [error] * len(groups)
        self._map.told(address, answers=True)
        answers = iter(found)
        return [[next(answers) for _ in group][-1] for group in groups]

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
        return not _is_away(answer) or self._owner(commands, number) != before[number]


def _is_away(answer: Any) -> bool:
    return isinstance(answer, RedisConnectionError | OSError | TimeoutError)


def _key(command: Sequence[Word]) -> str | None:
    name = command[0]
    if not isinstance(name, str) or name in _KEYLESS:
        return None
    at = _KEY_AT.get(name, 1)
    key = command[at] if len(command) > at else None
    return key.decode() if isinstance(key, bytes) else None if key is None else str(key)
