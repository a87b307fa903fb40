"""The play itself: a worker, a job and three readers in one event loop, over one private server."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Final, TypeVar, cast

from tailrace import AsyncTailrace
from tailrace.cli.demo.readers import Reader, Readers
from tailrace.cli.demo.report import Figures, Node, event_tree
from tailrace.cli.demo.screen import Screen
from tailrace.joblog import Broker
from tailrace.schemas import ChunkRecord, JobEnded, Settings, TailraceError
from tailrace.worker.app import Worker

T = TypeVar("T")

_SNAPSHOT_PATIENCE_S: Final = 3.0
#: Chunks between two looks at the log's size.
_WEIGHED_EVERY: Final = 8


@dataclass(frozen=True, slots=True)
class Performance:
    """What the demo has to tell afterwards."""

    job_id: str
    text: str
    readers: tuple[Reader, Reader, Reader]
    tree: Node
    figures: Figures
    ended: JobEnded | None
    """Why the job did not end well."""


@asynccontextmanager
async def _working(settings: Settings) -> AsyncGenerator[None]:
    """A worker beside the block; if it dies, so does the block."""
    async with Worker(settings) as worker, asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        try:
            yield
        finally:
            await worker.drain(0)


async def perform(settings: Settings, request: dict[str, Any], screen: Screen) -> Performance:
    """Run it all; returns when the job has ended and every reader has read it."""
    try:
        async with _working(settings), AsyncTailrace(settings=settings) as tailrace:
            submitted = time()
            job = await tailrace.submit(**request)
            readers = Readers(settings, job.id, screen.changed)
            scales = _Scales(tailrace.broker, settings, job.id)
            with screen.showing(readers.all):
                async with asyncio.TaskGroup() as group:
                    group.create_task(scales.run())
                    group.create_task(readers.read_late())
                    group.create_task(readers.read_cut())
                    await readers.read_first(scales.nudge)
                    scales.stop()
            return await _told(tailrace, job.id, readers, scales, submitted)
    except BaseExceptionGroup as group:
        raise first_error(group) from None


def first_error(error: BaseException) -> BaseException:
    """One error of ours for the caller, or the first of what went wrong."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_error(inner) for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, TailraceError)), leaves[0])


class _Scales:
    """Weighs the log from time to time while it is written, beside the reader and not in its way."""

    def __init__(self, broker: Broker, settings: Settings, job_id: str) -> None:
        self._broker, self._keys, self._job_id = broker, settings.keys, job_id
        self._due = asyncio.Event()
        self._over = False
        self.live: tuple[int, int] | None = None
        """Bytes and records, when it was looked at last."""

    def nudge(self, chunks: int) -> None:
        if chunks % _WEIGHED_EVERY == 1:
            self._due.set()

    def stop(self) -> None:
        self._over = True
        self._due.set()

    async def run(self) -> None:
        while True:
            await self._due.wait()
            if self._over:
                return
            self._due.clear()
            weight, records = await self._weigh_log()
            # None are left once the snapshot is written.
            if records:
                self.live = weight, records

    async def finished(self) -> int | None:
        """Bytes of what is left, once the snapshot is there."""
        give_up = monotonic() + _SNAPSHOT_PATIENCE_S
        while monotonic() < give_up:
            weight = await self._weigh(self._keys.snapshot(self._job_id))
            if weight:
                return weight + (await self._weigh_log())[0]
            await asyncio.sleep(0.02)
        return None

    async def _weigh_log(self) -> tuple[int, int]:
        log = self._keys.log(self._job_id)
        return await self._weigh(log), int(await self._broker.call("XLEN", log))

    async def _weigh(self, key: str) -> int:
        return int(await self._broker.call("MEMORY USAGE", key, "SAMPLES", 0) or 0)


async def _told(
    tailrace: AsyncTailrace, job_id: str, readers: Readers, scales: _Scales, submitted: float
) -> Performance:
    job = tailrace.job(job_id)
    events, _ = await gathered(job.stream_events())
    records, ended = await gathered(job.records())
    result = ended.result if ended is not None else await job.result()
    text = result.text if result is not None else "".join(text for text, _ in readers.first.pieces)
    usage = (result.usage if result is not None else None) or {}
    first = readers.first
    times = list(first.arrivals.values())
    tokens = usage.get("completion_tokens", usage.get("output_tokens"))
    tokens = tokens if isinstance(tokens, int) and tokens > 0 else None
    spent_s = times[-1] - times[0] if len(times) > 1 else 0.0
    live = scales.live
    figures = Figures(
        first_chunk_ms=(times[0] - submitted) * 1000 if times else None,
        chunks=sum(isinstance(record, ChunkRecord) for record in records),
        tokens=tokens,
        tokens_per_s=(tokens or len(times)) / spent_s if spent_s > 0 else None,
        records=len(records),
        live_bytes=live[0] if live else None,
        live_records=live[1] if live else None,
        finished_bytes=await scales.finished(),
        same_text=all(reader.text == text for reader in readers.all),
    )
    tree = event_tree(records, events, first.arrivals)
    return Performance(job_id, text, readers.all, tree, figures, ended)


async def gathered(items: AsyncGenerator[T]) -> tuple[list[T], JobEnded | None]:
    """Everything that came, and why the job did not end well."""
    found: list[T] = []
    try:
        async with aclosing(items):
            async for item in items:
                found.append(item)  # noqa: PERF401  # what came before an error counts
    except JobEnded as ended:
        return found, ended
    return found, None
