"""A worker that lives does not lose an attempt of its jobs because the queue's server lost their leases."""

from typing import Any

import pytest
from redis.asyncio import Redis

from engine import Engine, engine
from tailrace.client import AsyncJob
from tailrace.queue import IN_PROGRESS_PREFIX
from tailrace.schemas import AttemptRecord

#: As after a failover whose new primary lacks the last renewals, or has one whose answer never came.
OLDER_MS = 5000


async def begun(e: Engine, **given: Any) -> AsyncJob:
    """A job that has said something."""
    job = await e.tailrace.submit("x", params={"rehearsal": {"tokens": 30, "pace": 0.02}}, **given)
    async for _ in job.stream():
        break
    return job


async def go_back(e: Engine, job: AsyncJob) -> None:
    """The lease is an older one, and has run out."""
    keys, redis = e.settings.keys, e.tailrace.broker
    queued_id = keys.queued(job.id)
    old = int(await redis.call("ZSCORE", keys.queue, queued_id)) - OLDER_MS
    await redis.call("DEL", IN_PROGRESS_PREFIX + queued_id)
    await redis.call("ZADD", keys.queue, "XX", old, queued_id)


async def forget(e: Engine, job: AsyncJob) -> None:
    """There is neither lease nor queue entry; the sweep finds that soon."""
    keys, redis = e.settings.keys, e.tailrace.broker
    await redis.call("ZREM", keys.queue, keys.queued(job.id))
    await redis.call("DEL", IN_PROGRESS_PREFIX + keys.queued(job.id))
    await redis.call("ZADD", keys.open, "XX", 1, job.id)


@pytest.mark.parametrize("lose", [go_back, forget])
async def test_a_lease_that_the_queues_server_lost_costs_no_attempt(redis: Redis, namespace: str, lose: Any) -> None:
    async with engine(redis, namespace) as e:
        job = await begun(e, max_attempts=1)
        await lose(e, job)
        await e.rehearsal.wait_until(lambda: len(e.rehearsal.calls) == 2, "it runs again")
        assert await job.text(timeout=20) == "".join(f" token{number}" for number in range(30))
        attempts = [record async for record in job.records() if isinstance(record, AttemptRecord)]
        assert [each.attempt for each in attempts] == [1, 1]
        assert not any(each.replay for each in attempts)
