"""Death, pause and restart: a worker that is killed, one that is stopped too long, a server that goes away."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from queue_workers import TTL_MS, AnyRedis, open_workers
from redis.asyncio import Redis

from engine import wait_until
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.queue import Claimed, Control, control_message, enqueue
from tailrace.schemas.keys import Keys

PROCESS = Path(__file__).with_name("queue_process.py")


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@asynccontextmanager
async def process(*command: str | Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def seen(redis: AnyRedis, keys: Keys) -> list[str]:
    return [line.decode() for line in await redis.lrange(f"{keys.namespace}:seen", 0, -1)]


async def test_a_killed_workers_job_runs_again_after_the_lease(
    real_redis: AnyRedis, server_url: str, keys: Keys
) -> None:
    ran: list[tuple[int, float]] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        ran.append((claimed.claims, time.monotonic()))

    async with process(sys.executable, PROCESS, server_url, keys.namespace, "first", "60") as first:
        await enqueue(real_redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("the first runs it", lambda: seen(real_redis, keys))
        async with open_workers(real_redis, keys) as worker:
            await worker(handler, lease_s=0.5)
            await asyncio.sleep(0.6)
            assert not ran, "a living worker keeps its job beyond one lease"
            first.kill()
            killed = time.monotonic()
            await wait_until("the second runs it", lambda: ran, 5)
    assert ran[0][0] == 2
    assert ran[0][1] - killed < 2.0


async def test_a_worker_stopped_for_longer_than_its_lease_loses_the_job_and_learns_it(
    real_redis: AnyRedis, server_url: str, keys: Keys
) -> None:
    stage: list[Claimed] = []
    go = asyncio.Event()

    async def handler(job_id: str, claimed: Claimed) -> None:
        stage.append(claimed)
        await go.wait()

    async with process(sys.executable, PROCESS, server_url, keys.namespace, "first", "60") as first:
        await enqueue(real_redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("the first runs it", lambda: seen(real_redis, keys))
        first.send_signal(signal.SIGSTOP)
        async with open_workers(real_redis, keys) as worker:
            await worker(handler, lease_s=0.5)
            await wait_until("the second has it", lambda: stage, 5)
            first.send_signal(signal.SIGCONT)
            await wait_until("the first is told", lambda: told(real_redis, keys), 20)
            assert stage[0].reason is None, "the second keeps it"
            go.set()
            await wait_until("it is done", lambda: empty(real_redis, keys))
    assert await seen(real_redis, keys) == ["first 1 start", "first 1 lease lost"]


async def told(redis: AnyRedis, keys: Keys) -> bool:
    return "first 1 lease lost" in await seen(redis, keys)


async def empty(redis: AnyRedis, keys: Keys) -> bool:
    return not await redis.zcard(keys.queue)


async def test_a_worker_stopped_alone_goes_on_with_its_job(real_redis: AnyRedis, server_url: str, keys: Keys) -> None:
    async with process(sys.executable, PROCESS, server_url, keys.namespace, "first", "1.2") as first:
        await enqueue(real_redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it runs", lambda: seen(real_redis, keys))
        first.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.7)
        first.send_signal(signal.SIGCONT)
        await wait_until("it is done", lambda: empty(real_redis, keys))
    assert await seen(real_redis, keys) == ["first 1 start", "first 1 done"]


async def test_a_restart_of_redis_in_the_middle_loses_no_job_and_cancels_none(keys: Keys) -> None:
    started: list[tuple[str, int]] = []
    done: list[str] = []
    go = asyncio.Event()
    heard: list[str] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        started.append((job_id, claimed.claims))
        await go.wait()
        done.append(job_id)

    def on_word(word: str, job_id: str) -> None:
        heard.append(f"{word} {job_id}")

    make: Any = Redis
    with EmbeddedServer(private=True) as server:
        async with (
            make.from_url(server.url) as redis,
            open_workers(redis, keys) as worker,
            Control(on_word, keys=keys, redis=redis, worker_name="w") as control,
        ):
            await worker(handler, lease_s=0.4, max_jobs=3)
            await asyncio.wait_for(control.subscribed.wait(), 5)
            for job_id in ("a", "b"):
                await enqueue(redis, keys, job_id, ttl_ms=TTL_MS)
            await wait_until("both run", lambda: len(started) == 2)
            await asyncio.to_thread(server.kill)
            # Both end while nobody can be told, and for longer than their lease.
            go.set()
            await asyncio.sleep(0.6)
            await asyncio.to_thread(server.start)
            await wait_until("the ends are written", lambda: empty(redis, keys))
            await enqueue(redis, keys, "c", ttl_ms=TTL_MS)
            await wait_until("a new job runs", lambda: "c" in done)
            await asyncio.wait_for(control.subscribed.wait(), 5)
            await redis.publish(keys.worker("w"), control_message("cancel", "c"))
            await wait_until("the control channel is heard again", lambda: heard == ["cancel c"])
    assert sorted(started) == [("a", 1), ("b", 1), ("c", 1)]
    assert sorted(done) == ["a", "b", "c"]
