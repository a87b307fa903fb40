"""What many readers of one job see, made once: followed and folded by a tail, and each reader has its place in it.

A tail is a chain: each link holds what the view gave for some records and leads to the next link. A reader holds the link
that it has read last and nothing else, so what all have read is gone. Readers who come at the same place find the same
tail; tails that have got to the same record of the same log become one (`Tails.settle`).

Nobody is kept waiting for anybody: a tail goes on while one of its readers keeps up, and the others are cut off with their
position once they are too far behind; they read the log again, in a tail of their own. If none keeps up, the tail waits for
the first who wants more, and then reads the log from where it stands.
"""

import asyncio
import weakref
from collections.abc import Coroutine, Hashable
from contextlib import aclosing
from typing import Any, Final, Generic, Self, TypeVar

from tailrace.consumer.channels import BUFFERED_CHARACTERS, Channel, LiveFeed, News
from tailrace.consumer.hub import Hub
from tailrace.consumer.links import CUT, OPEN, OVER, PAUSED, Kind, Link
from tailrace.joblog import Batch, Broker, Follower, Look, Publication
from tailrace.joblog.tasks import end
from tailrace.schemas import EndRecord, Keys, Position, TailraceError
from tailrace.views import View

T = TypeVar("T")

#: What a link weighs beside its characters, for each record: about the bytes of a chunk, its position and its list.
_RECORD_WEIGHT: Final = 256
#: A tail that nobody keeps up with stops here; who is so far behind the others is cut off.
_MOST: Final = BUFFERED_CHARACTERS
#: How much of the log is read in advance of the readers: two pages of short chunks.
_AHEAD: Final = 512 * 1024
#: The beginning of a tail is kept while it weighs no more than this, and for so long after the log was read: a thousand
#: readers who come together read the log once, and a thousand jobs do not keep what nobody will ask for.
_BEGINNING: Final = 32 * 1024
_BEGINNING_S: Final = 1.0

_Place = tuple[str, Hashable, Position, str | None]


