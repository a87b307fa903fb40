"""From submit to the handler, on a worker that has nothing to do. Beside: stock arq, from enqueue to the function.

Both start the clock before the call that queues the job and stop it in the first line of what runs the job. The pauses in
between are random, so that arq's poll is met at any point. The tailrace worker is the whole engine: what follows the stamp
(a call of the upstream, an answer of one token) is over before the next job is submitted.
"""

import asyncio
import random
import time
from typing import Final

from arq.connections import ArqRedis, RedisSettings, create_pool

from benchmarks import arq_worker
from benchmarks.figures import Bar, Measured, figure
from benchmarks.harness import Bench
from benchmarks.processes import Child
from benchmarks.rows.row import Row
from tailrace import AsyncTailrace

_ARQ_POLL_S: Final = 0.5
#: Long enough for a worker to have settled the job before and to wait for a word again.
_PAUSE_S: Final = (0.005, 0.03)


async def measure(bench: Bench) -> Measured:
    rounds, arq_samples, per_arq_sample = bench.scaled(5, 1), bench.scaled(24, 1), bench.scaled(6, 3)
    ours: list[list[float]] = []
    stock: list[list[float]] = []
    async with (
        bench.tailrace_worker("pickup") as worker,
        bench.arq_worker() as arq,
        AsyncTailrace(settings=bench.settings("pickup")) as tailrace,
        await create_pool(RedisSettings.from_dsn(bench.redis_url)) as pool,
    ):
        await _ours(tailrace, worker)  # the first opens connections
        await _stock(pool, arq)
        for _ in range(rounds):
            ours.append([])
            stock.append([])
            for _ in range(arq_samples):
                await asyncio.sleep(random.uniform(0, _ARQ_POLL_S))
                stock[-1].append(await _stock(pool, arq))
                for _ in range(per_arq_sample):
                    await asyncio.sleep(random.uniform(*_PAUSE_S))
                    ours[-1].append(await _ours(tailrace, worker))
    of_arq = figure("stock arq", "enqueue -> function", stock)
    of_ours = figure(
        "tailrace", "submit -> handler", ours, bar=Bar(4, 12), stretch=Bar(2, 5), against=of_arq
    )  # fmt: skip
    return Measured((of_ours, of_arq), ("arq with its defaults (it polls every 0.5 s, and pickles)",))


async def _ours(tailrace: AsyncTailrace, worker: Child) -> float:
    began = time.monotonic_ns()
    job = await tailrace.submit("pick up", model="rehearsal:tokens=1")
    milliseconds = (await worker.stamp(job.id) - began) / 1e6
    await job.result()
    return milliseconds


async def _stock(pool: ArqRedis, worker: Child) -> float:
    began = time.monotonic_ns()
    job = await pool.enqueue_job(arq_worker.FUNCTION, 0.0)
    if job is None:
        raise RuntimeError("arq has a job of this random id")
    return (await worker.stamp(job.job_id) - began) / 1e6


ROW: Final = Row("pickup", "submit -> handler on an idle worker", measure)
