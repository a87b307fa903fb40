"""kill -9 of a worker in the middle of an answer: how long its job's readers hear nothing of a next attempt.

A second worker stands by. The kill comes at a random moment of the lease's renewal; the clock stops when the reader sees
the next attempt's record. Beside: stock arq, whose claim of a dead worker runs out `job_timeout + 10` s after it was
made; 310 s by default, too long to wait for here, so it is measured with a short job_timeout, and 310 is that rule.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any, Final

from arq.connections import RedisSettings, create_pool

from benchmarks import arq_worker
from benchmarks.commands import command
from benchmarks.figures import Bar, Figure, Measured, figure
from benchmarks.harness import Bench
from benchmarks.processes import Child
from benchmarks.rows.row import Row
from tailrace import AsyncJob, AsyncTailrace
from tailrace.schemas import AttemptRecord, ChunkRecord

#: An answer that is not over before the kill and what follows it are.
_LONG_ANSWER: Final = "rehearsal:tokens=100000,pace=0.02"
_ARQ_TIMEOUT_S: Final = 1
_ARQ_GRACE_S: Final = 10
_ARQ_DEFAULT_TIMEOUT_S: Final = 300


async def measure(bench: Bench) -> Measured:
    lease_s = 0.5 if bench.quick else 5.0
    # Kills are independent and mostly waiting: several chains of workers at once.
    chains, kills = bench.scaled(4, 1), bench.scaled(6, 1)
    async with asyncio.TaskGroup() as tasks:
        standby = [tasks.create_task(_chain(bench, f"kill-{n}", lease_s, kills)) for n in range(chains)]
        supervised = tasks.create_task(_supervised(bench, lease_s, bench.scaled(6, 1)))
        stock = None if bench.quick else tasks.create_task(_stock(bench))
    # A smoke run's lease is not the one that the bar is for.
    bars: dict[str, Any] = {} if bench.quick else {"bar": Bar(7)}
    ruled = _ARQ_DEFAULT_TIMEOUT_S + _ARQ_GRACE_S
    of_default = figure("stock arq", "by its rule, job_timeout 300 s (its default)", [[ruled]], unit="s")
    figures: list[Figure] = [
        figure(
            "tailrace",
            f"a worker stands by, lease {lease_s:g} s",
            _by_round([task.result() for task in standby]),
            unit="s",
            stretch=Bar(4),
            **bars,
            against=of_default,
        ),
        figure(
            "tailrace",
            f"worker --processes 2, lease {lease_s:g} s",
            [supervised.result()],
            unit="s",
            stretch=Bar(1),
            **bars,
            against=of_default,
        ),
        of_default,
    ]
    if stock is not None:
        figures.append(figure("stock arq", f"measured, job_timeout {_ARQ_TIMEOUT_S} s", [stock.result()], unit="s"))
    return Measured(
        tuple(figures), ("until a reader sees the next attempt's record; the kill comes at a random moment",)
    )


def _by_round(chains: list[list[float]]) -> list[list[float]]:
    return [list(samples) for samples in zip(*chains, strict=True)]


async def _chain(bench: Bench, namespace: str, lease_s: float, kills: int) -> list[float]:
    """Kill a worker that another one stands by for; that one is the next to be killed."""
    silences: list[float] = []
    async with (
        AsyncTailrace(settings=bench.settings(namespace, lease_s=lease_s)) as tailrace,
        AsyncExitStack() as workers,
    ):
        working: Child = await workers.enter_async_context(bench.tailrace_worker(namespace, lease_s=lease_s))
        for _ in range(kills):
            job = await tailrace.submit("go on", model=_LONG_ANSWER)
            await _answering(job)
            next_one = await workers.enter_async_context(bench.tailrace_worker(namespace, lease_s=lease_s))
            await asyncio.sleep(random.uniform(0, lease_s))
            silences.append(await _silence(job, working.kill))
            working = next_one
            await _over(job)
    return silences


async def _supervised(bench: Bench, lease_s: float, kills: int) -> list[float]:
    """Kill the child that has the job; its sibling, or the one that takes its place, goes on."""
    silences: list[float] = []
    namespace = "kill-supervised"
    async with (
        command(bench.settings_table(namespace, lease_s=lease_s), "worker", "--processes", "2"),
        AsyncTailrace(settings=bench.settings(namespace, lease_s=lease_s)) as tailrace,
    ):
        for _ in range(kills):
            job = await tailrace.submit("go on", model=_LONG_ANSWER)
            pid = int((await _answering(job)).rsplit("-", 2)[1])  # a worker is called <host>-<pid>-<random>
            await asyncio.sleep(random.uniform(lease_s, 2 * lease_s))  # the one that was killed before is back
            silences.append(await _silence(job, partial(os.kill, pid, signal.SIGKILL)))
            await _over(job)
    return silences


async def _answering(job: AsyncJob) -> str:
    """Wait until the answer comes; the name of the worker that gives it."""
    worker = ""
    async with aclosing(job.records()) as records:
        async for record in records:
            if isinstance(record, AttemptRecord):
                worker = record.worker
            elif isinstance(record, ChunkRecord):
                return worker
    raise RuntimeError("the answer was over too soon")


async def _silence(job: AsyncJob, kill: Callable[[], object]) -> float:
    """Seconds from the kill to the next attempt's record at a reader that follows all the time."""
    listening = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        seen = tasks.create_task(_second_attempt(job, listening))
        await listening.wait()
        killed = time.monotonic()
        kill()
    return seen.result() - killed


async def _second_attempt(job: AsyncJob, listening: asyncio.Event) -> float:
    attempts = 0
    async with aclosing(job.records()) as records:
        async for record in records:
            if isinstance(record, ChunkRecord):
                listening.set()
            elif isinstance(record, AttemptRecord):
                attempts += 1
                if attempts == 2:
                    return time.monotonic()
    raise RuntimeError("the job ended without a second attempt")


async def _over(job: AsyncJob) -> None:
    await job.cancel()


async def _stock(bench: Bench) -> list[float]:
    """Kill arq's worker right after it has claimed a job: the longest silence that its rule allows."""
    options: dict[str, Any] = {"job_timeout": _ARQ_TIMEOUT_S, "queue_name": "arq:queue:kill"}
    async with (
        await create_pool(RedisSettings.from_dsn(bench.redis_url)) as pool,
        bench.arq_worker(**options) as first,
        AsyncExitStack() as second,
    ):
        job = await pool.enqueue_job(arq_worker.FUNCTION, 60.0, _queue_name=options["queue_name"])
        if job is None:
            raise RuntimeError("arq has a job of this random id")
        await first.stamp(job.job_id)
        killed = time.monotonic_ns()
        first.kill()
        standing_by = await second.enter_async_context(bench.arq_worker(**options))
        return [(await standing_by.stamp(job.job_id) - killed) / 1e9]


ROW: Final = Row("kill", "kill -9 of a worker: silence until the next attempt writes", measure)
