"""Stock arq's worker as a process of the benchmarks, with arq's defaults: it says when its handler begins a job."""

import asyncio
import signal
from typing import Any, Final

from arq.connections import RedisSettings
from arq.worker import Worker

from benchmarks.processes import configured, say, say_started

FUNCTION: Final = "handle"


async def handle(ctx: dict[Any, Any], seconds: float) -> None:
    """What the benchmark queues."""
    say_started(ctx["job_id"])
    await asyncio.sleep(seconds)


async def _main() -> None:
    configuration, leash = await configured()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    worker = Worker(
        [handle],
        redis_settings=RedisSettings.from_dsn(configuration["redis_url"]),
        handle_signals=False,
        **configuration["options"],
    )
    running = asyncio.create_task(worker.async_run())
    ends = [asyncio.create_task(over.wait()), asyncio.create_task(leash.read())]
    try:
        say("ready")
        await asyncio.wait([running, *ends], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (running, *ends):
            task.cancel()
        await asyncio.gather(running, *ends, return_exceptions=True)
        await worker.close()


if __name__ == "__main__":
    asyncio.run(_main())
