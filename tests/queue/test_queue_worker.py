"""The worker: picks up at once, holds what it runs, gives back what it does not finish, outlives trouble."""

import asyncio
import logging
import time
from collections import Counter
from datetime import timedelta
from typing import Any, cast

import pytest
from arq import Retry
from queue_workers import TTL_MS, AnyRedis, open_workers

from engine import wait_until
from tailrace.queue import CancelReason, Claimed, enqueue, payload_key
from tailrace.queue.leased import LeasedWorker
from tailrace.queue.leases import Leases
from tailrace.queue.names import IN_PROGRESS_PREFIX, RETRY_PREFIX
from tailrace.schemas.keys import Keys


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


class Stage:
    """A handler whose jobs wait until they are let go, and which remembers all that it sees."""

    def __init__(self) -> None:
        self.started: list[Claimed] = []
        self.cancelled: list[tuple[str, CancelReason | None, object]] = []
        self.go = asyncio.Event()

    async def __call__(self, job_id: str, claimed: Claimed) -> None:
        self.started.append(claimed)
        try:
            await self.go.wait()
        except asyncio.CancelledError as cancelled:
            self.cancelled.append((job_id, claimed.reason, cancelled.args[0] if cancelled.args else None))
            raise

    @property
    def jobs(self) -> list[str]:
        return [claimed.job_id for claimed in self.started]


async def nothing(job_id: str, claimed: Claimed) -> None:
    """A job that is done at once."""


async def left_of(redis: AnyRedis, keys: Keys, job_id: str) -> int:
    """How many entries Redis holds of a queued job."""
    queued = keys.queued(job_id)
    in_queue = await redis.zscore(keys.queue, queued) is not None
    kept = await redis.exists(payload_key(keys, job_id), IN_PROGRESS_PREFIX + queued, RETRY_PREFIX + queued)
    return int(in_queue + kept)


async def take_lease_away(redis: AnyRedis, keys: Keys, job_id: str) -> None:
    """As if the lease had run out and another worker had the job now."""
    queued = keys.queued(job_id)
    await redis.set(IN_PROGRESS_PREFIX + queued, b"somebody", px=TTL_MS)
    await redis.zadd(keys.queue, {queued: (time.time() + 60) * 1000})


async def test_a_job_that_returns_leaves_nothing_behind(redis: AnyRedis, keys: Keys) -> None:
    seen: list[tuple[str, str, int]] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        seen.append((job_id, claimed.worker, claimed.claims))

    async with open_workers(redis, keys) as worker:
        await worker(handler, worker_name="mill")
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("the job ran", lambda: seen)
        await wait_until("it is gone", lambda: gone(redis, keys, "a"))
    assert seen == [("a", "mill", 1)]


async def gone(redis: AnyRedis, keys: Keys, job_id: str) -> bool:
    return not await left_of(redis, keys, job_id)


async def test_a_burst_runs_the_whole_queue_and_returns(redis: AnyRedis, keys: Keys) -> None:
    ran: Counter[str] = Counter()

    async def handler(job_id: str, claimed: Claimed) -> None:
        ran[job_id] += 1
        await asyncio.sleep(0)

    for number in range(50):
        await enqueue(redis, keys, f"j{number}", delay_ms=number % 5 * 10, ttl_ms=TTL_MS)
    async with open_workers(redis, keys) as worker:
        busy = await worker(handler, burst=True, max_jobs=4, lease_s=5)
        assert busy.main_task is not None
        await asyncio.wait_for(busy.main_task, 20)
    assert ran == Counter({f"j{number}": 1 for number in range(50)})
    assert busy.jobs_complete == 50


async def test_pick_up_does_not_wait_for_the_look(redis: AnyRedis, keys: Keys) -> None:
    stage = Stage()
    async with open_workers(redis, keys) as worker:
        await worker(stage, look_s=60, lease_s=60)
        await asyncio.sleep(0.02)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("picked up long before the next look", lambda: stage.started, 5)
        stage.go.set()


async def test_a_slot_is_refilled_as_soon_as_its_job_ends(redis: AnyRedis, keys: Keys) -> None:
    running, most, ran = 0, 0, 0

    async def handler(job_id: str, claimed: Claimed) -> None:
        nonlocal running, most, ran
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        ran += 1

    for number in range(20):
        await enqueue(redis, keys, f"j{number}", ttl_ms=TTL_MS)
    async with open_workers(redis, keys) as worker:
        await redis.delete(keys.wake)
        await worker(handler, max_jobs=3, look_s=60, lease_s=60)
        await wait_until("all ran without a look or a word in between", lambda: ran == 20, 5)
    assert most == 3


