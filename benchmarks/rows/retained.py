"""What submit, pick-up, status and sweep cost while many finished jobs are kept on the server.

A job is run to its end, then copied as often as it takes (request, tombstone of the log, snapshot, with their times to live,
and the entry that hands it off); copies are what is read. Each cost is measured with one client and one idle worker. Beside: the
same with one finished job. The server is one of its own. BENCH_RETAINED sets how many jobs are kept at the end.
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from benchmarks.figures import Curve, Figure, Measured, figure, median
from benchmarks.harness import Bench
from benchmarks.processes import Child
from benchmarks.rows.row import Row
from tailrace import AsyncTailrace, Status
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.worker.sweep import sweep

_NAMESPACE: Final = "retained"
_MOST: Final = "BENCH_RETAINED"
_LEVELS: Final = (1, 200, 2000, 20_000, 200_000)
#: Copies that one script makes: some 3 ms.
_AT_ONCE: Final = 500
_MODEL: Final = "rehearsal:tokens=1"
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = (0.002, 0.01)
_COPY: Final = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  for key = 2, #KEYS do
    redis.call('COPY', KEYS[key], (string.gsub(KEYS[key], '{.*}', '{' .. ARGV[3] .. i .. '}')))
  end
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'job', ARGV[3] .. i, 'status', 'completed')
end
"""


class _Kept:
    """The server with its finished jobs, one worker and one client."""

    def __init__(self, tailrace: AsyncTailrace, worker: Child) -> None:
        self._tailrace, self._worker = tailrace, worker
        self._samples: dict[str, list[float]] = {}
        self._first = ""
        self._count = 1

    async def begin(self) -> None:
        """The one that is copied, and everything warm."""
        await self._submit_and_pick_up()
        self._first = await self._submit_and_pick_up()
        await self._handed_off()

    async def keep(self, count: int) -> None:
        """Copy until there are so many."""
        keys, broker = self._tailrace.settings.keys, self._tailrace.broker
        names = (keys.ended, keys.request(self._first), keys.log(self._first), keys.snapshot(self._first))
        for at in range(self._count, count, _AT_ONCE):
            last = min(at + _AT_ONCE, count) - 1
            await broker.call("EVAL", _COPY, len(names), *names, at, last, "kept-", keys.ended_kept)
        self._count = count
        if count > 1 and await self._tailrace.job(self._any()).status() is not Status.COMPLETED:
            raise RuntimeError("a copy of a finished job is none")

    async def costs(self, samples: int) -> dict[str, list[float]]:
        """Milliseconds of each."""
        self._samples = {}
        for _ in range(samples):
            await asyncio.sleep(random.uniform(*_PAUSE_S))
            await self._submit_and_pick_up()
            await self._handed_off()
            await self._timed("status", self._tailrace.job(self._any()).status)
            await self._timed("result", self._tailrace.job(self._any()).result)
            await self._timed("sweep", lambda: sweep(self._tailrace.broker, self._tailrace.settings.keys))
        return self._samples

    async def _submit_and_pick_up(self) -> str:
        began = time.monotonic_ns()
        job = await self._tailrace.submit("keep this", model=_MODEL, retention=3600.0)
        self._add("submit", (time.monotonic_ns() - began) / 1e6)
        self._add("submit -> handler", (await self._worker.stamp(job.id) - began) / 1e6)
        await job.result()
        return job.id

    async def _handed_off(self) -> None:
        """The worker has nothing left to do."""
        broker, keys = self._tailrace.broker, self._tailrace.settings.keys
        give_up = time.monotonic() + _PATIENCE_S
        while await broker.call("ZCARD", keys.open) or await broker.call("ZCARD", keys.queue):
            if time.monotonic() > give_up:
                raise RuntimeError("a job that has ended was not handed off")
            await asyncio.sleep(0.001)

    async def _timed(self, what: str, call: Callable[[], Awaitable[Any]]) -> None:
        began = time.monotonic_ns()
        await call()
        self._add(what, (time.monotonic_ns() - began) / 1e6)

    def _any(self) -> str:
        return self._first if self._count == 1 else f"kept-{random.randrange(1, self._count)}"

    def _add(self, what: str, milliseconds: float) -> None:
        self._samples.setdefault(what, []).append(milliseconds)


async def measure(bench: Bench) -> Measured:
    most = int(os.environ.get(_MOST, 20_000)) if not bench.quick else 200
    levels = [level for level in _LEVELS if level < most] + [most]
    samples = bench.scaled(60, 3)
    found: dict[int, dict[str, list[float]]] = {}
    server = EmbeddedServer(private=True)
    await asyncio.to_thread(server.__enter__)
    try:
        own = replace(bench, redis_url=server.tcp_url)
        async with (
            own.tailrace_worker(_NAMESPACE) as worker,
            AsyncTailrace(settings=own.settings(_NAMESPACE)) as tailrace,
        ):
            kept = _Kept(tailrace, worker)
            await kept.begin()
            for level in levels:
                await kept.keep(level)
                found[level] = await kept.costs(samples)
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
    return Measured(
        _figures(levels, found),
        (
            f"with {levels[-1]:,} finished jobs on the server, beside the same with one: the ratio is one where it is flat",
        ),
        tuple(
            Curve(
                "tailrace", what, "ms", "retained jobs", tuple((level, median(found[level][what])) for level in levels)
            )
            for what in found[levels[0]]
        ),
    )


def _figures(levels: list[int], found: dict[int, dict[str, list[float]]]) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    for what in found[levels[0]]:
        alone = figure("tailrace, one job kept", what, [found[levels[0]][what]])
        figures.append(figure("tailrace", what, [found[levels[-1]][what]], against=alone))
        figures.append(alone)
    return tuple(figures)


ROW: Final = Row("retained", "costs over retained jobs", measure)
