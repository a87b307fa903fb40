"""A worker in a process of its own, to be killed: `python worker_process.py SETTINGS [APP]` (JSON), until SIGTERM drains it.

Says `ready NAME` when it takes jobs. It ends when its standard input does: it never outlives the test.

FAULTS_CLOCK_S    what this machine's clock is off by
FAULTS_GRACE_S    instead of the 30 s between a job's deadline and its expiry by others
FAULTS_BLOCK_S    how long SIGUSR1 blocks the event loop
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable


def twist_the_clock() -> None:
    """Before anything of tailrace is imported."""
    off = float(os.environ.get("FAULTS_CLOCK_S", "0"))
    if off:
        true_time: Callable[[], float] = time.time
        time.time = lambda: true_time() + off
        true_time_ns: Callable[[], int] = time.time_ns
        time.time_ns = lambda: true_time_ns() + int(off * 1e9)


def shorten_the_grace() -> None:
    """The constant has been copied into the modules that use it."""
    grace = os.environ.get("FAULTS_GRACE_S")
    if grace is not None:
        for name, module in list(sys.modules.items()):
            if name.startswith("tailrace.") and hasattr(module, "GRACE_S"):
                vars(module)["GRACE_S"] = float(grace)


def end_with_stdin(loop: asyncio.AbstractEventLoop) -> None:
    def gone() -> None:
        if not os.read(0, 4096):
            os._exit(3)

    loop.add_reader(0, gone)


async def main(settings_json: str, spec: str | None = None) -> None:
    from tailrace.cli.applications import load_app
    from tailrace.client import AsyncTailrace
    from tailrace.client.jobs import JobsOf
    from tailrace.schemas import Settings
    from tailrace.worker.app import Worker

    shorten_the_grace()
    loop = asyncio.get_running_loop()
    end_with_stdin(loop)
    settings = Settings.model_validate_json(settings_json)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGUSR1, time.sleep, float(os.environ.get("FAULTS_BLOCK_S", "1")))
    async with (
        AsyncTailrace(settings=settings) as client,
        Worker(settings, app=load_app(spec) if spec else None, jobs=JobsOf(client)) as worker,
    ):
        running = asyncio.create_task(worker.run())
        print(f"ready {worker.name}", flush=True)
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            stopping.cancel()
            await running
            raise SystemExit("the worker has stopped by itself")
        print("draining", flush=True)
        await worker.drain()
        await running


if __name__ == "__main__":
    twist_the_clock()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("arq", "httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    asyncio.run(main(*sys.argv[1:]))
