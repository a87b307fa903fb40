"""A reader that comes late to an answer of 5,000 chunks and takes all of it, chunk by chunk.

The job has ended (a snapshot is read) or still runs (the log is read, in pages). Beside: one XRANGE over a stream of the same
chunks as JSON objects, each decoded. The connections of all sides are open; all readers run in one process, in turns.
"""

import json
import time
from contextlib import aclosing
from typing import Any, Final

from benchmarks.figures import Bar, Figure, Measured, figure
from benchmarks.harness import Bench
from benchmarks.live_writer import naive_token
from benchmarks.logs import Pen, tokens
from benchmarks.rows.row import Row
from tailrace import AsyncJob, AsyncTailrace

_NAMESPACE: Final = "late-join"
_NAIVE_KEY: Final = "bench-late-join-naive"
_ENDED: Final = "stream() of an ended job"
_LIVE: Final = "stream() of a live job"
_RECORDS: Final = "records() of an ended job"
_NAIVE: Final = "XRANGE, JSON"


async def measure(bench: Bench) -> Measured:
    chunks, rounds, samples = bench.scaled(5000, 100), bench.scaled(5, 1), bench.scaled(20, 3)
    found: dict[str, list[list[float]]] = {what: [] for what in (_ENDED, _LIVE, _RECORDS, _NAIVE)}
    async with AsyncTailrace(settings=bench.settings(_NAMESPACE)) as tailrace:
        redis: Any = tailrace.broker.redis
        ended, live = await _jobs(tailrace, chunks)
        await _store_naively(redis, chunks)
        for number in range(rounds + 1):
            taken: dict[str, list[float]] = {what: [] for what in found}
            for _ in range(samples):
                taken[_ENDED].append(await _stream(ended, chunks))
                taken[_NAIVE].append(await _xrange(redis, chunks))
                taken[_LIVE].append(await _stream(live, chunks))
                taken[_RECORDS].append(await _records(ended, chunks))
            if number:  # the first round warms everything up
                for what, milliseconds in taken.items():
                    found[what].append(milliseconds)
    naive = figure("naive", _NAIVE, found[_NAIVE])
    ours: list[Figure] = []
    for what in (_ENDED, _LIVE, _RECORDS):
        # The bar is for reading all chunks; records() makes a model of each on top.
        bars: dict[str, Any] = {} if what == _RECORDS or bench.quick else {"bar": Bar(20), "stretch": Bar(5)}
        ours.append(figure("tailrace", what, found[what], against=naive, **bars))
    return Measured((*ours, naive), (f"{chunks:,} chunks; until the last one is there",))


async def _jobs(tailrace: AsyncTailrace, chunks: int) -> tuple[AsyncJob, AsyncJob]:
    """One that has ended and one that has not, with the same text."""
    broker, keys = tailrace.broker, tailrace.settings.keys
    pens = [await Pen.submitted(broker, keys) for _ in range(2)]
    for pen in pens:
        await pen.write_all(tokens(chunks))
    await pens[0].finish()
    return tailrace.job(pens[0].job_id), tailrace.job(pens[1].job_id)


async def _store_naively(redis: Any, chunks: int) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for text in tokens(chunks):
            pipeline.xadd(_NAIVE_KEY, {"data": naive_token(_NAIVE_KEY, text)})
        pipeline.expire(_NAIVE_KEY, 3600)
        await pipeline.execute()


async def _stream(job: AsyncJob, chunks: int) -> float:
    """Milliseconds until as many chunks have come."""
    began, count = time.perf_counter_ns(), 0
    async with aclosing(job.stream()) as stream:
        async for _ in stream:
            count += 1
            if count == chunks:
                return (time.perf_counter_ns() - began) / 1e6
    raise RuntimeError(f"{count} chunks instead of {chunks}")


async def _records(job: AsyncJob, chunks: int) -> float:
    began, count = time.perf_counter_ns(), 0
    async with aclosing(job.records()) as records:
        async for record in records:
            count += record.kind == "chunk"
            if count == chunks:
                return (time.perf_counter_ns() - began) / 1e6
    raise RuntimeError(f"{count} chunks instead of {chunks}")


async def _xrange(redis: Any, chunks: int) -> float:
    began, count = time.perf_counter_ns(), 0
    for _, fields in await redis.xrange(_NAIVE_KEY):
        count += json.loads(fields[b"data"])["content"] is not None
    if count != chunks:
        raise RuntimeError(f"{count} chunks instead of {chunks}")
    return (time.perf_counter_ns() - began) / 1e6


ROW: Final = Row("late-join", "a late reader of 5,000 chunks", measure)
