"""A pipeline for the fault tests: five steps, two of them side by side. Its calls leave traces that outlive the worker: those
of models at the rehearsal, those of the function in the file that FAULTS_CALLS names."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from tailrace import App, Context

tailrace = App()

PACE_S = 0.01
#: Tokens that each model says.
TOKENS = {"plan": 8, "left": 6, "right": 14, "child": 8, "write": 16}


def says(name: str) -> dict[str, Any]:
    """The arguments of a call."""
    return {"name": name, "params": {"rehearsal": {"tokens": TOKENS[name], "pace": PACE_S}}}


def text_of(name: str) -> str:
    """What it answers."""
    return "".join(f" token{number}" for number in range(TOKENS[name]))


def note(name: str) -> None:
    with Path(os.environ["FAULTS_CALLS"]).open("a") as calls:
        calls.write(f"{name}\n")


async def merge(left: str, right: str) -> int:
    note("merge")
    await asyncio.sleep(5 * PACE_S)
    return len(left + right)


@tailrace.task
async def pipeline(ctx: Context) -> AsyncGenerator[str]:
    plan = await ctx.llm("plan", **says("plan"))
    yield f"[{len(plan)}]"
    ctx.emit("planned", {"length": len(plan)})
    left, right = await ctx.gather(ctx.llm("left", **says("left")), ctx.llm("right", **says("right")))
    yield f"[{await ctx.step('merge', merge, left, right)}]"
    ctx.progress(3, 5)
    child = await ctx.child("child", **says("child"))
    yield f"[{len(child.text)}]"
    async for piece in ctx.llm("write", **says("write")):
        yield piece


def whole_text() -> str:
    """What the pipeline says."""
    lengths = (len(text_of("plan")), len(text_of("left") + text_of("right")), len(text_of("child")))
    return "".join(f"[{length}]" for length in lengths) + text_of("write")
