"""A worker of jobs that do nothing, as a process of the benchmarks. Once so many are through it says how long that took.

`queue`: tailrace's queue with a handler that returns. `worker`: the whole engine with a task that returns. `arq`: stock arq
with a function that returns. It says the nanoseconds of the clock, then those of its CPU time.
"""

import asyncio
import time
from typing import Any, Final

from arq.connections import RedisSettings
from arq.worker import Worker as ArqWorker

from benchmarks.loops import Orders, run_child
from benchmarks.processes import say
from tailrace import App, Context, Settings
from tailrace.cli.loops import collect_rarely
from tailrace.joblog import connected
from tailrace.queue import Claimed
from tailrace.queue.leased import LeasedWorker
from tailrace.worker import Worker

TASK: Final = "nothing"
FUNCTION: Final = "handle"

app = App()


@app.task
async def nothing(ctx: Context) -> None:
    """A job."""


async def handle(ctx: dict[Any, Any]) -> None:
    """The same for arq."""


async def _handler(_job_id: str, _claimed: Claimed) -> None:
    pass


class _CountingWorker(Worker):
    """Knows when so many jobs are through."""

    left = 0
    through: asyncio.Event

    async def _handle(self, job_id: str, claimed: Claimed) -> None:
        await super()._handle(job_id, claimed)
        self.left -= 1
        if not self.left:
            self.through.set()


class _Clock:
    def __init__(self) -> None:
        self._began, self._used = time.monotonic_ns(), time.process_time_ns()

    def say(self) -> None:
        say(time.monotonic_ns() - self._began, time.process_time_ns() - self._used)


async def _queue(configuration: dict[str, Any], settings: Settings) -> None:
    collect_rarely()  # as the command does
    async with connected(configuration["settings"]["redis_url"]) as broker:
        worker = LeasedWorker(
            _handler,
            keys=settings.keys,
            redis=broker.redis,
            worker_name="bench",
            max_jobs=configuration["max_jobs"],
            burst=True,
        )
        async with worker:
            clock = _Clock()
            await worker.async_run()
            clock.say()


async def _worker(configuration: dict[str, Any], settings: Settings) -> None:
    collect_rarely()
    async with _CountingWorker(settings, app=app) as worker, asyncio.TaskGroup() as tasks:
        worker.left, worker.through = configuration["jobs"], asyncio.Event()
        clock = _Clock()
        tasks.create_task(worker.run())
        await worker.through.wait()
        clock.say()
        await worker.drain(0)


async def _arq(configuration: dict[str, Any], _settings: Settings) -> None:
    worker = ArqWorker(
        [handle],
        redis_settings=RedisSettings.from_dsn(configuration["settings"]["redis_url"]),
        queue_name=configuration["queue"],
        max_jobs=configuration["max_jobs"],
        burst=True,
        handle_signals=False,
    )
    clock = _Clock()
    await worker.async_run()
    clock.say()
    await worker.close()


_SIDES: Final = {"queue": _queue, "worker": _worker, "arq": _arq}


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    say("ready")
    await _SIDES[configuration["side"]](configuration, Settings.model_validate(configuration["settings"]))
    await asyncio.Event().wait()


if __name__ == "__main__":
    run_child(_main)
