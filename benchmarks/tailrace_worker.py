"""A tailrace worker as a process of the benchmarks: it says when its handler begins a job."""

import asyncio
import signal

from benchmarks.processes import configured, say, say_started
from tailrace import Settings
from tailrace.cli.loops import collect_rarely
from tailrace.queue import Claimed
from tailrace.worker.app import Worker


class _StampingWorker(Worker):
    async def _handle(self, job_id: str, claimed: Claimed) -> None:
        say_started(job_id)
        await super()._handle(job_id, claimed)


async def _main() -> None:
    collect_rarely()  # as the command does
    configuration, leash = await configured()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with (
        _StampingWorker(Settings.model_validate(configuration["settings"])) as worker,
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
