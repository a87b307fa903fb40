"""Jobs that do nothing: what one worker process takes for each, all of them waiting in the queue. Beside: stock arq.

Three sides. The queue alone: claim, lease, a handler that returns, out of the queue; that is what arq does. The whole worker:
a task that returns, with all that a job leaves (attempt, end, snapshot, hand-off). arq, with room for as many jobs at a time,
and with its defaults, where it reads at most a hundred jobs every half second. Enqueueing is not in it.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from arq.connections import ArqRedis, RedisSettings, create_pool

from benchmarks.figures import Bar, Figure, Measured, figure, median
from benchmarks.harness import Bench
from benchmarks.loops import FASTEST
from benchmarks.no_op_worker import FUNCTION, TASK
from benchmarks.processes import child
from benchmarks.rows.row import Row
from tailrace import AsyncTailrace

_AT_ONCE: Final = 1000
_ARQ_DEFAULT: Final = 10
_SUBMITTED: Final = 500


class _Rounds:
    """The sides, a namespace or queue for each, and what their rounds gave: microseconds a job, of the clock and of the CPU."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.took: dict[str, list[list[float]]] = {}
        self.cpu: dict[str, list[list[float]]] = {}

    async def ours(self, side: str, jobs: int) -> None:
        namespace = f"no-op-{side}"
        async with AsyncTailrace(settings=self._bench.settings(namespace)) as tailrace:
            for at in range(0, jobs, _SUBMITTED):
                request: dict[str, Any] = {"task": TASK}
                await tailrace.submit_many([request] * min(_SUBMITTED, jobs - at))
        table = self._bench.settings_table(namespace)
        await self._run(side, side, jobs, {"settings": table, "max_jobs": _AT_ONCE, "loop": FASTEST})

    async def arq(self, told: str, jobs: int, max_jobs: int) -> None:
        queue = f"arq:queue:no-op-{max_jobs}"
        async with _pool(self._bench) as pool:
            for _ in range(jobs):
                await pool.enqueue_job(FUNCTION, _queue_name=queue)
        configuration = {"settings": self._bench.settings_table("no-op-arq"), "max_jobs": max_jobs, "queue": queue}
        await self._run(told, "arq", jobs, configuration)

    async def _run(self, told: str, side: str, jobs: int, configuration: dict[str, Any]) -> None:
        async with child("benchmarks.no_op_worker", {**configuration, "side": side, "jobs": jobs}) as worker:
            took_ns, used_ns = map(int, await worker.line())
        self.took.setdefault(told, []).append([took_ns / 1000 / jobs])
        self.cpu.setdefault(told, []).append([used_ns / 1000 / jobs])


@asynccontextmanager
async def _pool(bench: Bench) -> AsyncGenerator[ArqRedis]:
    pool = await create_pool(RedisSettings.from_dsn(bench.redis_url))
    try:
        yield pool
    finally:
        await pool.aclose()


async def measure(bench: Bench) -> Measured:
    rounds = _Rounds(bench)
    for _ in range(bench.scaled(3, 1)):
        await rounds.ours("queue", bench.scaled(3000, 50))
        await rounds.arq("arq", bench.scaled(1500, 50), _AT_ONCE)
        await rounds.ours("worker", bench.scaled(1000, 50))
    if not bench.quick:
        await rounds.arq("arq by default", 400, _ARQ_DEFAULT)
    stock = figure("stock arq", f"a job, max_jobs {_AT_ONCE}", rounds.took["arq"], unit="us")
    stock_cpu = figure("stock arq", f"CPU a job, max_jobs {_AT_ONCE}", rounds.cpu["arq"], unit="us")
    bars: dict[str, Any] = {} if bench.quick else {"bar": Bar(1e6 / 1500), "stretch": Bar(1e6 / 3000)}
    figures: list[Figure] = []
    for side, told in (("queue", "queue alone"), ("worker", "worker, a task")):
        figures.append(figure("tailrace", f"a job, {told}", rounds.took[side], unit="us", against=stock, **bars))
        figures.append(figure("tailrace", f"CPU a job, {told}", rounds.cpu[side], unit="us", against=stock_cpu))
    figures += [stock, stock_cpu]
    if "arq by default" in rounds.took:
        figures.append(figure("stock arq", "a job, by default", rounds.took["arq by default"], unit="us"))
    told = ", ".join(
        f"{side} {1e6 / median(us for taken in took for us in taken):.0f}" for side, took in rounds.took.items()
    )
    return Measured(
        tuple(figures),
        (
            f"jobs a second of one worker process: {told}",
            f"tailrace on {FASTEST}, arq on asyncio: what their commands take",
        ),
    )


ROW: Final = Row("no-op", "no-op jobs through one worker process", measure)
