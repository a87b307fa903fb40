"""Producers: what becomes of one job at their hands."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from tailrace.joblog import connected
from tailrace.producer import Producer
from tailrace.schemas import BrokerUnavailable, JobConflict, JobNotFound, Keys

from .loop import Process
from .plan import PlannedJob

if TYPE_CHECKING:
    from .world import World

KEYS: Final = Keys("t")


class Production:
    """One producer of one job: submits it, submits it again, cancels, deletes. `left`: what it has not done yet."""

    def __init__(self, world: "World", job: PlannedJob, left: list[tuple[float, str]], process: Process) -> None:
        self._world, self.job, self.left, self.process = world, job, left, process
        self.given_up = False
        """It died, and nobody went on."""
        self.task = process.start(self._run(), name=process.name)

    async def _run(self) -> None:
        world, job = self._world, self.job
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(connected(*world.urls))
            producer = Producer(broker, KEYS)
            while self.left:
                at, what = self.left[0]
                await asyncio.sleep(max(0.0, at - world.loop.now))
                await self._ask(producer, what)
                self.left.pop(0)
            while world.watch.logs[job.job_id].vanished:
                # A producer who asks finds the job lost with the server's last second, and submits it again.
                await self._ask(producer, "submit")

    async def _ask(self, producer: Producer, what: str) -> None:
        world, job_id = self._world, self.job.job_id
        watch = world.watch
        while True:
            try:
                match what:
                    case "submit":
                        await producer.submit(self.job.request, job_id=job_id)
                        world.accepted.add(job_id)
                    case "cancel":
                        status = await producer.cancel(job_id)
                        end = watch.logs[job_id].end
                        assert watch.rolled_back or (end is not None and end["status"] == status.value)
                    case _:
                        world.deleted.add(job_id)
                        await producer.delete(job_id)
                world.tell(f"{job_id}: {what} is done")
            except BrokerUnavailable:
                await asyncio.sleep(0.2)
            except JobConflict:
                assert what == "submit"
                assert job_id in world.deleted, "the same request under the same id is not the same job"
                return
            except JobNotFound:
                assert what != "submit"
                known = watch.rolled_back or job_id in world.deleted or job_id not in world.accepted
                # A cancel that finds only the tombstone: the job ended, and its snapshot was stored, since it looked.
                assert known or watch.logs[job_id].emptied, f"{what}: an accepted job is not found"
                return
            else:
                return


def moments(job: PlannedJob) -> list[tuple[float, str]]:
    """When its producer does what."""
    asked = ((job.cancel_at, "cancel"), (job.delete_at, "delete"))
    submits = [(job.submit_at, "submit"), *((at, "submit") for at in job.again_at)]
    return sorted([*submits, *((at, what) for at, what in asked if at is not None)])
