"""What a piece of a model's answer costs a worker within a task, beside the same answer as a prompt job.

Twenty jobs at a time, the same tokens at the same pace, in turns: the worker's CPU time from the first submit to the last end,
over all tokens. A task that awaits its model writes each token once, into the run of its step. One that hands on what comes
writes each token twice, the second time as its own text.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from benchmarks.figures import Bar, Measured, figure
from benchmarks.harness import Bench
from benchmarks.processes import Child, child
from benchmarks.rows.row import Row
from tailrace import AsyncJob, AsyncTailrace

_JOBS: Final = 20
_TOKENS: Final = 300

Submit = Callable[[AsyncTailrace, str], Awaitable[AsyncJob]]


async def _prompt(tailrace: AsyncTailrace, model: str) -> AsyncJob:
    return await tailrace.submit("x", model=model)


async def _awaits(tailrace: AsyncTailrace, model: str) -> AsyncJob:
    return await tailrace.submit(task="awaits", input=model)


async def _yields(tailrace: AsyncTailrace, model: str) -> AsyncJob:
    return await tailrace.submit(task="yields", input=model)


_WAYS: Final[tuple[Submit, ...]] = (_prompt, _awaits, _yields)


async def measure(bench: Bench) -> Measured:
    rounds, tokens = bench.scaled(7, 1), bench.scaled(_TOKENS, 20)
    model = f"rehearsal:tokens={tokens},pace=0.004"
    configuration: dict[str, Any] = {"settings": bench.settings_table("task")}
    found: dict[Submit, list[list[float]]] = {way: [] for way in _WAYS}
    async with (
        child("benchmarks.task_worker", configuration) as worker,
        AsyncTailrace(settings=bench.settings("task")) as tailrace,
    ):
        for way in _WAYS:  # warm: connections, caches, the scripts on the server
            await _cpu_ns(worker, tailrace, way, "rehearsal:tokens=5")
        for number in range(rounds):
            for way in _WAYS[number % 3 :] + _WAYS[: number % 3]:
                before = await _cpu_ns(worker, tailrace, way, "rehearsal:tokens=1", jobs=1)
                after = await _cpu_ns(worker, tailrace, way, model)
                found[way].append([(after - before) / 1000 / tokens / _JOBS])
    prompt = figure("prompt job", "worker CPU per token", found[_prompt], unit="us")
    return Measured(
        (
            figure(
                "tailrace",
                "task that awaits its model",
                found[_awaits],
                unit="us",
                against=prompt,
                bar=Bar(2 * prompt.p50),
            ),
            figure(
                "tailrace",
                "task that yields its pieces",
                found[_yields],
                unit="us",
                against=prompt,
                bar=Bar(2 * prompt.p50),
            ),
            prompt,
        ),
        ("bar: twice the prompt job's; a share of each job's own cost (claim, end, snapshot) is in all of them",),
    )


async def _cpu_ns(worker: Child, tailrace: AsyncTailrace, way: Submit, model: str, *, jobs: int = _JOBS) -> int:
    """The worker's CPU time when so many jobs have ended."""
    ids = {job.id for job in await asyncio.gather(*(way(tailrace, model) for _ in range(jobs)))}
    used = 0
    while ids:
        job_id, used_ns = await worker.line()
        ids.discard(job_id)
        used = max(used, int(used_ns))
    return used


ROW: Final = Row("task", "a task's overhead over a prompt job", measure)
