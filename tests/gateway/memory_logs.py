"""Logs in memory, as a worker would write them; and a consumer of one that grows while it is read."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import cast

from tailrace.consumer import Consumer
from tailrace.gateway.streams import Channels
from tailrace.joblog import Batch
from tailrace.schemas import (
    END,
    FIRST,
    START,
    AttemptRecord,
    EndRecord,
    Entry,
    EventRecord,
    JobRecord,
    Position,
    RewindRecord,
    Status,
    parse_position,
    position,
)


class MemoryLog:
    """A job's log."""

    def __init__(self, *, tenant: str | None = None) -> None:
        job = JobRecord(position=FIRST, digest="d", incarnation="i", retention_ms=1, api="chat", tenant=tenant)
        self.entries = [Entry(FIRST, "job", job.value())]
        self._epoch, self._seq = 0, 1

    @property
    def positions(self) -> list[str]:
        return [entry.position for entry in self.entries]

    def attempt(self) -> None:
        self._epoch, self._seq = self._epoch + 1000, 0
        at, after = position(self._epoch, 0), self.entries[-1].position
        record = AttemptRecord(
            position=at, attempt=1, worker="w", nonce="n", incarnation="i", ts=self._epoch, after=after
        )
        self.entries.append(Entry(at, "attempt", record.value()))

    def add(self, field: str, value: str) -> Position:
        self._seq += 1
        self.entries.append(Entry(position(self._epoch, self._seq), field, value))
        return self.entries[-1].position

    def chunk(self, text: str) -> Position:
        return self.add("chunk", text)

    def rewind(self, to: Position) -> None:
        self.add("rewind", RewindRecord(position=END, run=0, to=to).value())

    def start(self, kind: str, run: int, parents: list[int]) -> None:
        record = EventRecord(
            position=END, run=run, event=f"on_{kind}_start", run_id=f"run-{run}", name=kind, parents=parents, ts=1
        )
        self.add("event", record.value())

    def end(self) -> None:
        record = EndRecord(status=Status.COMPLETED, last=self.entries[-1].position, ts=99)
        self.entries.append(Entry(END, "end", record.value()))


def a_log(chunks: int) -> MemoryLog:
    """A job that completed."""
    log = MemoryLog()
    log.attempt()
    for number in range(chunks):
        log.chunk(f"{number} ")
    log.end()
    return log


class Scripted:
    """A consumer of one log, of which only a part is there yet; `cuts` says how many records come in a batch."""

    def __init__(self, log: MemoryLog, cuts: Callable[[], int] = lambda: 3) -> None:
        self._entries, self._cuts = log.entries, cuts
        self.there = 0
        self.follows = 0
        self.failure: Exception | None = None
        self._grown = asyncio.Event()

    @property
    def whole(self) -> bool:
        return self.there == len(self._entries)

    def grow(self, by: int) -> None:
        self.there = min(self.there + by, len(self._entries))
        self._grown.set()
        self._grown = asyncio.Event()

    def fail(self, error: Exception) -> None:
        """Whoever has read what is there gets this."""
        self.failure = error
        self.grow(0)

    async def follow(self, _: str, *, after: Position = START) -> AsyncGenerator[Batch]:
        self.follows += 1
        asked, at = parse_position(after), 0
        while at < len(self._entries):
            while at == self.there:
                if self.failure is not None:
                    raise self.failure
                await self._grown.wait()
            await asyncio.sleep(0)
            some = self._entries[at : min(at + max(1, self._cuts()), self.there)]
            at += len(some)
            before = [entry for entry in some if parse_position(entry.position) <= asked]
            if before:
                yield Batch(before, fresh=False)
            if some[len(before) :]:
                yield Batch(some[len(before) :], fresh=True)

    def channels(self, kept_bytes: int = 1024 * 1024) -> Channels:
        return Channels(cast("Consumer", self), kept_bytes=kept_bytes)


def ids(lines: bytes | None) -> list[str]:
    """The ids of events as lines of JSON."""
    return [json.loads(line)["id"] for line in (lines or b"").splitlines()]
