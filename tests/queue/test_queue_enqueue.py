"""Into the queue: once, due on time, below the capacity, never without a time to live."""

import subprocess
import sys

import pytest
from queue_workers import TTL_MS, AnyRedis

from tailrace.queue import enqueue, payload_key
from tailrace.schemas.errors import InvalidRequest, QueueFull
from tailrace.schemas.keys import Keys


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


async def test_a_queued_job_is_not_queued_twice(redis: AnyRedis, keys: Keys) -> None:
    assert await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
    before = await redis.zrange(keys.queue, 0, -1, withscores=True)
    assert not await enqueue(redis, keys, "a", delay_ms=5_000, ttl_ms=TTL_MS)
    assert await redis.zrange(keys.queue, 0, -1, withscores=True) == before
    assert before[0][0] == keys.queued("a").encode()


async def test_a_queue_at_its_capacity_refuses_and_stores_nothing(redis: AnyRedis, keys: Keys) -> None:
    for job_id in ("a", "b"):
        await enqueue(redis, keys, job_id, ttl_ms=TTL_MS, capacity=2)
    with pytest.raises(QueueFull) as full:
        await enqueue(redis, keys, "c", ttl_ms=TTL_MS, capacity=2)
    assert full.value.capacity == 2
    assert not await redis.exists(payload_key(keys, "c"))
    assert not await enqueue(redis, keys, "a", ttl_ms=TTL_MS, capacity=2), "a job that is in is not refused"


async def test_the_queues_time_to_live_is_only_lengthened(redis: AnyRedis, keys: Keys) -> None:
    await enqueue(redis, keys, "long", ttl_ms=50_000)
    await enqueue(redis, keys, "short", ttl_ms=10_000)
    assert 40_000 < await redis.pttl(keys.queue) <= 50_000
    await enqueue(redis, keys, "longer", ttl_ms=90_000)
    assert 80_000 < await redis.pttl(keys.queue) <= 90_000
    assert 0 < await redis.pttl(payload_key(keys, "short")) <= 10_000


async def test_the_due_time_is_the_servers(redis: AnyRedis, keys: Keys) -> None:
    seconds, micros = await redis.time()
    await enqueue(redis, keys, "a", delay_ms=5_000, ttl_ms=TTL_MS)
    due = await redis.zscore(keys.queue, keys.queued("a"))
    assert due is not None
    assert 0 <= due - (seconds * 1000 + micros // 1000 + 5_000) < 1_000


@pytest.mark.parametrize(("delay_ms", "words"), [(0, 1), (200, 1), (60_000, 0)])
async def test_a_job_that_is_due_soon_wakes_a_worker(redis: AnyRedis, keys: Keys, delay_ms: int, words: int) -> None:
    await enqueue(redis, keys, "a", delay_ms=delay_ms, ttl_ms=2 * TTL_MS)
    assert await redis.llen(keys.wake) == words


async def test_impossible_requests_are_refused(redis: AnyRedis, keys: Keys) -> None:
    with pytest.raises(InvalidRequest):
        await enqueue(redis, keys, "a b", ttl_ms=TTL_MS)
    with pytest.raises(InvalidRequest):
        await enqueue(redis, keys, "a", delay_ms=TTL_MS, ttl_ms=TTL_MS)
    assert not await redis.exists(keys.queue)


def test_producers_do_not_load_arq() -> None:
    look = "import sys, tailrace.queue; sys.exit(any(name.split('.')[0] == 'arq' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
