"""A job's stream for many readers: followed, folded and encoded once; every reader takes it at its own pace.

A channel keeps the last part of its stream, a reader is a place in it. Whoever asks for an older place, or falls behind
what is kept, gets a channel of its own that reads the log again and waits for its one reader; it moves over when both
are at the same record. So a slow reader costs the others nothing, and nobody ever waits for a reader at the source.
"""

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final, Protocol

from tailrace.consumer import Consumer
from tailrace.gateway.errors import StreamBroken
from tailrace.gateway.streams.frames import Encoded, Kind, StreamCut
from tailrace.gateway.streams.ring import Ring
from tailrace.joblog import Batch
from tailrace.joblog.tasks import end
from tailrace.schemas import START, Position, TailraceError

logger = logging.getLogger(__name__)

#: How much a channel of one reader has ready for it.
_AHEAD_BYTES: Final = 128 * 1024
#: How long a reader waits to hear that its position is in the log. Where the server has lost that tail nobody can tell
#: before a writer has written again, and the reader may wait for that on an open stream.
READY_S: Final = 6.0


class Source(Protocol):
    """What a response sends."""

    async def next(self) -> bytes | None:
        """The next whole events; None after the last one. Raises: StreamBroken."""
        ...


class _Channel:
    """One job's stream of one kind, being followed."""

    def __init__(
        self, consumer: Consumer, job_id: str, kind: Kind, kept_bytes: int, *, after: Position = START, skip: int = 0
    ) -> None:
        self._consumer, self._job_id, self._kind = consumer, job_id, kind
        self._after, self._skip = after, skip
        self.ring = Ring(kept_bytes, after)
        self.at = after
        """The record that it has got to."""
        self.done = False
        self.failure: Exception | None = None
        self.readers = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, *, patient: bool) -> None:
        """Begin to follow. `patient`: wait for the reader while the ring is full, instead of forgetting what it has not read."""
        self._task = asyncio.create_task(self._run(patient=patient), name=f"tailrace-channel-{self._job_id}")

    async def aclose(self) -> None:
        if self._task is not None:
            await end({self._task})

    def for_one(self, after: Position, skip: int) -> "_Channel":
        """The same stream for one reader, from a position on, without the first `skip` events."""
        channel = _Channel(self._consumer, self._job_id, self._kind, _AHEAD_BYTES, after=after, skip=skip)
        channel.start(patient=True)
        return channel

    async def ready(self) -> None:
        """Wait until the stream can be read, or need not be waited for. Raises: what stands in its way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                await self._ready.wait()
        if self.failure is not None and self.ring.next == 0:
            # A copy: the same one is raised to every reader, and each raise adds to its traceback.
            raise copy.copy(self.failure) if isinstance(self.failure, TailraceError) else self.failure

    async def more(self) -> None:
        """Wait until there is more to read, or nothing more to wait for."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def took(self, number: int) -> None:
        """A patient channel's reader has read up to a number."""
        self.ring.forget(number)
        if not self.ring.full:
            self._room.set()

    async def _run(self, *, patient: bool) -> None:
        encoder = self._kind.encoder(self._job_id)
        resumed = False
        try:
            async with aclosing(self._consumer.follow(self._job_id, after=self._after)) as batches:
                async for batch in batches:
                    if batch.fresh and not resumed:
                        resumed = True
                        encoder.resume(self._after)
                    self._take(batch, encoder.feed(batch.entries, show=batch.fresh))
                    if patient:
                        if self.ring.first < self._skip:
                            self.ring.forget(min(self._skip, self.ring.next))
                        while self.ring.full:
                            self._room.clear()
                            await self._room.wait()
                    else:
                        self.ring.trim()
        except StreamCut as cut:
            self.ring.extend(cut.events)
            self.failure = cut
        except Exception as error:
            if not isinstance(error, TailraceError):
                logger.exception("job %r: its stream cannot be made", self._job_id, extra={"job_id": self._job_id})
            self.failure = error
        finally:
            self.done = True
            self._ready.set()
            self._wake()

    def _take(self, batch: Batch, events: list[Encoded]) -> None:
        last = batch.entries[-1].position
        if batch.fresh:
            self.at = last
            self.ring.extend(events, last)
            self._ready.set()
            self._wake()
        elif last == self._after:
            self._ready.set()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Reader:
    """One reader of a job's stream. Made by `Channels.reader`."""

    def __init__(self, shared: _Channel, after: Position) -> None:
        self._shared = shared
        self._private: _Channel | None = None
        self._number = 0
        self._skip = 0
        self.position = after
        """What was read last; where to come back to."""

    async def begin(self, skip: int) -> None:
        """Find the place. Raises: what stands in the way of reading there."""
        await self._shared.ready()
        ring = self._shared.ring
        joint = ring.joint(self.position)
        if joint is not None and joint + skip >= ring.first:
            self._number = joint + skip
            return
        self._skip = skip
        await self._read_again()

    async def next(self) -> bytes | None:
        """Whole events in one piece, as many as there are; None after the last. Raises: StreamBroken."""
        while True:
            channel = self._private or self._shared
            ring = channel.ring
            if self._number < ring.first:
                await self._read_again()
            elif self._number < ring.next:
                return self._take(channel)
            elif channel is self._private and await self._joined(channel):
                continue
            elif not channel.done:
                await channel.more()
            elif channel.failure is not None:
                raise StreamBroken(f"{channel.failure} (at {self.position})") from channel.failure
            else:
                return None

    async def is_behind_the_last(self) -> bool:
        """Whether there is no event left to read, and none will come. Waits until that is known."""
        channel = self._private or self._shared
        while self._number >= channel.ring.next and not channel.done:
            await channel.more()
        return self._number >= channel.ring.next and channel.failure is None

    async def aclose(self) -> None:
        private, self._private = self._private, None
        if private is not None:
            await private.aclose()

    def _take(self, channel: _Channel) -> bytes:
        taken, self._number = channel.ring.read(self._number)
        self._skip = 0
        self.position = channel.ring.position_before(self._number) or self.position
        if channel is self._private:
            channel.took(self._number)
        return taken

    async def _read_again(self) -> None:
        """Read the log from the beginning, in a channel of this reader's own."""
        await self.aclose()
        self._number = self._skip
        self._private = self._shared.for_one(self.position, self._skip)
        await self._private.ready()

    async def _joined(self, private: _Channel) -> bool:
        """Go on in the shared channel, if it knows the record that the private one has got to."""
        number = self._shared.ring.joint(private.at)
        if number is None or self._shared.failure is not None:
            return False
        self._number += number - private.ring.next
        await self.aclose()
        return True


