"""A dead worker's jobs are given back at once by who knows that it is dead, and nobody else's."""

import asyncio
from typing import Any

from queue_workers import TTL_MS, open_workers

from engine import wait_until
from tailrace.queue import Claimed, enqueue, hand_back
from tailrace.schemas import Keys


async def test_the_jobs_of_a_dead_worker_run_elsewhere_at_once_and_others_stay(redis: Any, namespace: str) -> None:
    keys, held, ran = Keys(namespace), asyncio.Event(), list[str]()
    claims: dict[str, str] = {}

    async def hold(job_id: str, claimed: Claimed) -> None:
        claims[job_id] = claimed.worker
        await held.wait()

    async def run(job_id: str, _claimed: Claimed) -> None:
        ran.append(job_id)

    async with open_workers(redis, keys) as make:
        await make(hold, worker_name="dead", lease_s=30, max_jobs=2)
        await make(hold, worker_name="dead-not", lease_s=30, max_jobs=1)
        for number in range(3):
            await enqueue(redis, keys, f"j{number}", ttl_ms=TTL_MS)
        await wait_until("all jobs are held", lambda: len(claims) == 3)
        await make(run, worker_name="heir", lease_s=30)
        assert await hand_back(redis, keys, "dead", lease_s=30) == 2
        await wait_until("the heir ran them", lambda: len(ran) == 2)
        assert sorted(ran) == sorted(job for job, worker in claims.items() if worker == "dead")
        assert await hand_back(redis, keys, "dead", lease_s=30) == 0
        held.set()
