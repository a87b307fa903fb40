"""The first token of a chat's answer: submitted and followed as a job, beside the openai package asking the upstream.

Both sides ask the same upstream process for the same short answer, in turns, over connections that are open already.
Each reads it to its end and pauses: back to back, everybody's caches are warm and the figures half as large. Once the
upstream answers at once, so that nothing can hide behind its thinking, and once after 50 ms, as a fast service does.
"""

import asyncio
import random
import time
from typing import Final

from openai import AsyncOpenAI

from benchmarks.figures import Bar, Figure, Measured, added, figure
from benchmarks.harness import Bench
from benchmarks.rows.row import Row
from tailrace import AsyncTailrace

_PAUSE_S: Final = (0.005, 0.03)
_PROMPT: Final = "Write me a 1 verse song about sparkling water."
_AT_ONCE: Final = "rehearsal:tokens=5,pace=0.002"
_THINKING: Final = "rehearsal:tokens=5,pace=0.002,ttft=0.05"


async def measure(bench: Bench) -> Measured:
    rounds = bench.scaled(5, 1)
    async with (
        bench.tailrace_worker("first-token"),
        AsyncTailrace(settings=bench.settings("first-token")) as tailrace,
        AsyncOpenAI(base_url=bench.upstream_url, api_key="none") as openai,
    ):
        at_once = await _side_by_side(tailrace, openai, "", _AT_ONCE, rounds, bench.scaled(60, 3))
        thinking = await _side_by_side(
            tailrace, openai, ", upstream thinks 50 ms", _THINKING, rounds, bench.scaled(20, 2)
        )
    return Measured((*at_once, *thinking), ("added: quantile by quantile, through the job less direct",))


async def _side_by_side(
    tailrace: AsyncTailrace, openai: AsyncOpenAI, told: str, model: str, rounds: int, samples: int
) -> tuple[Figure, ...]:
    through: list[list[float]] = []
    direct: list[list[float]] = []
    for _ in range(3):  # warm: connections, caches, the scripts on the server
        await _through(tailrace, model)
        await _direct(openai, model)
    for _ in range(rounds):
        through.append([])
        direct.append([])
        for number in range(samples):
            if number % 2:
                through[-1].append(await _through(tailrace, model))
                direct[-1].append(await _direct(openai, model))
            else:
                direct[-1].append(await _direct(openai, model))
                through[-1].append(await _through(tailrace, model))
    of_direct = figure("openai package", f"first token, direct{told}", direct)
    of_through = figure("tailrace", f"first token, submit to reader{told}", through, against=of_direct)
    more = added("tailrace", f"added{told}", of_through, of_direct, bar=Bar(8), stretch=Bar(4))
    return more, of_through, of_direct


async def _through(tailrace: AsyncTailrace, model: str) -> float:
    await asyncio.sleep(random.uniform(*_PAUSE_S))
    began = time.monotonic_ns()
    first = 0
    job = await tailrace.submit(_PROMPT, model=model)
    async for _ in job.stream():
        first = first or time.monotonic_ns()
    return (first - began) / 1e6


async def _direct(openai: AsyncOpenAI, model: str) -> float:
    await asyncio.sleep(random.uniform(*_PAUSE_S))
    began = time.monotonic_ns()
    first = 0
    stream = await openai.chat.completions.create(
        model=model, messages=[{"role": "user", "content": _PROMPT}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.monotonic_ns()
    return (first - began) / 1e6


ROW: Final = Row("first-token", "time to first token", measure)
