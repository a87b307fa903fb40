"""Several worker processes by one command, `tailrace worker --processes N`: no-op jobs and relayed tokens a second.

Nobody is kept to a core: that is how users start it. Jobs: all of them wait in the queue when the clock starts, which ends
when the queue is empty; the workers are stopped (SIGSTOP) while they are submitted. Beside: as many processes of stock arq,
by its command. Tokens: far more are due than one process can relay, every process has its share of the streams; what is
counted was appended.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from arq.connections import RedisSettings, create_pool

from benchmarks import arq_command
from benchmarks.commands import command
from benchmarks.cpu import Cores, cpu_ns
from benchmarks.figures import Figure, Measured, figure, median
from benchmarks.harness import Bench
from benchmarks.loops import raise_file_limit
from benchmarks.machine import usable_cores
from benchmarks.no_op_worker import FUNCTION, TASK
from benchmarks.processes import started
from benchmarks.relay_worker import submitting
from benchmarks.rows.row import Row
from benchmarks.streams import Load, Running, Side, Steady, Timing, ground, steady
from tailrace import AsyncTailrace
from tailrace.joblog import Broker, connected

_APP: Final = "benchmarks.no_op_worker:app"
_AT_ONCE: Final = 1000
_STREAMS: Final = 500
_RATE: Final = 100.0
_LOOK_S: Final = 0.005
_DRAINED_S: Final = 60.0


@dataclass(slots=True)
class _Jobs:
    """What the rounds of one side gave, at one number of processes."""

    jobs_s: list[float] = field(default_factory=list[float])
    cpu_us: list[float] = field(default_factory=list[float])
    """Of all processes, per job."""

    async def round(
        self,
        pids: Sequence[int],
        jobs: int,
        submit: Callable[[], Awaitable[object]],
        left: Callable[[], Awaitable[int]],
    ) -> None:
        used_ns = sum(map(cpu_ns, pids))
        _tell(pids, signal.SIGSTOP)
        try:
            await submit()
        finally:
            began = time.monotonic()
            _tell(pids, signal.SIGCONT)
        async with asyncio.timeout(_DRAINED_S):
            while await left():  # noqa: ASYNC110  # other processes
                await asyncio.sleep(_LOOK_S)
        self.jobs_s.append(jobs / (time.monotonic() - began))
        self.cpu_us.append((sum(map(cpu_ns, pids)) - used_ns) / 1000 / jobs)


def _tell(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


async def _tailrace_jobs(bench: Bench, broker: Broker, processes: int, jobs: int, rounds: int) -> _Jobs:
    found = _Jobs()
    namespace = f"processes-{processes}"
    table = bench.settings_table(namespace, max_jobs=_AT_ONCE)
    queue = bench.settings(namespace).keys.queue
    requests: list[dict[str, Any]] = [{"task": TASK}] * jobs
    async with (
        command(table, "worker", _APP, "--processes", str(processes)) as served,
        AsyncTailrace(settings=bench.settings(namespace)) as tailrace,
    ):
        for _ in range(rounds):
            await found.round(served.workers, jobs, lambda: tailrace.submit_many(requests), _length(broker, queue))
    return found


async def _arq_jobs(bench: Bench, broker: Broker, processes: int, jobs: int, rounds: int) -> _Jobs:
    found = _Jobs()
    queue = f"arq:queue:processes-{processes}"
    environment = {
        arq_command.REDIS_URL: bench.redis_url,
        arq_command.QUEUE: queue,
        arq_command.MAX_JOBS: str(_AT_ONCE),
    }
    line = [sys.executable, "-m", "arq", "benchmarks.arq_command.WorkerSettings"]
    with open(os.devnull, "wb") as errors:  # noqa: ASYNC230  # it never blocks; arq logs every job
        async with AsyncExitStack() as stack, await create_pool(RedisSettings.from_dsn(bench.redis_url)) as pool:
            workers = [
                await stack.enter_async_context(started(line, errors=errors, environment=environment))
                for _ in range(processes)
            ]
            for worker in workers:
                await worker.line()

            async def submit() -> None:
                for _ in range(jobs):
                    await pool.enqueue_job(FUNCTION, _queue_name=queue)

            for _ in range(rounds):
                await found.round([worker.pid for worker in workers], jobs, submit, _length(broker, queue))
    return found


def _length(broker: Broker, queue: str) -> Callable[[], Awaitable[int]]:
    async def length() -> int:
        return int(await broker.call("ZCARD", queue))

    return length


def _relaying(processes: int) -> Side:
    @asynccontextmanager
    async def running(load: Load) -> AsyncGenerator[Running]:
        share = -(-load.streams // processes)
        table = load.bench.settings_table(load.namespace, max_jobs=share)
        async with command(table, "worker", "--processes", str(processes)) as served:
            pid, *beside = served.workers
            async with submitting(load, pid, beside=tuple(beside)) as relaying:
                yield relaying

    return running


async def measure(bench: Bench) -> Measured:
    raise_file_limit()
    cores = usable_cores()
    counts = (2,) if bench.quick else tuple(sorted({1, 2, cores}))
    streams, rounds = bench.scaled(_STREAMS, 20), bench.scaled(3, 1)
    timing = Timing(settle_s=1.0, window_s=1.0, windows=4) if not bench.quick else Timing(0.1, 0.5, 1)
    jobs: dict[tuple[str, int], _Jobs] = {}
    relayed: dict[int, Steady] = {}
    async with connected(bench.redis_url) as broker:
        for count in counts:
            jobs["tailrace", count] = await _tailrace_jobs(bench, broker, count, bench.scaled(2000, 50), rounds)
            jobs["stock arq", count] = await _arq_jobs(bench, broker, count, bench.scaled(1000, 50), rounds)
    async with ground(bench, Cores.anywhere()) as here:
        for count in counts:
            load = here.load(streams, _RATE, f"processes-relay-{count}")
            relayed[count] = await steady(_relaying(count), load, timing, redis_pid=here.redis_pid)
    return Measured(_figures(jobs, relayed), _notes(cores, streams, jobs, relayed))


def _figures(jobs: dict[tuple[str, int], _Jobs], relayed: dict[int, Steady]) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    for count in relayed:
        arq, ours = jobs["stock arq", count], jobs["tailrace", count]
        told = f"{count} {'process' if count == 1 else 'processes'}"
        stock = figure("stock arq", f"no-op jobs, {told}", _rounds(arq.jobs_s), unit="jobs/s", rate=True)
        stock_cpu = figure("stock arq", f"CPU a job, {told}", _rounds(arq.cpu_us), unit="us")
        figures += [
            figure("tailrace", stock.what, _rounds(ours.jobs_s), unit="jobs/s", rate=True, against=stock),
            figure("tailrace", stock_cpu.what, _rounds(ours.cpu_us), unit="us", against=stock_cpu),
            stock,
            stock_cpu,
        ]
    for count, at in relayed.items():
        told = f"{count} {'process' if count == 1 else 'processes'}"
        figures += [
            figure("tailrace", f"relayed, {told}", _rounds(at.through_s), unit="tokens/s", rate=True),
            figure("tailrace", f"worker CPU per token, {told}", _rounds(at.side_us), unit="us"),
        ]
    return tuple(figures)


def _rounds(values: Sequence[float]) -> list[list[float]]:
    return [[value] for value in values]


def _notes(cores: int, streams: int, jobs: dict[tuple[str, int], _Jobs], relayed: dict[int, Steady]) -> tuple[str, ...]:
    notes = [
        f"{cores} cores for all: workers, Redis, the upstream and the benchmark; tokens: {streams} streams of {_RATE:g} "
        "tokens/s are offered",
        f"arq with max_jobs {_AT_ONCE}; it looks at its queue every 0.5 s",
    ]
    first = next(iter(relayed))
    for count, at in relayed.items():
        beside = ", ".join(f"{who} {median(busy):.0%}" for who, busy in at.busy_beside.items() if any(busy))
        note = f"{count} relaying: busy: workers together {median(at.busy):.0%}, {beside}; {at.open} streams opened"
        if count != first:
            of_jobs = median(jobs["tailrace", count].jobs_s) / median(jobs["tailrace", first].jobs_s)
            of_tokens = median(at.through_s) / median(relayed[first].through_s)
            note += f"; over {first}: {of_jobs:.2f} x the jobs, {of_tokens:.2f} x the tokens"
        notes.append(note)
    return tuple(notes)


ROW: Final = Row("processes", "worker processes by one command: `tailrace worker --processes N`", measure)
