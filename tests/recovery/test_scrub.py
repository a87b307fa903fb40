"""The scrub: what the queue's server has lost is found again in the logs, which are on another one."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import ConnectionPool, Redis
from two_servers import Two

from engine import wait_until
from job_logs import archived, sealed
from tailrace.cli.doctor_jobs import jobs_findings
from tailrace.joblog import Broker
from tailrace.joblog.rights import rule
from tailrace.schemas import BrokerUnavailable, Keys, Status
from tailrace.worker import scrub as module
from tailrace.worker.registry import WorkerCard, announce
from tailrace.worker.scrub import Scrub, walks
from tailrace.worker.settle import settle
from tailrace.worker.sweep import sweep


async def test_jobs_that_the_queues_server_has_lost_are_queued_again(two: Two) -> None:
    await two.submitted("waiting")
    delayed = await two.submitted("delayed", delay=600.0)
    due = await two.queued("delayed")
    pen = await (await two.submitted("running")).claim()
    await pen.write("a")
    for job_id in ("waiting", "delayed", "running"):
        await two.forget(job_id)
    assert (await two.scrubbed()).checked == 0, "nobody has noticed a change"
    await two.changed()
    assert (await two.scrubbed()).healed == {"queued": 3}
    now = await two.broker.queue.now_ms()
    for job_id in ("waiting", "running"):
        assert (await two.queued(job_id) or 1e18) <= now
    assert await two.queued(delayed.job_id) == pytest.approx(due, abs=100)


async def test_a_job_that_runs_has_a_lease_to_find_out(two: Two) -> None:
    await (await two.submitted("running")).claim()
    await two.submitted("waiting")
    for job_id in ("running", "waiting"):
        await two.forget(job_id)
    await two.changed()
    assert (await two.scrubbed(Scrub(two.broker, two.keys, lease_s=30))).healed == {"queued": 1}
    assert await two.queued("running") is None
    await two.queue.zincrby(two.keys.open, -30_000, "running")
    assert (await sweep(two.broker, two.keys)).healed == {"queued": 1}


async def test_a_server_that_comes_back_empty_is_told_of_every_job(two: Two) -> None:
    scrub = Scrub(two.broker, two.keys, lease_s=0)
    await two.scrubbed(scrub)
    await two.submitted("open")
    await sealed(await two.submitted("ended"))
    await archived(await two.submitted("settled"))
    await settle(two.broker, two.keys, "settled")
    assert await two.told() == ["settled"]
    await two.queue.flushall()
    assert (await two.scrubbed(scrub)).healed == {"queued": 1, "settled": 2}
    assert sorted(await two.told()) == ["ended", "settled"]
    await two.later()
    assert (await two.scrubbed(scrub)).healed == {}
    assert await two.walks() == 2
    assert len(await two.told()) == 2, "the second walk hears what the first one has told"


async def test_an_end_that_nobody_was_told_of_is_handed_off(two: Two) -> None:
    job = await two.submitted()
    await sealed(job, Status.CANCELLED)
    await two.forget("job")
    await two.changed()
    assert (await two.scrubbed()).healed == {"settled": 1}
    assert await two.told() == ["job"]
    assert await job.broker.call("XLEN", job.keys.log("job")) == 0


async def test_a_job_of_which_all_was_lost_with_its_hand_off_is_handed_off_again(two: Two) -> None:
    for job_id in ("lost", "kept"):
        await archived(await two.submitted(job_id))
        assert await settle(two.broker, two.keys, job_id)
    (lost, _), _ = await two.queue.xrange(two.keys.ended)
    await two.queue.xdel(two.keys.ended, lost)
    await two.forget("lost")
    await two.changed()
    assert (await two.scrubbed()).healed == {"settled": 1}
    assert await two.told() == ["kept", "lost"]


async def test_what_was_handed_off_before_the_loss_is_not_told_again(two: Two) -> None:
    await archived(await two.submitted())
    assert await settle(two.broker, two.keys, "job")
    # The stream keeps the last ones only; the server has lost nothing of that time.
    await two.queue.xtrim(two.keys.ended, maxlen=0)
    await two.queue.hincrby(two.keys.scrub, "seen", 120_000)
    await two.changed()
    assert (await two.scrubbed()).checked == 0
    assert await two.told() == []


async def test_a_deleted_job_is_not_told_of(two: Two) -> None:
    await archived(await two.submitted())
    await two.broker.call("DEL", two.keys.snapshot("job"))
    await two.queue.flushall()
    assert (await two.scrubbed()).checked == 0


async def test_a_job_that_ends_while_nobody_knows_of_it_is_handed_off_once(two: Two) -> None:
    await sealed(await two.submitted())
    await two.forget("job")
    assert await settle(two.broker, two.keys, "job")
    assert await settle(two.broker, two.keys, "job")
    assert await two.told() == ["job"]


async def test_a_minute_later_it_is_walked_once_more_and_then_never_again(two: Two) -> None:
    """A primary that hung, and wakes up when it has been replaced, takes jobs for some seconds."""
    await two.changed()
    await two.scrubbed()
    assert await two.walks() == 1
    await two.submitted()
    await two.forget("job")
    assert (await two.scrubbed()).checked == 0
    await two.later()
    assert (await two.scrubbed()).healed == {"queued": 1}
    assert await two.walks() == 2
    await two.forget("job")
    assert (await two.scrubbed()).checked == 0


async def test_one_worker_walks_and_another_goes_on_when_it_dies(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP", 1)
    monkeypatch.setattr(module, "_A_ROUND", 1)
    for number in range(40):
        await two.submitted(f"job{number}")
        await two.forget(f"job{number}")
    await two.changed()
    first, second = Scrub(two.broker, two.keys, lease_s=0), Scrub(two.broker, two.keys, lease_s=0)
    assert await first.round()
    assert not await second.round(), "one walks, the other does not"
    # The first one is heard of no more.
    await two.queue.hset(two.keys.scrub, "until", 0)
    assert (await two.scrubbed(second)).healed == {"queued": 40}
    assert await two.walks() == 1


async def test_a_server_that_changes_during_the_walk_is_walked_for_anew(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEP", 1)
    monkeypatch.setattr(module, "_A_ROUND", 3)
    for number in range(40):
        await two.submitted(f"job{number}")
    await two.changed()
    scrub = Scrub(two.broker, two.keys, lease_s=0)
    assert await scrub.round()
    for number in range(40):
        await two.forget(f"job{number}")
    await two.changed()
    assert (await two.scrubbed(scrub)).healed == {"queued": 40}
    assert await two.walks() == 1


async def test_a_walk_that_meets_another_process_of_the_logs_begins_there_anew(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEP", 1)
    monkeypatch.setattr(module, "_A_ROUND", 1)
    for number in range(40):
        await two.submitted(f"job{number}")
    await two.changed()
    scrub = Scrub(two.broker, two.keys, lease_s=0)
    for _ in range(3):
        assert await scrub.round()
    for number in range(40):
        await two.forget(f"job{number}")
    assert scrub._walk is not None  # pyright: ignore[reportPrivateUsage] -- as if the logs' server had been restarted
    scrub._walk.places[""].run_id = "another"  # pyright: ignore[reportPrivateUsage] -- the same
    assert (await two.scrubbed(scrub)).healed == {"queued": 40}


async def test_what_is_none_of_ours_stops_nobody(two: Two) -> None:
    await two.submitted()
    await two.forget("job")
    await two.broker.call("SET", two.keys.log("other"), "text", "PX", 60_000)
    await two.broker.call("SET", f"{two.keys.namespace}:{{no id!}}:log", "text", "PX", 60_000)
    await two.broker.call("SET", b"\xff\xfe", "text", "PX", 60_000)
    await two.changed()
    assert (await two.scrubbed()).healed == {"queued": 1}


async def test_a_workers_rights_are_enough(two: Two, real_redis: Any) -> None:
    make: Any = Redis
    users: list[Any] = []
    for redis in (real_redis, two.queue):
        rules = rule("worker", two.keys).split()
        await redis.execute_command("ACL", "SETUSER", "walker", "reset", "on", ">secret", *rules)
        options = redis.connection_pool.connection_kwargs
        where = {name: options[name] for name in ("host", "port", "path") if name in options}
        kind = redis.connection_pool.connection_class
        pool: Any = ConnectionPool(connection_class=kind, username="walker", password="secret", **where)
        users.append(make(connection_pool=pool))
    await two.submitted()
    await two.forget("job")
    await two.changed()
    async with users[0], users[1]:
        broker = Broker(users[0], queue=Broker(users[1]))
        assert (await two.scrubbed(Scrub(broker, two.keys, lease_s=0))).healed == {"queued": 1}
        for user in users:
            await user.connection_pool.disconnect()
    assert await two.walks() == 1
    for redis in (real_redis, two.queue):
        await redis.execute_command("ACL", "DELUSER", "walker")


async def test_where_logs_and_queue_share_a_server_there_is_nothing_to_do(redis: Redis, namespace: str) -> None:
    async with asyncio.timeout(5):
        await module.scrub_for_ever(Broker(redis), Keys(namespace), every_s=60, lease_s=1)
    assert not await Broker(redis).call("EXISTS", Keys(namespace).scrub)


async def test_the_scrub_goes_on_after_an_outage(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    whole = Scrub.round

    async def flaky(scrub: Scrub) -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise BrokerUnavailable("away")
        if tries == 2:
            raise RuntimeError
        return await whole(scrub)

    monkeypatch.setattr(Scrub, "round", flaky)
    await two.changed()
    scrubbing = asyncio.create_task(module.scrub_for_ever(two.broker, two.keys, every_s=0.01, lease_s=1))
    await wait_until("it has walked", lambda: _is(two, 1))
    scrubbing.cancel()
    await asyncio.gather(scrubbing, return_exceptions=True)


async def _is(two: Two, walks: int) -> bool:
    return await two.walks() == walks


async def test_what_a_step_could_not_look_at_is_looked_at_again(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        await two.submitted(f"job{number}")
        await two.forget(f"job{number}")
    tries = 0
    whole = Scrub._look  # pyright: ignore[reportPrivateUsage]  # where a server may go away

    async def flaky(scrub: Scrub, walk: Any, part: Broker, job_ids: Any) -> None:
        nonlocal tries
        tries += 1
        if job_ids and tries % 2:
            raise BrokerUnavailable("away")
        await whole(scrub, walk, part, job_ids)

    monkeypatch.setattr(Scrub, "_look", flaky)
    monkeypatch.setattr(module, "_STEP", 1)
    await two.changed()
    scrub = Scrub(two.broker, two.keys, lease_s=0)
    for _ in range(100):
        with suppress(BrokerUnavailable):
            await scrub.round()
        if await two.walks() == 1:
            break
    assert tries > 1
    assert (await sweep(two.broker, two.keys)).healed == {"queued": 6}


async def test_a_job_that_was_lost_and_submitted_again_is_told_of_again(two: Two) -> None:
    for _ in range(2):
        await archived(await two.submitted())
        assert await settle(two.broker, two.keys, "job")
        await two.broker.call("DEL", two.keys.log("job"), two.keys.snapshot("job"), two.keys.request("job"))
    await archived(await two.submitted())
    (*_, (last, _)) = await two.queue.xrange(two.keys.ended)
    await two.queue.xdel(two.keys.ended, last)
    await two.forget("job")
    await two.changed()
    assert (await two.scrubbed()).healed == {"settled": 1}
    assert await two.told() == ["job", "job"]


async def test_an_operator_sees_how_far_the_walks_have_come(two: Two, real_redis: Redis) -> None:
    async def seen() -> tuple[int, bool] | None:
        found = await walks(two.broker, two.keys)
        return found and (found.done, found.walking)

    async def said() -> list[tuple[str, str]]:
        return [(f.level, f.what) for f in await jobs_findings(two.broker, two.keys) if f.code == "scrub"]

    assert (await seen(), await said()) == (None, []), "both were done"
    await two.changed()
    await two.submitted("job")
    scrub = Scrub(two.broker, two.keys, lease_s=0)
    assert await scrub.round()
    assert await seen() == (0, True)
    ((level, what),) = await said()
    assert (level, "nobody looks" in what) == ("warning", True), "its walker is not among the workers"
    await announce(two.broker, two.keys, WorkerCard("w", host="h", pid=7, jobs=1, max_jobs=9), counts_s=60)
    ((level, what),) = await said()
    assert (level, "a worker looks through" in what) == ("ok", True)
    await two.scrubbed(scrub)
    assert await seen() == (1, False)
    ((level, what),) = await said()
    assert (level, "once more" in what) == ("ok", True)
    await two.later()
    await two.scrubbed(scrub)
    assert await seen() is None
    assert await walks(Broker(real_redis), two.keys) is None, "one server loses all that it has"
