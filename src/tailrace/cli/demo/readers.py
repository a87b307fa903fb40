"""The three readers of the demo: one from the start, one that joins late, one that is cut off and resumes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from time import time
from typing import Final

from tailrace import AsyncTailrace
from tailrace.schemas import START, Chunk, JobEnded, Position, Settings, StreamRewound

#: Chunks of the first reader after which the second one joins.
LATE: Final = 15
#: Chunks of the third reader after which its connection is dropped.
CUT: Final = 12
#: Chunks that go by before it comes back.
AWAY: Final = 15


class Came(StrEnum):
    """How a piece of text came to its reader."""

    LIVE = "live"
    CAUGHT_UP = "caught up"
    """It was there before the reader joined, or was away."""


class Change(StrEnum):
    """What happened to a reader."""

    TEXT = "text"
    STATE = "state"
    REWOUND = "rewound"
    OVER = "over"


@dataclass
class Reader:
    """What one reader has seen."""

    name: str
    title: str
    on_change: Callable[["Reader", Change], object]
    state: str = "waits for the first text"
    pieces: list[tuple[str, Came]] = field(default_factory=list[tuple[str, Came]])
    position: Position = START
    arrivals: dict[Position, float] = field(default_factory=dict[Position, float])
    """When each chunk came, seconds of this machine's clock."""
    connections: int = 0
    away: bool = False
    """Its connection was dropped."""
    over: bool = False
    ended: JobEnded | None = None

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def say(self, state: str) -> None:
        self.state = state
        self.on_change(self, Change.STATE)

    def take(self, chunk: Chunk, came: Came) -> None:
        self.pieces.append((str(chunk), came))
        self.position = chunk.position
        self.arrivals[chunk.position] = time()
        self.on_change(self, Change.TEXT)

    def rewind(self, rewound: StreamRewound) -> None:
        self.pieces[:] = [(rewound.text_before, Came.CAUGHT_UP)]
        self.position = rewound.position
        self.on_change(self, Change.REWOUND)

    def end(self) -> None:
        self.over = True
        self.on_change(self, Change.OVER)


class Pace:
    """How far the first reader is: the clock of the other two."""

    def __init__(self) -> None:
        self._moved = asyncio.Condition()
        self.chunks = 0
        self.over = False

    async def move(self, *, over: bool = False) -> None:
        async with self._moved:
            self.chunks += 0 if over else 1
            self.over = over
            self._moved.notify_all()

    async def reach(self, chunks: int) -> None:
        """Return when so many chunks have come, or no more will."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.over or self.chunks >= chunks)


class Readers:
    """Runs the three over clients of their own, so each has its own connections."""

    def __init__(self, settings: Settings, job_id: str, on_change: Callable[[Reader, Change], object]) -> None:
        self._settings, self._job_id = settings, job_id
        self._pace = Pace()
        self.first = Reader("start", "from the start", on_change)
        self.late = Reader("late", "joins late", on_change)
        self.cut = Reader("cut", "cut off, resumes", on_change)

    @property
    def all(self) -> tuple[Reader, Reader, Reader]:
        return (self.first, self.late, self.cut)

    async def read_first(self, each: Callable[[int], object]) -> None:
        """`each` is called with the number of chunks so far."""
        reader = self.first
        try:
            async with aclosing(self._chunks(reader)) as chunks:
                async for chunk in chunks:
                    self._greet(reader, "reads live")
                    reader.take(chunk, Came.LIVE)
                    await self._pace.move()
                    each(self._pace.chunks)
        finally:
            await self._pace.move(over=True)
        self._finish(reader)

    async def read_late(self) -> None:
        reader = self.late
        reader.say(f"joins when {LATE} chunks are there")
        await self._pace.reach(LATE)
        reader.say(f"joined after {self._pace.chunks} chunks, catches up")
        await self._catch_up(reader, until=self._pace.chunks)
        self._finish(reader)

    async def read_cut(self) -> None:
        reader = self.cut
        async with aclosing(self._chunks(reader)) as chunks:
            async for chunk in chunks:
                self._greet(reader, "reads live")
                reader.take(chunk, Came.LIVE)
                if len(reader.pieces) >= CUT:
                    break
        # Its client is closed now, and its connections with it: nothing of it is left but the position.
        if len(reader.pieces) < CUT:
            self._finish(reader, " (too short to be cut off)")
            return
        reader.away = True
        reader.say(f"CUT OFF after {CUT} chunks at {reader.position}")
        await self._pace.reach(self._pace.chunks + AWAY)
        reader.away = False
        reader.say(f"resumed after {reader.position}")
        await self._catch_up(reader, until=self._pace.chunks)
        self._finish(reader)

    async def _catch_up(self, reader: Reader, *, until: int) -> None:
        """Read to the end from where the reader stands; the chunks up to number `until` were there before it."""
        async with aclosing(self._chunks(reader)) as chunks:
            async for chunk in chunks:
                reader.take(chunk, Came.CAUGHT_UP if len(reader.pieces) < until else Came.LIVE)

    async def _chunks(self, reader: Reader) -> AsyncGenerator[Chunk]:
        """As `stream`, over a client of its own that is closed with it. How the job ended is remembered, not raised."""
        reader.connections += 1
        try:
            async with AsyncTailrace(settings=self._settings) as tailrace:
                job = tailrace.job(self._job_id)
                async with aclosing(job.stream(after=reader.position, on_rewind=reader.rewind)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        except JobEnded as ended:
            reader.ended = ended

    def _greet(self, reader: Reader, state: str) -> None:
        if not reader.pieces:
            reader.say(state)

    def _finish(self, reader: Reader, remark: str = "") -> None:
        caught_up = sum(came is Came.CAUGHT_UP for _, came in reader.pieces)
        how = f", {caught_up} of them caught up" if caught_up else ""
        reader.state = f"end: {len(reader.pieces)} chunks{how}{remark}"
        reader.end()
