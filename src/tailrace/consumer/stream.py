"""One reader's iterator over what a job's tail gives."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

from tailrace.consumer.links import CUT, PAUSED, Kind, Link
from tailrace.consumer.tails import Tail, Tails
from tailrace.schemas import END, EndRecord, Position, TailraceError, check_job_id, parse_position

T = TypeVar("T")


class Stream(AsyncGenerator[T, None], Generic[T]):
    """Items of one kind of one job from just after a position, one by one or in batches. Begins when it is first asked.

    Leaves its tail at the end, with an error, by `aclose`, or when nobody has it any more. A cancelled step takes nothing:
    the next one goes on. Raises: InvalidRequest, JobNotFound, PositionLost, HistoryLost, BrokerUnavailable; what `finish` raises.
    """

    # An instance for each of a thousand readers.
    __slots__ = (
        "__weakref__",
        "_after",
        "_job_id",
        "_kind",
        "_link",
        "_loop",
        "_over",
        "_plain",
        "_ready",
        "_tail",
        "_tails",
    )

    def __init__(self, tails: Tails, job_id: str, kind: Kind[T], after: Position) -> None:
        self._tails, self._job_id, self._kind, self._after = tails, job_id, kind, after
        self._tail: Tail[T] | None = None
        self._link: Link[T] | None = None
        self._ready: Iterator[T] = iter(())
        self._plain = True
        self._over = False

    def shown(self, items: Iterable[T]) -> Iterator[T]:
        """What this reader is given for items that cannot be shared as they are."""
        return iter(items)

    def finish(self, end: EndRecord | None) -> None:
        """The job has ended: raise what its reader gets for that."""

    async def __anext__(self) -> T:
        while True:
            try:
                for item in self._ready:
                    return item
            except BaseException:
                self._leave()
                raise
            link = self._link
            if link is None:
                self._begin()
                continue
            following = link.next
            if following is not None:
                self._link = following
                self._plain = following.plain
                if self._plain:
                    if len(following.items) == 1:
                        return following.items[0]
                    self._ready = iter(following.items)
                else:
                    self._ready = self.shown(following.items)
                continue
            if link.state:
                self._turn(link)
                continue
            waiting = self._loop.create_future()
            link.wait(waiting)
            try:
                await waiting
            except asyncio.CancelledError:
                with suppress(ValueError):
                    if link.waiting is not None:
                        link.waiting.remove(waiting)
                raise

    async def batches(self) -> AsyncGenerator[list[T]]:
        """All items that are there, whenever there are any."""
        # What takes others back is shown when its reader has had them.
        acts = self._kind.acts
        try:
            async for item in self:
                batch = [item]
                while self._plain or not acts:
                    batch += self._ready
                    link = self._link.next if self._link is not None else None
                    if link is None or len(batch) >= _BATCH or (acts and not link.plain):
                        break
                    self._link, self._ready = link, iter(link.items) if link.plain else self.shown(link.items)
                yield batch
        finally:
            self._leave()

    async def aclose(self) -> None:
        self._leave()

    async def asend(self, value: None) -> T:  # noqa: ARG002  # a generator's signature
        return await self.__anext__()

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,  # noqa: ARG002
        tb: TracebackType | None = None,  # noqa: ARG002
    ) -> NoReturn:
        self._leave()
        raise typ

    def __del__(self) -> None:
        # Whoever collects this may be another thread than the loop's.
        tail = self._tail
        if tail is not None and not self._loop.is_closed():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tails.leave, tail)

    def _begin(self) -> None:
        if self._over:
            raise StopAsyncIteration
        try:
            check_job_id(self._job_id)
            parse_position(self._after)
            if self._after == END:
                raise StopAsyncIteration
            self._loop = asyncio.get_running_loop()
            self._tail, self._link = self._tails.enter(self._job_id, self._kind, self._after)
        except BaseException:
            self._over = True
            raise

    def _turn(self, link: Link[T]) -> None:
        """There is no next link: do what there is to do instead."""
        tail = self._tail
        if tail is None:
            raise StopAsyncIteration
        tail = tail.root
        if link.state == PAUSED:
            tail.wanted()
        elif link.state == CUT:
            self._tails.cut += 1
            self._tail, self._link = self._tails.enter(
                self._job_id, self._kind, link.position, incarnation=tail.incarnation
            )
            self._tails.leave(tail)
        else:
            failure, end = tail.failure, tail.end
            self._leave()
            if failure is not None:
                raise _of_its_own(failure)
            self.finish(end)
            raise StopAsyncIteration

    def _leave(self) -> None:
        tail, self._tail, self._link, self._over = self._tail, None, None, True
        self._ready = iter(())
        if tail is not None:
            self._tails.leave(tail)


#: Of items that are there already, about so many in one batch.
_BATCH = 1000


def _of_its_own(failure: Exception) -> Exception:
    """For each reader a copy: every raise adds to an error's traceback."""
    if not isinstance(failure, TailraceError):
        return failure
    error = copy.copy(failure)
    error.__cause__ = failure.__cause__
    return error
