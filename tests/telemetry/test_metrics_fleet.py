"""What is told of all workers and jobs together is what Redis has."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from engine import Engine, engine, running_worker, wait_until
from scraped import Scraped
from tailrace.joblog import Broker
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.rights import rule
from tailrace.schemas import Keys
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_exposition import Exposition
from tailrace.telemetry.metrics_fleet import Fleet


async def figures(fleet: Fleet) -> Scraped:
    body, _ = await Exposition([], fleet=fleet, role="test", namespace="n").scrape()
    return Scraped(body)


def fleet_of(e: Engine, *, kept_s: float = 0.0) -> Fleet:
    return Fleet(Broker(e.redis), e.settings.keys, lease_s=e.settings.worker.lease_s, kept_s=kept_s)


async def test_jobs_in_the_queue_are_told_by_state_and_age(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e:
        fleet, keys = fleet_of(e), e.settings.keys
        empty = await figures(fleet)
        assert (empty(told.QUEUE_JOBS, state="due"), empty(told.QUEUE_AGE), empty(told.OPEN_JOBS)) == (0, 0, 0)
        due = [await e.tailrace.submit("x", model="rehearsal:tokens=500,pace=0.05") for _ in range(3)]
        await e.tailrace.submit("x", model="rehearsal", delay=600)
        now_ms = await Broker(redis).now_ms()
        await redis.zadd(keys.queue, {keys.queued(due[0].id): now_ms - 90_000})
        await redis.zadd(keys.open, {due[0].id: now_ms - 60_000})
        waiting = await figures(fleet)
        assert [waiting(told.QUEUE_JOBS, state=state) for state in ("due", "running", "delayed")] == [3, 0, 1]
        assert 90 <= waiting(told.QUEUE_AGE) < 120
        assert waiting(told.OPEN_JOBS) == 4
        assert waiting(told.OPEN_UNCHECKED) == 1
        assert (waiting(told.WORKERS, state="alive"), waiting(told.WORKER_SLOTS)) == (0, 0)
        async with running_worker(e.settings, redis):
            for job in due:
                await anext(stream := job.stream())
                await stream.aclose()
            running = await figures(fleet)
            assert [running(told.QUEUE_JOBS, state=state) for state in ("due", "running", "delayed")] == [0, 3, 1]
            assert running(told.QUEUE_AGE) == 0
            assert running(told.WORKERS, state="alive") == 1
            assert running(told.WORKER_SLOTS) == e.settings.worker.max_jobs
            for job in due:
                await job.cancel()


async def test_a_worker_that_died_is_silent_and_one_that_left_is_not(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        fleet, keys = fleet_of(e), e.settings.keys
        await redis.zadd(keys.workers, {"dead": await Broker(redis).now_ms()})
        seen = await figures(fleet)
        assert (seen(told.WORKERS, state="alive"), seen(told.WORKERS, state="silent")) == (1, 1)


async def test_groups_of_the_hand_off_are_told_with_what_they_have_not_done(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, ended_shards=2) as e:
        fleet, keys = fleet_of(e), e.settings.keys
        for _ in range(6):
            await (await e.tailrace.submit("x", model="rehearsal:tokens=1")).text(timeout=10)

        async def all_are_there() -> bool:
            return (await figures(fleet))(told.HANDOFF_ENTRIES) == 6

        await wait_until("all are handed off", all_are_there)
        for stream in keys.ended_streams:
            await redis.xgroup_create(stream, "index", id="0", mkstream=True)
            await redis.expire(stream, 60)  # one that no job went to has just been made
        taken = await redis.xreadgroup("index", "one", dict.fromkeys(keys.ended_streams, ">"), count=1)
        given = sum(len(entries) for _, entries in taken)
        await redis.xadd(keys.parked("index"), {"job": "x"})
        await redis.expire(keys.parked("index"), 60)
        seen = await figures(fleet)
        assert seen(told.HANDOFF_ADDED) == 6
        assert seen(told.HANDOFF_PENDING, group="index") == given
        assert seen(told.HANDOFF_LAG, group="index") == 6 - given
        assert seen(told.HANDOFF_PARKED, group="index") == 1


async def test_a_reading_serves_all_scrapes_for_a_while(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e:
        fleet = fleet_of(e, kept_s=60)
        first, second = await asyncio.gather(fleet.read(), fleet.read())
        await e.tailrace.submit("x", model="rehearsal")
        assert await fleet.read() is first is second


async def test_a_server_that_is_away_is_not_up_and_a_scrape_does_not_wait_for_it(namespace: str) -> None:
    redis: Any = Redis.from_url("redis://127.0.0.1:1")  # pyright: ignore[reportUnknownMemberType]  # redis-py's **kwargs
    async with redis:
        seen = await figures(Fleet(Broker(redis), Keys(namespace), lease_s=5))
    assert seen(told.REDIS_UP) == 0
    assert not any(seen.has(metric) for metric in told.FLEET if metric is not told.REDIS_UP)


async def test_a_real_server_tells_of_its_memory_and_its_disk(real_redis: Redis, namespace: str) -> None:
    fleet = Fleet(Broker(real_redis), Keys(namespace), lease_s=5, kept_s=0)
    seen = await figures(fleet)
    assert seen(told.REDIS_UP) == 1
    assert seen(told.REDIS_MEMORY) > 100_000
    assert not seen.has(told.REDIS_MEMORY_LIMIT)
    assert seen(told.REDIS_CLIENTS) >= 1
    assert (seen(told.REDIS_EVICTED), seen(told.REDIS_WRITES_FAIL)) == (0, 0)
    assert 0 < seen(told.REDIS_RESPONSE) < 2
    owner: Any = real_redis  # redis-py's own annotations are partly unknown
    await owner.config_set("maxmemory", 123456789)
    try:
        assert (await figures(fleet))(told.REDIS_MEMORY_LIMIT) == 123456789
    finally:
        await owner.config_set("maxmemory", 0)


@pytest.fixture
def own_server() -> Any:
    with EmbeddedServer(private=True) as server:
        yield server


async def test_a_gateways_user_may_read_all_of_it_and_a_producers_is_told_what_it_may_not(
    own_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys("fleet")
    admin: Any = Redis.from_url(own_server.tcp_url)  # pyright: ignore[reportUnknownMemberType]  # as above
    async with admin:
        await admin.xadd(keys.ended, {"job": "x", "status": "completed"})
        await admin.xgroup_create(keys.ended, "g", id="0")
        await admin.zadd(keys.workers, {"w": 1})
        expected: set[str] = set()
        for role in ("worker", "gateway", "producer"):
            await admin.execute_command("ACL", "SETUSER", role, "reset", "on", f">{role}", *rule(role, keys).split())
            place = own_server.tcp_url.rpartition("@")[2]
            redis: Any = Redis.from_url(f"redis://{role}:{role}@{place}")  # pyright: ignore[reportUnknownMemberType]  # as above
            async with redis:
                seen = await figures(Fleet(Broker(redis), keys, lease_s=5))
            names = {name for name in seen.names if name.startswith("tailrace_")}
            expected = expected or names
            assert seen(told.REDIS_UP) == 1
            if role == "producer":
                assert told.QUEUE_JOBS.name not in names
                assert seen(told.OPEN_JOBS) == 0
            else:
                parked = {told.HANDOFF_PARKED.name} if role == "gateway" else set[str]()
                assert names == expected - parked
                assert not caplog.messages
    assert [message for message in caplog.messages if "incomplete" in message] == [
        "metrics of the fleet are incomplete: Redis refuses ZRANGE to this user (docs/security.md has the rights)"
    ]


async def test_a_queue_on_a_server_of_its_own_is_told_of_apart(real_redis: Redis, namespace: str) -> None:
    """The one that is away does not hide what the other knows."""
    away: Any = Redis.from_url("redis://127.0.0.1:1")  # pyright: ignore[reportUnknownMemberType]  # as above
    keys = Keys(namespace)
    async with away:
        seen = await figures(Fleet(Broker(away, queue=Broker(real_redis)), keys, lease_s=5))
        assert (seen(told.REDIS_UP, server="logs"), seen(told.REDIS_UP, server="queue")) == (0, 1)
        assert seen(told.QUEUE_JOBS, state="due") == 0
        assert not seen.has(told.REDIS_MEMORY, server="logs")
        seen = await figures(Fleet(Broker(real_redis, queue=Broker(away)), keys, lease_s=5))
        assert (seen(told.REDIS_UP, server="logs"), seen(told.REDIS_UP, server="queue")) == (1, 0)
        assert seen(told.REDIS_MEMORY, server="logs") > 0
        assert not seen.has(told.QUEUE_JOBS)
