"""A tailrace worker with tasks, as a process of the benchmarks: it says what CPU time it has used at each job's end."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator

from benchmarks.processes import configured, say
from tailrace import App, Context, Settings
from tailrace.cli.loops import collect_rarely
from tailrace.queue import Claimed
from tailrace.worker.app import Worker

app = App()


@app.task
async def awaits(ctx: Context, model: str) -> None:
    """Awaits the whole answer and says nothing of its own."""
    await ctx.llm("x", model=model)


@app.task
async def yields(ctx: Context, model: str) -> AsyncGenerator[str]:
    """Hands on each piece as it comes."""
    async for piece in ctx.llm("x", model=model):
        yield piece


class _SayingWorker(Worker):
    async def _handle(self, job_id: str, claimed: Claimed) -> None:
        await super()._handle(job_id, claimed)
        say(job_id, time.process_time_ns())


async def _main() -> None:
    collect_rarely()  # as the command does
    configuration, leash = await configured()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with (
        _SayingWorker(Settings.model_validate(configuration["settings"]), app=app) as worker,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(worker.run())
        ends = [tasks.create_task(over.wait()), tasks.create_task(leash.read())]
        say("ready")
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await worker.drain(0)


if __name__ == "__main__":
    asyncio.run(_main())
