"""A worker in a process of its own, to be killed and stopped: `python queue_process.py URL NAMESPACE NAME SECONDS`.

Its handler appends `<name> <claims> start`, then `... done` or `... <reason>`, to the list `<namespace>:seen`.
"""

import asyncio
import sys
from typing import Any

from redis.asyncio import Redis

from tailrace.queue import Claimed
from tailrace.queue.leased import LeasedWorker
from tailrace.schemas.keys import Keys


async def main(url: str, namespace: str, name: str, seconds: float) -> None:
    make: Any = Redis
    async with make.from_url(url) as redis:

        async def say(claimed: Claimed, what: str) -> None:
            async with redis.pipeline() as pipe:
                pipe.rpush(f"{namespace}:seen", f"{name} {claimed.claims} {what}")
                pipe.pexpire(f"{namespace}:seen", 60_000)
                await pipe.execute()

        async def handler(job_id: str, claimed: Claimed) -> None:
            await say(claimed, "start")
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                # Before Python 3.11.3 redis-py does not work in a task that counts as being cancelled.
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()
                await say(claimed, str(claimed.reason))
                raise
            await say(claimed, "done")

        async with LeasedWorker(handler, keys=Keys(namespace), redis=redis, worker_name=name, lease_s=0.5) as worker:
            await worker.async_run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
