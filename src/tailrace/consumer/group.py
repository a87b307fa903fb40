"""Reading the hand-off as one consumer of a group: what is new, and what others have left lying."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from anyio import move_on_after
from redis.exceptions import RedisError, ResponseError

from tailrace.consumer.ended import AsyncEnded, Membership, notice_of
from tailrace.consumer.ended_scripts import PARK, RELEASE, TAKE_OVER
from tailrace.joblog import Broker, Word, translated
from tailrace.queue import Outage
from tailrace.schemas import (
    BrokerUnavailable,
    Duration,
    InvalidRequest,
    Keys,
    Status,
    TailraceError,
    check_group,
    seconds,
)

logger = logging.getLogger(__name__)

TAKEOVER_S: Final = 60.0
MAX_DELIVERIES: Final = 5

Begin = Literal["oldest", "now"]

#: Entries a read: one round trip for several, and few to give back at the end.
_AT_ONCE: Final = 16
#: How long a read waits on the server, and how long for its answer beyond that.
_BLOCK_S: Final = 5.0
_ANSWER_S: Final = 5.0
#: How often, at least, each reader looks for what lies about.
_LOOK_S: Final = 5.0
#: A server that does not wait (fakeredis) is asked so often.
_UNBLOCKED_PAUSE_S: Final = 0.01
#: A consumer that holds nothing and has not asked for so long has left.
_LEFT_MS: Final = 60_000
_LEAVE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which ended jobs a group wants; an empty collection: whichever. The others are acknowledged at once."""

    statuses: Collection[Status | str] = ()
    tags: Collection[str] = ()
    """One of them is enough."""
    tasks: Collection[str] = ()
    filter: Callable[[AsyncEnded], object] | None = None

    def __post_init__(self) -> None:
        for name in ("statuses", "tags", "tasks"):
            if isinstance(getattr(self, name), str):
                raise InvalidRequest(f"{name} must be a list of str, not one str: [{getattr(self, name)!r}]")
        unknown = [status for status in self.statuses if status not in _ENDS]
        if unknown:
            raise InvalidRequest(f"statuses {unknown!r}: a job ends as one of {', '.join(sorted(_ENDS))}")

    def wants(self, ended: AsyncEnded) -> bool:
        if self.statuses and ended.status not in self.statuses:
            return False
        if self.tags and not set(self.tags).intersection(ended.tags):
            return False
        if self.tasks and ended.task not in self.tasks:
            return False
        return self.filter is None or bool(self.filter(ended))


_ENDS: Final = frozenset(status.value for status in Status if status.ended)


@dataclass(slots=True)
class _Taken:
    """What was fetched and not yet yielded."""

    ended: AsyncEnded
    stream: str
    entry_id: str
    at: float = field(default_factory=lambda: asyncio.get_running_loop().time())


#: The last one is what fakeredis says of a stream that was deleted.
_GONE: Final = ("NOGROUP", "UNBLOCKED", "requires the key to exist")


class _GroupGone(Exception):  # an answer, not a fault
    """The server has no such group any more: it lost it, or the stream's time was over."""


