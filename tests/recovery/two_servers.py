"""Logs on one server, the queue on another, which may lose what it had."""

from typing import Any, Final

from redis.asyncio import Redis

from job_logs import Job, attached, request
from tailrace.joblog import Broker
from tailrace.producer import Producer
from tailrace.schemas import Keys
from tailrace.worker.scrub import Scrub
from tailrace.worker.sweep import Swept, reopen_handed_off, sweep

#: The queue's server came back as another process, with all that it had.
ANOTHER: Final = "another server"


class Two:
    """Logs here, the queue on another server."""

    def __init__(self, logs: Redis, queue: Any, keys: Keys) -> None:
        self.broker, self.queue, self.keys = Broker(logs, queue=Broker(queue)), queue, keys

    async def submitted(self, job_id: str = "job", **fields: Any) -> Job:
        await Producer(self.broker, self.keys).submit(request(**fields), job_id=job_id)
        return await attached(self.broker, self.keys, job_id)

    async def changed(self) -> None:
        """As after a failover or a restart: the server has another history."""
        await self.queue.hset(self.keys.scrub, "history", ANOTHER)

    async def forget(self, job_id: str) -> None:
        """What it had of a job is lost."""
        queued_id = self.keys.queued(job_id)
        await self.queue.zrem(self.keys.open, job_id)
        entries = [entry for entry in await self.queue.zrange(self.keys.handed, 0, -1) if _job_of(entry) == job_id]
        if entries:
            await self.queue.zrem(self.keys.handed, *entries)
        await self.queue.zrem(self.keys.queue, queued_id)
        await self.queue.delete(f"arq:job:{queued_id}")

    async def scrubbed(self, scrub: Scrub | None = None) -> Swept:
        """Rounds until the walk is through, then a sweep."""
        scrub = scrub or Scrub(self.broker, self.keys, lease_s=0)
        while await scrub.round():
            pass
        return await sweep(self.broker, self.keys)

    async def looked_again(self) -> int:
        """That minute is over for all that left the index; how many are back in it."""
        for entry in await self.queue.zrange(self.keys.handed, 0, -1):
            await self.queue.zadd(self.keys.handed, {entry: 0})
        return await reopen_handed_off(self.broker, self.keys)

    async def walks(self) -> int:
        return int(await self.queue.hget(self.keys.scrub, "walks"))

    async def later(self) -> None:
        """A minute after the change."""
        await self.queue.hincrby(self.keys.scrub, "since", -60_000)

    async def queued(self, job_id: str = "job") -> float | None:
        score: float | None = await self.queue.zscore(self.keys.queue, self.keys.queued(job_id))
        return score

    async def told(self) -> list[str]:
        """Whose ends were handed off, in order."""
        return [fields[b"job"].decode() for _, fields in await self.queue.xrange(self.keys.ended)]


def _job_of(entry: bytes) -> str:
    return entry.decode().partition(":")[0]