class Channels:
    """The streams that this process serves, each for as long as it has readers."""

    def __init__(self, consumer: Consumer, *, kept_bytes: int) -> None:
        self._consumer, self._kept_bytes = consumer, kept_bytes
        self._shared: dict[tuple[str, str | None, Kind], _Channel] = {}

    @asynccontextmanager
    async def reader(
        self, job_id: str, kind: Kind, *, incarnation: str | None = None, after: Position = START, skip: int = 0
    ) -> AsyncGenerator[Reader]:
        """A reader of the job's stream from just after a position, without the first `skip` events behind it.

        `incarnation` as the job record has it: the same id may be taken again, by another job.
        Raises: JobNotFound, PositionLost, HistoryLost, BrokerUnavailable, if it can be told before there is anything to read.
        """
        key = (job_id, incarnation, kind)
        channel = self._shared.get(key)
        if channel is None or channel.failure is not None:
            channel = self._shared[key] = _Channel(self._consumer, job_id, kind, self._kept_bytes)
            channel.start(patient=False)
        channel.readers += 1
        reader = Reader(channel, after)
        try:
            await reader.begin(skip)
            yield reader
        finally:
            await reader.aclose()
            channel.readers -= 1
            if not channel.readers:
                if self._shared.get(key) is channel:
                    del self._shared[key]
                await channel.aclose()
