"""What the sweep finds and heals, and that it changes nothing that is in order."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from engine import engine
from engine import wait_until as until
from job_logs import Job, attached, request, sealed, submitted
from tailrace.joblog import Broker, erase, look
from tailrace.producer import Producer
from tailrace.queue import enqueue
from tailrace.schemas import FIRST, Keys, Status
from tailrace.worker import sweep as module
from tailrace.worker.checkup import LONGEST_WAIT_MS, Finding
from tailrace.worker.registry import WorkerCard, announce, known_workers, take_leave
from tailrace.worker.sweep import NEXT_CHECK_MS, reopen, sweep, sweep_for_ever, sweep_report


async def due(job: Job) -> None:
    """The next sweep checks it."""
    await job.broker.call("ZADD", job.keys.open, "XX", 1, job.job_id)


async def place(job: Job) -> float | None:
    """Where it stands in the queue."""
    score = await job.broker.call("ZSCORE", job.keys.queue, job.keys.queued(job.job_id))
    return None if score is None else float(score)


async def unqueue(job: Job) -> None:
    await job.broker.call("ZREM", job.keys.queue, job.keys.queued(job.job_id))


async def next_check(job: Job) -> float | None:
    score = await job.broker.call("ZSCORE", job.keys.open, job.job_id)
    return None if score is None else float(score)


async def overdue(job: Job) -> None:
    """Rewrite its first record as of one that was submitted long ago."""
    first = (await job.entries())[0]
    log = job.keys.log(job.job_id)
    ttl = await job.broker.call("PTTL", log)
    await job.broker.call("DEL", log)
    await job.broker.call("XADD", log, FIRST, "job", json.dumps({**json.loads(first.value), "deadline": 1}))
    await job.broker.call("PEXPIRE", log, ttl)


async def test_a_job_that_was_stored_but_not_queued_is_queued(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await unqueue(job)
    await due(job)
    swept = await sweep(job.broker, job.keys)
    assert (swept.checked, swept.healed) == (1, {"queued": 1})
    assert await place(job) is not None
    assert (await next_check(job) or 0) > await job.broker.now_ms()


async def test_a_job_in_progress_that_the_queue_has_lost_is_queued_at_once(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, delay=0.01)
    pen = await job.claim()
    await pen.write("a")
    await unqueue(job)
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"queued": 1}
    assert (await place(job) or 1e18) <= await job.broker.now_ms()


async def test_a_delayed_job_that_the_queue_has_lost_is_queued_for_its_own_time(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, delay=600.0)
    before = await place(job)
    await unqueue(job)
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"queued": 1}
    assert await place(job) == pytest.approx(before, abs=50)
    assert (await next_check(job) or 0) > (before or 0), "or it would be taken for stuck"


async def test_a_job_whose_turn_never_comes_since_the_clock_went_back_is_brought_forward(
    redis: Redis, namespace: str
) -> None:
    job = await submitted(redis, namespace)
    queued_id = job.keys.queued("job")
    far = await job.broker.now_ms() + LONGEST_WAIT_MS + 60_000
    await job.broker.call("ZADD", job.keys.queue, "XX", far, queued_id)
    await job.broker.call("SET", f"arq:in-progress:{queued_id}", "dead", "PX", 3_600_000)
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"queued": 1}
    assert (await place(job) or 1e18) <= await job.broker.now_ms()
    assert not await job.broker.call("EXISTS", f"arq:in-progress:{queued_id}")


async def test_a_lease_that_is_held_is_left_alone(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    lease_ends = await job.broker.now_ms() + LONGEST_WAIT_MS - 1000
    await job.broker.call("ZADD", job.keys.queue, "XX", lease_ends, job.keys.queued("job"))
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {}
    assert await place(job) == lease_ends


async def test_a_sealed_job_is_archived_handed_off_and_taken_off_the_queue(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, delay=600.0)
    await sealed(job, Status.CANCELLED)
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"settled": 1}
    assert await place(job) is None
    assert await next_check(job) is None
    assert await job.broker.call("XLEN", job.keys.log("job")) == 0
    assert (await look(job.broker, job.keys, "job")).status is Status.CANCELLED
    assert await job.broker.call("XLEN", job.keys.ended) == 1
    assert (await sweep(job.broker, job.keys)).checked == 0


async def test_a_job_that_is_cancelled_long_before_it_is_due_is_out_of_the_queue_at_the_next_sweep(
    redis: Redis, namespace: str
) -> None:
    job = await submitted(redis, namespace, delay=600.0)
    await Producer(job.broker, job.keys).cancel("job")
    assert (await sweep(job.broker, job.keys)).healed == {"settled": 1}
    assert (await next_check(job), await place(job)) == (None, None)


async def test_a_sealed_job_that_somebody_holds_is_left_in_his_hands(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await sealed(job)
    holder = f"arq:in-progress:{job.keys.queued('job')}"
    await job.broker.call("SET", holder, "w", "PX", 60_000)
    await due(job)
    await sweep(job.broker, job.keys)
    assert await place(job) is not None


async def test_a_deleted_job_leaves_the_index_and_the_queue(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, delay=600.0)
    await sealed(job)
    await erase(job.broker, job.keys, "job")
    await due(job)
    await sweep(job.broker, job.keys)
    assert (await next_check(job), await place(job)) == (None, None)


async def test_an_id_without_a_log_is_forgotten(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, delay=600.0)
    await job.broker.call("DEL", job.keys.log("job"))
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"dropped": 1}
    assert (await next_check(job), await place(job)) == (None, None)


async def test_a_job_past_its_deadline_is_ended(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await overdue(job)
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"expired": 1}
    assert (await look(job.broker, job.keys, "job")).status is Status.EXPIRED
    assert (await next_check(job), await place(job)) == (None, None)


async def test_a_job_whose_log_was_trimmed_is_ended_as_failed(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    await pen.write("a", "b")
    await job.broker.call("XTRIM", job.keys.log("job"), "MAXLEN", 2)
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"failed": 1}
    overview = await look(job.broker, job.keys, "job")
    assert overview.status is Status.FAILED
    assert overview.end is not None
    assert overview.end["error"]["type"] == "history_lost"  # type: ignore[index,call-overload]  # foreign JSON
    assert (await next_check(job), await place(job)) == (None, None)


async def test_a_job_that_the_index_has_lost_is_put_back_from_the_queue(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    for number in range(5):
        await submitted(redis, namespace, f"other{number}")
    await submitted(redis, namespace, "ended")
    await sealed(await attached(job.broker, job.keys, "ended"))
    await job.broker.call("DEL", job.keys.open)
    count, start = await reopen(job.broker, job.keys, 0)
    assert (count, start) == (6, 0)
    assert (await next_check(job) or 0) > await job.broker.now_ms()
    assert await job.broker.call("ZSCORE", job.keys.open, "ended") is None
    assert await reopen(job.broker, job.keys, 0) == (0, 0)


async def test_the_queue_is_compared_with_the_index_a_hundred_at_a_time_in_turn(redis: Redis, namespace: str) -> None:
    broker, keys = Broker(redis), Keys(namespace)
    await Producer(broker, keys).submit_many([(request(), f"job{number:03}") for number in range(150)])
    await broker.call("DEL", keys.open)
    assert await reopen(broker, keys, 0) == (100, 100)
    assert await reopen(broker, keys, 100) == (50, 0)
    assert await broker.call("ZCARD", keys.open) == 150


async def test_many_sweeping_workers_check_each_job_once(redis: Redis, namespace: str) -> None:
    broker, keys = Broker(redis), Keys(namespace)
    await Producer(broker, keys).submit_many([(request(), None) for _ in range(250)])
    for job_id in await broker.call("ZRANGE", keys.open, 0, -1):
        await broker.call("ZADD", keys.open, "XX", 1, job_id)
    swept = await asyncio.gather(*(sweep(broker, keys) for _ in range(8)))
    assert sum(each.checked for each in swept) == 250
    now_ms = await broker.now_ms()
    scores = [float(score) for score in (await broker.call("ZRANGE", keys.open, 0, -1, "WITHSCORES"))[1::2]]
    assert all(now_ms < score <= now_ms + NEXT_CHECK_MS for score in scores)


async def test_a_round_is_bounded(redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "A_ROUND", 20)
    monkeypatch.setattr(module, "AT_ONCE", 10)
    broker, keys = Broker(redis), Keys(namespace)
    await Producer(broker, keys).submit_many([(request(), None) for _ in range(50)])
    for job_id in await broker.call("ZRANGE", keys.open, 0, -1):
        await broker.call("ZADD", keys.open, "XX", 1, job_id)
    assert [(await sweep(broker, keys)).checked for _ in range(4)] == [20, 20, 10, 0]


async def planted_kind(job: Job) -> None:
    log = job.keys.log(job.job_id)
    await job.broker.call("DEL", log)
    await job.broker.call("SET", log, "x", "PX", 60_000)


async def planted_json(job: Job) -> None:
    log = job.keys.log(job.job_id)
    await job.broker.call("DEL", log)
    await job.broker.call("XADD", log, FIRST, "job", "{")
    await job.broker.call("PEXPIRE", log, 60_000)


@pytest.mark.parametrize("plant", [planted_kind, planted_json])
async def test_what_is_none_of_ours_does_not_stop_the_sweep(
    redis: Redis, namespace: str, plant: Callable[[Job], Awaitable[None]]
) -> None:
    odd = await submitted(redis, namespace, "a")
    job = await submitted(redis, namespace, "b")
    await plant(odd)
    await unqueue(job)
    await due(odd)
    await due(job)
    assert (await sweep(job.broker, job.keys)).healed == {"queued": 1, "skipped": 1}


async def test_the_report_tells_what_a_sweep_would_find_and_changes_nothing(redis: Redis, namespace: str) -> None:
    well = await submitted(redis, namespace, "well")
    lost = await submitted(redis, namespace, "lost")
    ended = await submitted(redis, namespace, "ended")
    await unqueue(lost)
    await sealed(ended)
    await due(lost)
    await announce(well.broker, well.keys, WorkerCard("w", host="h", pid=7, jobs=1, max_jobs=9), counts_s=60)
    before = await well.broker.call("ZRANGE", well.keys.open, 0, -1, "WITHSCORES")
    report = await sweep_report(well.broker, well.keys)
    assert dict(report.findings) == {Finding.WELL: 1, Finding.UNQUEUED: 1, Finding.ENDED: 1}
    assert dict(report.jobs) == {Finding.UNQUEUED: ("lost",), Finding.ENDED: ("ended",)}
    assert (report.checked, report.open, report.queued, report.late) == (3, 3, 2, 1)
    assert [(card.name, card.pid, card.jobs, card.alive) for card in report.workers] == [("w", 7, 1, True)]
    assert await well.broker.call("ZRANGE", well.keys.open, 0, -1, "WITHSCORES") == before


async def test_workers_announce_themselves_take_their_leave_and_are_missed(redis: Redis, namespace: str) -> None:
    broker, keys = Broker(redis), Keys(namespace)
    async with engine(redis, namespace) as running:
        assert running.worker is not None
        name = running.worker.name

        async def announced() -> bool:
            return [card.name for card in await known_workers(broker, keys) if card.alive] == [name]

        await until("the worker is announced", announced)
        await announce(broker, keys, WorkerCard("dead"), counts_s=0.001)

        async def missed() -> bool:
            return [card.name for card in await known_workers(broker, keys) if not card.alive] == ["dead"]

        await until("the dead one is missed", missed)
        await take_leave(broker, keys, "dead")
    assert await known_workers(broker, keys) == []


async def test_a_sweep_that_healed_says_so_in_one_line(
    redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [await submitted(redis, namespace, f"job{number}") for number in range(30)]
    for job in jobs:
        await unqueue(job)
        await due(job)
    caplog.set_level(logging.INFO)
    sweeping = asyncio.create_task(sweep_for_ever(jobs[0].broker, jobs[0].keys, every_s=0.01))

    async def all_queued() -> bool:
        return None not in [await place(job) for job in jobs]

    await until("all are queued", all_queued)
    await until("it is said", lambda: len(caplog.messages) > 0)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    assert caplog.messages == ["sweep: of 30 open jobs checked: queued 30"]


async def test_a_running_fleet_finishes_a_job_that_fell_out_of_every_index(redis: Redis, namespace: str) -> None:
    """The index is evicted while the job waits; then the queue loses it too."""
    async with engine(redis, namespace) as running:
        broker, keys = Broker(redis), Keys(namespace)
        job = await running.tailrace.submit("x", params={"rehearsal": {"tokens": 3}}, delay=0.4)
        await broker.call("DEL", keys.open)

        async def known() -> Any:
            return await broker.call("ZSCORE", keys.open, job.id)

        await until("it is in the index again", known)
        await broker.call("ZREM", keys.queue, keys.queued(job.id))
        await broker.call("ZADD", keys.open, "XX", 1, job.id)
        assert await job.text(timeout=10) == " token0 token1 token2"


async def test_an_enqueue_that_meets_an_outage_does_not_end_the_sweep(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await job.broker.call("DEL", job.keys.queue)
    await job.broker.call("SET", job.keys.queue, "planted", "PX", 60_000)
    sweeping = asyncio.create_task(sweep_for_ever(job.broker, job.keys, every_s=0.01))
    await asyncio.wait([sweeping], timeout=0.2)
    assert not sweeping.done()
    await job.broker.call("DEL", job.keys.queue)
    await due(job)

    async def queued() -> bool:
        return await place(job) is not None

    await until("it is queued", queued)
    assert not await enqueue(redis, job.keys, "job", ttl_ms=1000)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