async def test_a_deferred_job_runs_on_time_and_not_before(redis: AnyRedis, keys: Keys) -> None:
    ran: list[int] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        seconds, micros = await redis.time()
        ran.append(seconds * 1000 + micros // 1000 - claimed.due_ms)

    async with open_workers(redis, keys) as worker:
        await worker(handler, look_s=60, lease_s=60)
        await asyncio.sleep(0.02)
        await enqueue(redis, keys, "a", delay_ms=150, ttl_ms=TTL_MS)
        await wait_until("it ran, long before the next look", lambda: ran, 5)
    assert ran[0] >= 0


@pytest.mark.parametrize("defer_s", [0.0, 0.1])
async def test_a_job_that_asks_for_it_runs_again(redis: AnyRedis, keys: Keys, defer_s: float) -> None:
    times: list[float] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        times.append(time.monotonic())
        if claimed.claims == 1:
            raise Retry(defer=timedelta(seconds=defer_s))

    async with open_workers(redis, keys) as worker:
        await worker(handler, look_s=60, lease_s=60)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it ran twice", lambda: len(times) == 2, 5)
        await wait_until("it is gone", lambda: gone(redis, keys, "a"))
    assert times[1] - times[0] >= defer_s


async def test_a_handler_that_fails_does_not_lose_its_job_nor_tell_the_log_what_it_read(
    redis: AnyRedis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    claims: list[int] = []
    secret = "a " + "secret prompt"

    async def handler(job_id: str, claimed: Claimed) -> None:
        claims.append(claimed.claims)
        if claimed.claims < 3:
            raise ValueError(f"{secret}: {job_id}")

    with caplog.at_level(logging.DEBUG):
        async with open_workers(redis, keys) as worker:
            await worker(handler, error_delay_s=0.01)
            await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
            await wait_until("the third claim ends well", lambda: gone(redis, keys, "a"))
    assert claims == [1, 2, 3]
    assert "'a': its handler raised ValueError" in caplog.text
    assert secret not in caplog.text


async def test_a_handler_that_blocks_the_loop_for_longer_than_the_lease_keeps_its_job(
    redis: AnyRedis, keys: Keys
) -> None:
    stage = Stage()
    before: list[float] = []
    after: list[float] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        before.append(await redis.zscore(keys.queue, keys.queued(job_id)))
        time.sleep(0.8)  # noqa: ASYNC251 -- this is what is tested
        after.append(await redis.zscore(keys.queue, keys.queued(job_id)))

    async with open_workers(redis, keys) as worker:
        await worker(handler, lease_s=0.3)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it ran", lambda: after)
        await wait_until("it is gone", lambda: gone(redis, keys, "a"))
    assert after[0] - before[0] > 300, "the lease was renewed meanwhile"
    assert not stage.cancelled


async def test_a_lost_lease_cancels_once_and_leaves_the_new_holders_entries_alone(
    redis: AnyRedis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    # Not even tried: this worker may hold the job anew, and then the owner check would not refuse.
    settled: list[str] = []

    async def settle(self: Leases, queued_id: str, **_: int) -> bool:
        settled.append(queued_id)
        return True

    monkeypatch.setattr(Leases, "settle", settle)
    async with open_workers(redis, keys) as worker:
        mill = await worker(stage)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it runs", lambda: stage.started)
        await take_lease_away(redis, keys, "a")
        await wait_until("it is cancelled", lambda: stage.cancelled)
        await mill.drain(0)
    assert stage.cancelled == [("a", CancelReason.LEASE_LOST, "lease lost")]
    assert not settled
    assert await redis.get(IN_PROGRESS_PREFIX + keys.queued("a")) == b"somebody"
    assert await redis.zscore(keys.queue, keys.queued("a")) is not None
    assert await redis.exists(payload_key(keys, "a"))


async def test_a_run_ends_when_its_own_worker_claims_the_job_after_another_had_it(redis: AnyRedis, keys: Keys) -> None:
    stage = Stage()
    async with open_workers(redis, keys) as worker:
        await worker(stage, lease_s=60)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it runs", lambda: stage.started)
        # As if this worker had slept while another took the job and handed it back.
        await redis.delete(IN_PROGRESS_PREFIX + keys.queued("a"))
        await redis.zadd(keys.queue, {keys.queued("a"): 1})
        await redis.lpush(keys.wake, b"1")
        await wait_until("it runs anew", lambda: len(stage.started) == 2)
        stage.go.set()
        await wait_until("it is done", lambda: gone(redis, keys, "a"))
    assert stage.cancelled == [("a", CancelReason.LEASE_LOST, "lease lost")]


async def test_a_job_taken_out_of_the_queue_stops_at_the_next_renewal(redis: AnyRedis, keys: Keys) -> None:
    stage = Stage()
    async with open_workers(redis, keys) as worker:
        await worker(stage)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it runs", lambda: stage.started)
        await redis.zrem(keys.queue, keys.queued("a"))
        await wait_until("it is cancelled", lambda: stage.cancelled)
    assert stage.cancelled[0][1] is CancelReason.LEASE_LOST


async def test_all_reasons_together_cancel_once(redis: AnyRedis, keys: Keys) -> None:
    cancellations = 0
    cleaned_up = asyncio.Event()
    seen: list[Claimed] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        nonlocal cancellations
        seen.append(claimed)
        while not cleaned_up.is_set():
            try:
                await cleaned_up.wait()
            except asyncio.CancelledError:
                cancellations += 1

    async with open_workers(redis, keys) as worker:
        mill = await worker(handler, job_timeout_s=0.05)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("its time limit cancels it", lambda: cancellations)
        assert seen[0].reason is CancelReason.TIMEOUT
        assert not seen[0].cancel(CancelReason.CANCELLED)
        draining = asyncio.create_task(mill.drain(0))
        await take_lease_away(redis, keys, "a")
        await wait_until("the loss is known", lambda: seen[0].reason is CancelReason.LEASE_LOST)
        cleaned_up.set()
        await draining
    assert cancellations == 1


async def test_a_job_cancelled_before_its_handler_starts_does_not_start(
    redis: AnyRedis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    run_job = LeasedWorker.run_job

    async def cancelled_first(self: LeasedWorker, job_id: str, score: int) -> None:
        self.running["a"].cancel(CancelReason.DRAIN)
        await run_job(self, job_id, score)

    monkeypatch.setattr(LeasedWorker, "run_job", cancelled_first)
    async with open_workers(redis, keys) as worker:
        mill = await worker(stage)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it was handed back", lambda: mill.jobs_retried)
        await mill.drain(0)
    assert not stage.started
    assert await redis.zscore(keys.queue, keys.queued("a")) is not None


async def test_a_job_that_comes_back_while_its_lost_run_still_ends_waits_for_that(redis: AnyRedis, keys: Keys) -> None:
    events: list[str] = []
    cleaned_up = asyncio.Event()

    async def handler(job_id: str, claimed: Claimed) -> None:
        if events:
            events.append("second run")
            return
        events.append("first run")
        try:
            await asyncio.sleep(TTL_MS)
        finally:
            events.append("cancelled")
            await cleaned_up.wait()
            events.append("first run ends")

    async with open_workers(redis, keys) as worker:
        mill = await worker(handler)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it runs", lambda: events)
        await take_lease_away(redis, keys, "a")
        await wait_until("it is cancelled", lambda: len(events) == 2)
        # The other worker hands the job back.
        await redis.delete(IN_PROGRESS_PREFIX + keys.queued("a"))
        await redis.zadd(keys.queue, {keys.queued("a"): 1})
        await redis.lpush(keys.wake, b"1")
        await wait_until("it is claimed again", lambda: claimed_again(redis, keys))
        await wait_until("it is handed back for now", lambda: mill.job_counter == 1)
        cleaned_up.set()
        await wait_until("it is done", lambda: gone(redis, keys, "a"))
    assert events == ["first run", "cancelled", "first run ends", "second run"]


async def claimed_again(redis: AnyRedis, keys: Keys) -> bool:
    return bool(await redis.zscore(keys.queue, keys.queued("a")) != 1)


async def test_drain_lets_jobs_end_within_the_grace(redis: AnyRedis, keys: Keys) -> None:
    stage = Stage()
    async with open_workers(redis, keys) as worker:
        mill = await worker(stage)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it runs", lambda: stage.started)
        draining = asyncio.create_task(mill.drain(20))
        await wait_until("no more is claimed", lambda: cast("Any", mill)._looking_ended.is_set())
        await enqueue(redis, keys, "late", ttl_ms=TTL_MS)
        stage.go.set()
        await asyncio.wait_for(draining, 5)
    assert stage.jobs == ["a"]
    assert not stage.cancelled
    assert await gone(redis, keys, "a")
    assert not await gone(redis, keys, "late")


async def test_drain_hands_back_what_does_not_end_and_another_worker_has_it_at_once(
    redis: AnyRedis, keys: Keys
) -> None:
    first, second = Stage(), Stage()
    async with open_workers(redis, keys) as worker:
        mill = await worker(first, lease_s=30, look_s=30, max_jobs=3, error_delay_s=60)
        for job_id in ("a", "b"):
            await enqueue(redis, keys, job_id, ttl_ms=TTL_MS)
        await wait_until("both run", lambda: len(first.started) == 2)
        await worker(second, lease_s=30, look_s=30, worker_name="other")
        await asyncio.wait_for(mill.drain(0.05), 5)
        await wait_until("the other runs both", lambda: sorted(second.jobs) == ["a", "b"], 5)
        second.go.set()
        await wait_until("a is gone", lambda: gone(redis, keys, "a"))
        await wait_until("b is gone", lambda: gone(redis, keys, "b"))
    assert sorted(first.cancelled) == [
        ("a", CancelReason.DRAIN, "drain"),
        ("b", CancelReason.DRAIN, "drain"),
    ]
    assert [claimed.claims for claimed in second.started] == [2, 2]


async def test_a_word_heard_by_a_full_worker_wakes_another(redis: AnyRedis, keys: Keys) -> None:
    full, free = Stage(), Stage()
    async with open_workers(redis, keys) as worker:
        await worker(full, max_jobs=1, lease_s=30, look_s=30)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("the first is full", lambda: full.started)
        await worker(free, max_jobs=1, lease_s=30, look_s=30, worker_name="other")
        await asyncio.sleep(0.02)
        await enqueue(redis, keys, "b", ttl_ms=TTL_MS)
        await wait_until("the second has the other job", lambda: free.started, 5)
        full.go.set()
        free.go.set()


async def test_workers_never_run_one_job_at_a_time_twice(redis: AnyRedis, keys: Keys) -> None:
    running: Counter[str] = Counter()
    ran: Counter[str] = Counter()
    overlaps: list[str] = []

    async def handler(job_id: str, claimed: Claimed) -> None:
        running[job_id] += 1
        if running[job_id] > 1:
            overlaps.append(job_id)
        try:
            await asyncio.sleep(0.01)
            if claimed.claims == 1 and job_id.endswith("7"):
                raise Retry(defer=0.005)
        finally:
            running[job_id] -= 1
        ran[job_id] += 1

    jobs = [f"j{number}" for number in range(150)]
    async with open_workers(redis, keys) as worker:
        for name in ("one", "two", "three"):
            await worker(handler, worker_name=name, max_jobs=7)
        for job_id in jobs:
            await enqueue(redis, keys, job_id, ttl_ms=TTL_MS)
        await wait_until("all ran", lambda: len(ran) == len(jobs), 20)
    assert not overlaps
    assert ran == Counter(dict.fromkeys(jobs, 1))


async def test_junk_in_the_queue_is_dropped_by_name_and_the_rest_runs(
    redis: AnyRedis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    stage.go.set()
    await redis.zadd(keys.queue, {b"\xff\xfe": 1, b"other:job": 2, keys.queued("expired"): 3})
    for job_id, payload in {"pickled": b"\x80\x04secret.", "other": b'{"f":"secret"}', "huge": b"[" * 10**6}.items():
        await enqueue(redis, keys, job_id, ttl_ms=TTL_MS)
        await redis.set(payload_key(keys, job_id), payload, px=TTL_MS)
    await enqueue(redis, keys, "fine", ttl_ms=TTL_MS)
    async with open_workers(redis, keys) as worker:
        await worker(stage, max_jobs=1)
        await wait_until("the queue is empty", lambda: _empty(redis, keys))
    assert stage.jobs == ["fine"]
    for name in (b"\xff\xfe", b"other:job", keys.queued("expired").encode()):
        assert f"dropped {name!r} from the queue" in caplog.text
    for job_id in ("pickled", "other", "huge"):
        assert f"dropped {keys.queued(job_id)!r} from the queue" in caplog.text
        assert await gone(redis, keys, job_id)
    assert "secret" not in caplog.text


async def _empty(redis: AnyRedis, keys: Keys) -> bool:
    return not await redis.zcard(keys.queue)


async def test_a_payload_exchanged_after_the_claim_runs_nothing(
    redis: AnyRedis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    stage.go.set()
    await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
    await redis.set(payload_key(keys, "a"), b"\x80\x04.", px=TTL_MS)
    # The first look at the payload finds it fine; what arq reads then is not.
    monkeypatch.setattr("tailrace.queue.leased.load_payload", len)
    async with open_workers(redis, keys) as worker:
        await worker(stage)
        await wait_until("it is gone", lambda: gone(redis, keys, "a"))
    assert not stage.started


async def test_an_error_of_redis_does_not_end_the_worker_and_is_logged_once(
    redis: AnyRedis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    stage.go.set()
    await redis.set(keys.queue, b"not a queue", px=TTL_MS)
    async with open_workers(redis, keys) as worker:
        mill = await worker(stage, look_s=0.01)
        await wait_until("it has failed more than once", lambda: cast("Any", mill)._outage._failures > 2)
        await redis.delete(keys.queue)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await wait_until("it works again", lambda: stage.started)
    assert caplog.text.count("Redis does not answer as it should") == 1