class GroupReader:
    """One consumer of a group. `read` connects, and lets go of everything when it is closed."""

    def __init__(
        self,
        broker: Broker,
        keys: Keys,
        group: str,
        *,
        choice: Choice | None = None,
        begin: Begin = "oldest",
        consumer: str | None = None,
        takeover: Duration = TAKEOVER_S,
        max_deliveries: int = MAX_DELIVERIES,
    ) -> None:
        """Raises: InvalidRequest."""
        consumer = secrets.token_hex(8) if consumer is None else consumer
        self._member = Membership(broker, keys, check_group(group), check_group(consumer))
        if begin not in ("oldest", "now"):
            raise InvalidRequest(f"begin {begin!r} is neither 'oldest' nor 'now'")
        if max_deliveries < 1:
            raise InvalidRequest(f"max_deliveries must be 1 or more, not {max_deliveries!r}")
        self._choice = Choice() if choice is None else choice
        self._takeover_s = seconds("takeover", takeover, TAKEOVER_S, above=0.0)
        self._max_deliveries = max_deliveries
        #: Where the group begins on a stream that does not know it. After the first look it is a place: a group that the
        #: server lost begins again where this reader began.
        self._begins = dict.fromkeys(keys.ended_streams, "$" if begin == "now" else "0")
        self._taken: deque[_Taken] = deque()
        self._connection: Any = None
        self._look_at = 0.0
        self._outage = Outage(f"group {group!r}", logger)

    async def read(self) -> AsyncGenerator[AsyncEnded]:
        """Yield what the group has to do, for ever. A server that goes away is waited for, but for the first time.

        Raises: BrokerUnavailable (there is none), BrokerUnsuitable; whatever the filter raises.
        """
        try:
            await self._look_around()
            while True:
                await self._fill()
                taken = self._taken.popleft()
                if not await self._still_ours(taken):
                    continue
                if self._choice.wants(taken.ended):
                    yield taken.ended
                else:
                    await self._pass(taken)
        finally:
            with move_on_after(_LEAVE_S, shield=True):
                await self._leave()

    async def _fill(self) -> None:
        """Return when something is taken."""
        while not self._taken:
            now = asyncio.get_running_loop().time()
            try:
                if now >= self._look_at:
                    await self._look_around()
                else:
                    await self._wait(self._look_at - now)
                self._outage.over()
            except _GroupGone:
                self._look_at = 0.0
            except BrokerUnavailable as error:
                await asyncio.sleep(self._outage.failed(error))

    async def _look_around(self) -> None:
        """Take over what nobody has acknowledged in time. Makes the group where there is none."""
        member = self._member
        takeover_ms = max(1, round(self._takeover_s * 1000))
        for stream, begin in self._begins.items():
            taken, parked, last = await member.broker.queue.run(
                TAKE_OVER,
                [stream, member.keys.parked(member.group)],
                [
                    *(member.group, member.consumer, begin, takeover_ms, self._max_deliveries, _AT_ONCE),
                    f"handed out {self._max_deliveries} times and never acknowledged",
                    max(_LEFT_MS, takeover_ms),
                ],
            )
            if begin == "$":
                self._begins[stream] = last.decode()
            for fields in parked:
                job = dict(_pairs(fields)).get(b"job", b"?").decode(errors="replace")
                self._tell_parked(job, f"after {self._max_deliveries} deliveries")
            for entry_id, deliveries, fields in taken:
                await self._take(stream, entry_id, fields, deliveries)
        # All that there is in one go; then pauses.
        pause_s = 0.0 if len(self._taken) >= _AT_ONCE else min(_LOOK_S, self._takeover_s / 4)
        self._look_at = asyncio.get_running_loop().time() + pause_s

    async def _wait(self, longest_s: float) -> None:
        """Read what is new, or wait for it."""
        member = self._member
        block_s = max(0.001, min(longest_s, _BLOCK_S))
        streams = list(self._begins)
        command: list[Word] = ["XREADGROUP", "GROUP", member.group, member.consumer, "COUNT", _AT_ONCE]
        command += ["BLOCK", max(1, round(block_s * 1000)), "STREAMS", *streams, *[">" for _ in streams]]
        began = asyncio.get_running_loop().time()
        answer = await self._ask(command, block_s + _ANSWER_S)
        for stream, entries in answer or ():
            for entry_id, fields in entries:
                await self._take(stream.decode(), entry_id, fields or [], 1)
        if not answer and asyncio.get_running_loop().time() - began < block_s / 2:
            await asyncio.sleep(min(_UNBLOCKED_PAUSE_S, block_s))

    async def _ask(self, command: Sequence[Word], timeout_s: float) -> Any:
        """One command on this reader's own connection, which is closed if the answer does not come, or is not waited for.

        Raises: _GroupGone, BrokerUnavailable, BrokerUnsuitable.
        """
        try:
            with translated():
                async with asyncio.timeout(timeout_s):
                    if self._connection is None:
                        self._connection = await self._member.broker.queue.own_connection()
                    await self._connection.send_command(*command)
                    try:
                        return await self._connection.read_response(disconnect_on_error=False)
                    except ResponseError as error:
                        if any(word in str(error) for word in _GONE):
                            raise _GroupGone from None
                        raise
        except _GroupGone:
            raise
        except BaseException:
            await self._disconnect()
            raise

    async def _take(self, stream: str, entry_id: bytes, fields: Sequence[bytes], deliveries: int) -> None:
        member = self._member
        notice = notice_of(dict(_pairs(fields)))
        if notice is None:
            self._tell_parked(entry_id.decode(), "because the entry cannot be read")
            args: list[Word] = [member.group, member.consumer, entry_id, "the entry cannot be read"]
            await member.broker.queue.run(PARK, [stream, member.keys.parked(member.group)], args)
            return
        ended = AsyncEnded(member, stream, entry_id.decode(), notice, deliveries)
        if notice.only_for not in (None, member.group):
            await ended.ack()
            return
        self._taken.append(_Taken(ended, stream, entry_id.decode()))

    def _tell_parked(self, what: str, why: str) -> None:
        logger.error("hand-off: %r is parked in group %r %s", what, self._member.group, why)

    async def _still_ours(self, taken: _Taken) -> bool:
        """Whether nobody has taken it over while those before it were handled. From now on its time runs anew."""
        if asyncio.get_running_loop().time() - taken.at < self._takeover_s / 4:
            return True
        try:
            return await taken.ended.hold()
        except BrokerUnavailable as error:
            await asyncio.sleep(self._outage.failed(error))
            return False  # it stays in this consumer's name, and is taken over in time

    async def _pass(self, taken: _Taken) -> None:
        """Acknowledge what is not wanted. If the server is away: it comes again."""
        with suppress(BrokerUnavailable):
            await taken.ended.ack()

    async def _leave(self) -> None:
        """Give back what was not yielded; a consumer that holds nothing is forgotten."""
        await self._disconnect()
        member = self._member
        left: dict[str, list[str]] = {stream: [] for stream in self._begins}
        for taken in self._taken:
            left[taken.stream].append(taken.entry_id)
        self._taken.clear()
        with suppress(TailraceError):
            for stream, entry_ids in left.items():
                idle_ms = round(self._takeover_s * 1000) + 1
                await member.broker.queue.run(
                    RELEASE, [stream], [member.group, member.consumer, idle_ms, 1, "1", *entry_ids]
                )

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)


def _pairs(fields: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(fields[::2], fields[1::2], strict=False))
