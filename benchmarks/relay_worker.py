"""A tailrace worker as a process of the benchmarks, on the loop and the cores that they choose, and as a side of theirs.

As a side: jobs are submitted, the entries of their logs counted. No reader follows: what is published goes to nobody.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from redis.asyncio import Redis

from benchmarks import upstream
from benchmarks.loops import Orders, run_child
from benchmarks.processes import Child, child, say
from benchmarks.streams import Load, Running, Side
from tailrace import AsyncTailrace, Settings
from tailrace.cli.loops import collect_rarely
from tailrace.worker import Worker

PROMPT: Final = "Write me a 1 verse song about sparkling water."


async def _main(orders: Orders) -> None:
    collect_rarely()  # as the command does
    async with (
        Worker(Settings.model_validate(orders.configuration["settings"])) as worker,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(worker.run())
        say("ready")
        try:
            await asyncio.Event().wait()
        finally:
            await worker.drain(0)


@asynccontextmanager
async def relay_worker(load: Load, loop: str, transport: str = "aiohttp") -> AsyncGenerator[Child]:
    """The process, with room for all streams of the load, alone on its core."""
    settings = load.bench.settings_table(load.namespace, max_jobs=load.streams)
    settings["upstreams"]["default"]["transport"] = transport
    configuration: dict[str, Any] = {
        "settings": settings,
        "loop": loop,
        "cores": sorted(load.cores.worker),
    }
    async with child("benchmarks.relay_worker", configuration) as worker:
        yield worker


def tailrace(loop: str, transport: str = "aiohttp") -> Side:
    """The worker on this loop, its upstreams read this way."""

    @asynccontextmanager
    async def running(load: Load) -> AsyncGenerator[Running]:
        async with relay_worker(load, loop, transport) as worker, submitting(load, worker.pid) as relaying:
            yield relaying

    return running


@asynccontextmanager
async def submitting(load: Load, pid: int, *, beside: tuple[int, ...] = ()) -> AsyncGenerator[Running]:
    """A side whose worker is there already: warm, its streams jobs of this process."""
    settings = load.bench.settings(load.namespace)
    ids = [f"stream-{number}" for number in range(load.streams)]
    logs = [settings.keys.log(job_id) for job_id in ids]
    make = cast("Any", Redis)
    async with AsyncTailrace(settings=settings) as client, make.from_url(load.bench.redis_url) as redis:
        await (await client.submit(PROMPT, model=upstream.model(100, tokens=3))).result()  # warm

        async def open_() -> None:
            model = upstream.model(load.rate)
            await client.submit_many([{"prompt": PROMPT, "model": model, "job_id": job_id} for job_id in ids])

        async def through() -> int:
            return await entries(redis, logs)

        yield Running(pid, open_, through, beside=beside)


async def entries(redis: Any, streams: Sequence[str]) -> int:
    """How many entries these Redis Streams have together."""
    async with redis.pipeline(transaction=False) as pipeline:
        for stream in streams:
            pipeline.xlen(stream)
        return sum(await pipeline.execute())


if __name__ == "__main__":
    run_child(_main)