class Tail(Generic[T]):
    """One follower and one view of a job, and the end of the chain that they make."""

    # Who came on its own way and was taken in keeps its tail: it should be small.
    __slots__ = (
        "_channel", "_follower", "_mark", "_missed", "_resumed", "_room", "_since_mark", "_tails", "_task", "_unread", "_view",
        "_waiting", "_weight", "after", "done", "ends", "failure", "first", "job_id", "kind", "merged", "place", "readers",
    )  # fmt: skip

    def __init__(self, tails: "Tails", job_id: str, kind: Kind[T], after: Position, incarnation: str | None) -> None:
        self._tails, self.job_id, self.kind, self.after = tails, job_id, kind, after
        self._follower = Follower(tails.broker, tails.keys, job_id, after=after, incarnation=incarnation)
        self._view = kind.view()
        self.place: _Place = job_id, kind.key, after, incarnation
        self._resumed = False
        self.first: Link[T] | None = Link([], after, plain=True)
        """Where readers begin; kept while the chain is short and new."""
        self.ends: list[Link[T]] = [self.first]
        """Where readers wait; more than one where tails have become one."""
        self._mark: weakref.ref[Link[T]] | None = None
        self._weight = self._since_mark = self._unread = 0
        self.readers = 0
        self.merged: Tail[T] | None = None
        self.failure: Exception | None = None
        self.done = False
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting = LiveFeed()
        self._room: asyncio.Future[None] | None = None
        self._missed = False

    @property
    def root(self) -> "Tail[T]":
        """The tail that this one is part of."""
        tail = self
        while tail.merged is not None:
            tail = tail.merged
        return tail

    @property
    def end(self) -> EndRecord | None:
        return self._view.end

    @property
    def at(self) -> Position:
        return self._follower.at

    @property
    def incarnation(self) -> str | None:
        return self._follower.incarnation

    @property
    def straight(self) -> bool:
        return self._follower.straight

    @property
    def live(self) -> bool:
        """Whether it has taken everything that it knows of."""
        return self._task is None and not self.done and self.merged is None

    def goes_with(self, other: "Tail[T]") -> bool:
        """Whether both have given, and will give, the same."""
        return (
            self.live
            and other.live
            and self.straight
            and other.straight
            and self.at == other.at
            and self.incarnation == other.incarnation
        )

    def start(self) -> None:
        self._channel = self._tails.hub.listen(self.job_id, self)
        self._work_on(Look(top=None))

    def push(self, item: News) -> None:
        """Take what the channel brings."""
        if self._task is not None:
            # Who is paused looks at the log afterwards anyway.
            if self._room is not None:
                self._missed = True
            else:
                self._waiting.push(item)
        elif not self.done and self.merged is None:
            try:
                rest = self._take(item)
            except Exception as error:  # also a view's: it is what a reader of its own would get
                self.finish(error)
                return
            if self._follower.ended:
                self.finish()
            elif rest is not None or self._unread > _MOST:
                self._work_on(rest or Look(top=None))
            else:
                self._tails.settle(self)

    def wanted(self) -> None:
        """A reader has read everything there is."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
            self._pause(OPEN)

    def absorb(self, other: "Tail[T]") -> None:
        """Become one with a tail that goes with this one."""
        self.ends += other.ends
        self.readers += other.readers
        other.merge_into(self)

    def merge_into(self, root: "Tail[T]") -> None:
        """From here on this tail stands for another one."""
        self.ends, self.merged = [], root
        self.leave()
        # The readers hold this tail, and need not hold what it was made with.
        self._follower, self._view, self._waiting = root.making

    @property
    def making(self) -> "tuple[Follower, View[T], LiveFeed]":
        return self._follower, self._view, self._waiting

    def finish(self, failure: Exception | None = None) -> None:
        """There will be nothing more."""
        self.failure, self.done = failure, True
        for link in self.ends:
            link.state = OVER
            link.wake()
        self.leave()

    def close(self) -> None:
        """The last reader has left."""
        self.done = True
        if self._task is not None:
            self._task.cancel()
        for link in self.ends:
            link.wake()
        self.leave()

    def leave(self) -> None:
        """Hear nothing more; be found no more."""
        self._forget_first()
        self._tails.forget(self)
        if self._channel is not None:
            self._tails.hub.leave(self._channel, self)
            self._channel = None

    def _work_on(self, news: Publication | Look) -> None:
        self._task = self._tails.run(self._work(news))

    async def _work(self, news: Publication | Look | None) -> None:
        """Do what cannot be done at once, until everything is taken."""
        try:
            if self._channel is not None:
                await self._tails.hub.confirmed(self._channel)
            while news is not None and not self._follower.ended:
                await self._pace(_MOST)
                async with aclosing(self._follower.attend(news)) as batches:
                    async for batch in batches:
                        self._show(batch)
                        if not self._follower.ended:
                            await self._pace(_AHEAD)
                news = self._rest()
        except Exception as error:  # also a view's: it is what a reader of its own would get
            self._task = None
            self.finish(error)
        else:
            self._task = None
            if self._follower.ended:
                self.finish()
            else:
                if self.first is not None:
                    asyncio.get_running_loop().call_later(_BEGINNING_S, self._forget_first)
                self._tails.settle(self)

    def _rest(self) -> Publication | Look | None:
        """Take what came meanwhile; what of it must be attended to."""
        if self._missed:
            self._missed = False
            return Look(top=None)
        while len(self._waiting) and not self._follower.ended:
            rest = self._take(self._waiting.take())
            if rest is not None:
                return rest
            if self._unread > _MOST:
                return Look(top=None)
        return None

    def _take(self, item: News) -> Publication | Look | None:
        """Take what can be taken at once; the item, if it cannot."""
        if isinstance(item, TailraceError):
            raise item
        batches = self._follower.take(item)
        if batches is None:
            return item
        for batch in batches:
            self._show(batch)
        return None

    def _show(self, batch: Batch) -> None:
        """Fold records; a link of what they give."""
        if batch.fresh and not self._resumed:
            self._resumed = True
            self._view.resume(self.after)
        if self.first is not None and self._follower.went_back:
            self._forget_first()  # who comes now is not told of what was lost before
        entries = batch.entries
        items = self._view.feed(entries, show=batch.fresh)
        if items:
            weight = _RECORD_WEIGHT * len(entries)
            for entry in entries:
                weight += len(entry.value)
            self._link(Link(items, entries[-1].position, plain=self.kind.plain(items)), weight)

    def _link(self, link: Link[T], weight: int) -> None:
        kept_up = False
        for last in self.ends:
            last.next = link
            kept_up = last.wake() or kept_up
        self.ends = [link]
        self._unread = weight if kept_up else self._unread + weight
        self._since_mark += weight
        if self._since_mark > _MOST // 2:
            # Between the mark and the end is half of what readers may be behind: who has not come to the mark is cut off there.
            mark = self._mark() if self._mark is not None else None
            if mark is not None:
                mark.next, mark.state = None, CUT
            self._mark, self._since_mark = weakref.ref(link), 0
        if self.first is not None:
            self._weight += weight
            if self._weight > _BEGINNING or (self.kind.acts and not link.plain):
                self._forget_first()

    def _forget_first(self) -> None:
        self.first = None
        self._tails.forget_first(self)

    async def _pace(self, most: int) -> None:
        """Wait for a reader who wants more, if there is so much that nobody has read."""
        while self._unread > most:
            if any(link.waiting for link in self.ends):
                self._unread = 0
                return
            self._room = asyncio.get_running_loop().create_future()
            self._pause(PAUSED)
            try:
                await self._room
                self._unread = 0
            finally:
                self._room = None
                self._pause(OPEN)

    def _pause(self, state: int) -> None:
        for link in self.ends:
            link.state = state


class Tails:
    """The tails of one process: one for each job and kind, and those that are on their way there."""

    def __init__(self, broker: Broker, keys: Keys, hub: Hub) -> None:
        self.broker, self.keys, self.hub = broker, keys, hub
        self._shared: dict[tuple[str, Hashable], Tail[Any]] = {}
        self._first: dict[_Place, Tail[Any]] = {}
        self._open: dict[tuple[str, Hashable], dict[Tail[Any], None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut = 0
        """How many readers were cut off so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for tail in self.opened:
            tail.finish(TailraceError(f"the client was closed while job {tail.job_id!r} was read"))
        await end(self._tasks)

    @property
    def opened(self) -> list[Tail[Any]]:
        """Those that follow a log."""
        return [tail for alike in self._open.values() for tail in alike]

    @property
    def readers(self) -> int:
        """How many there are."""
        return sum(tail.readers for tail in self.opened)

    def enter(
        self, job_id: str, kind: Kind[T], after: Position, *, incarnation: str | None = None
    ) -> tuple[Tail[T], Link[T]]:
        """A reader's place just after a position; `leave` it. `incarnation` as for `Follower`. Raises: InvalidRequest."""
        place = job_id, kind.key, after, incarnation
        tail: Tail[T] | None = self._first.get(place)
        link = tail.first if tail is not None else None
        if tail is None or link is None:
            tail = self._shared.get((job_id, kind.key))
            if tail is not None and tail.live and tail.at == after and incarnation in (None, tail.incarnation):
                link = tail.ends[0]
            else:
                tail = Tail(self, job_id, kind, after, incarnation)
                link = tail.ends[0]
                self._first[place] = tail
                self._open.setdefault((job_id, kind.key), {})[tail] = None
                tail.start()
        tail.readers += 1
        if tail.live:
            # Who reads the log again sees what was not heard; who does not should not have to wait for it.
            tail.push(Look(top=None))
        return tail, link

    def leave(self, tail: Tail[Any]) -> None:
        """A reader leaves its place."""
        tail = tail.root
        tail.readers -= 1
        if not tail.readers:
            tail.close()

    def settle(self, tail: Tail[Any]) -> None:
        """Make a tail that has taken everything the shared one, or part of it.

        Not one that has taken records which the server lost: what its view remembers of them nobody else's does.
        """
        key = tail.job_id, tail.kind.key
        shared = self._shared.get(key)
        if shared is None and tail.straight:
            shared = self._shared[key] = tail
        if shared is not tail:
            if shared is not None and shared.goes_with(tail):
                shared.absorb(tail)
        elif not tail.straight:
            del self._shared[key]
        elif len(self._open[key]) > 1:
            for other in tuple(self._open[key]):
                if other is not tail and tail.goes_with(other):
                    tail.absorb(other)

    def forget(self, tail: Tail[Any]) -> None:
        key = tail.job_id, tail.kind.key
        if self._shared.get(key) is tail:
            del self._shared[key]
        alike = self._open.get(key)
        if alike is not None:
            alike.pop(tail, None)
            if not alike:
                del self._open[key]

    def forget_first(self, tail: Tail[Any]) -> None:
        if self._first.get(tail.place) is tail:
            del self._first[tail.place]

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="tailrace-tail")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
