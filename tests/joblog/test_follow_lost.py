"""Following a log of which something is missing: the server went back, the log was trimmed, its time is over."""

import json
from collections.abc import Awaitable, Callable

import pytest
from fed_readers import A_LOOK, Fed, Idle, read, written
from redis.asyncio import Redis

from job_logs import Job, sealed, submitted
from tailrace.joblog import (
    Look,
    encode_snapshot,
    erase,
    look,
    store_snapshot,
)
from tailrace.schemas import (
    END,
    FIRST,
    HistoryLost,
    JobNotFound,
    PositionLost,
    Status,
)

# A server that went back in time


async def test_after_a_loss_a_living_reader_gets_the_replay_with_what_it_voids(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await written(job, "a")
    dump = await job.dump()
    await pen.write("b", "c")

    async def lose_and_replay() -> Look:
        await job.restore(dump)
        again = await job.claim(known_epoch=pen.epoch)
        await again.write("b", "c", "d")
        await sealed(job)
        return A_LOOK

    fresh, error = await read(job, Fed(lose_and_replay))
    assert error is None
    assert [entry.value for entry in fresh if entry.field == "chunk"] == ["a", "b", "c", "b", "c", "d"]
    replay = next(json.loads(entry.value) for entry in fresh[5:] if entry.field == "attempt")
    assert replay["after"] == f"{pen.epoch}-1"
    assert replay["replay"] is True


async def test_a_position_that_was_lost_resumes_at_the_attempt_that_says_what_stands(
    redis: Redis, namespace: str
) -> None:
    job = await submitted(redis, namespace)
    pen = await written(job, "a")
    dump = await job.dump()
    shown = await pen.write("b", "c")
    await job.restore(dump)
    again = await job.claim(known_epoch=pen.epoch)
    await again.write("b")
    fresh, error = await read(job, after=shown)
    assert isinstance(error, Idle)
    assert [entry.field for entry in fresh] == ["attempt", "chunk"]
    assert json.loads(fresh[0].value)["after"] == f"{pen.epoch}-1"


async def test_an_append_that_was_lost_before_its_answer_and_came_again_is_shown_once(
    redis: Redis, namespace: str
) -> None:
    """The reader heard it, the server lost it, the writer (who had no answer) sent the very same again."""
    job = await submitted(redis, namespace)
    pen = await written(job, "a")
    dump = await job.dump()
    await pen.send(["chunk", "b", "chunk", "c"])
    shown = (await job.entries())[-1].position
    await job.restore(dump)

    async def again() -> Look:
        await pen.write("b", "c")
        await pen.write("d")
        return A_LOOK

    fresh, _ = await read(job, Fed(again), after=shown)
    assert [entry.value for entry in fresh] == ["d"]


async def test_a_lost_tail_that_ends_without_a_word_is_history_lost(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await written(job, "a")
    dump = await job.dump()
    shown = await pen.write("b")

    async def lose_and_cancel() -> Look:
        await job.restore(dump)
        await sealed(job, Status.CANCELLED)
        return A_LOOK

    _, error = await read(job, Fed(lose_and_cancel))
    assert isinstance(error, HistoryLost)
    assert (error.after, error.until) == (f"{pen.epoch}-1", shown)
    _, error = await read(job, after=shown)
    assert isinstance(error, HistoryLost)
    assert (error.after, error.until) == (f"{pen.epoch}-1", shown)


async def test_a_lost_attempt_under_a_later_clock_is_found_below_the_cursor(redis: Redis, namespace: str) -> None:
    """The next server's clock is behind: its epochs are below those that the reader has seen."""
    job = await submitted(redis, namespace)
    dump = await job.dump()
    ahead = await job.claim(known_epoch=4 * 10**15)
    await ahead.write("a")

    async def lose_and_begin_anew() -> Look:
        await job.restore(dump)
        behind = await written(job, "b")
        assert behind.epoch < ahead.epoch
        await sealed(job)
        return A_LOOK

    fresh, error = await read(job, Fed(lose_and_begin_anew))
    assert error is None
    assert [entry.field for entry in fresh[3:]] == ["attempt", "chunk", "end"]
    assert json.loads(fresh[3].value)["after"] == FIRST


async def test_a_server_that_only_went_back_voids_nothing_yet(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await written(job, "a")
    dump = await job.dump()
    await pen.write("b")

    async def lose() -> Look:
        await job.restore(dump)
        return A_LOOK

    fresh, error = await read(job, Fed(lose, A_LOOK))
    assert isinstance(error, Idle)
    assert [entry.value for entry in fresh[2:]] == ["a", "b"]


# What is missing


async def trim(job: Job) -> None:
    await job.broker.call("XTRIM", job.keys.log("job"), "MAXLEN", 2)


async def delete_one(job: Job) -> None:
    await job.broker.call("XDEL", job.keys.log("job"), (await job.entries())[3].position)


async def delete_the_first(job: Job) -> None:
    await job.broker.call("XDEL", job.keys.log("job"), FIRST)


@pytest.mark.parametrize("damage", [trim, delete_one, delete_the_first])
@pytest.mark.parametrize("ended", [False, True])
async def test_a_log_that_somebody_trimmed_is_history_lost(
    redis: Redis, namespace: str, ended: bool, damage: Callable[[Job], Awaitable[None]]
) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a", "b", "c", "d")
    if ended:
        await sealed(job)
    await damage(job)
    fresh, error = await read(job)
    assert isinstance(error, HistoryLost), (fresh, error)


async def test_a_log_whose_time_is_over_in_mid_read_is_not_found(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a")

    async def expire() -> Look:
        await job.broker.call("DEL", job.keys.log("job"))
        return A_LOOK

    fresh, error = await read(job, Fed(expire))
    assert len(fresh) == 3
    assert isinstance(error, JobNotFound)


async def test_a_job_that_is_deleted_in_mid_read_is_not_found(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a")

    async def delete() -> Look:
        await sealed(job)
        await erase(job.broker, job.keys, "job")
        return A_LOOK

    _, error = await read(job, Fed(delete))
    assert isinstance(error, JobNotFound)


@pytest.mark.parametrize("after", ["5-0", "5-3", "0-2", "0-99", "1795300000000000-7"])
async def test_a_position_that_is_not_of_this_log_is_lost(redis: Redis, namespace: str, after: str) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a")
    for _ in ("open", "ended"):
        _, error = await read(job, after=after)
        assert isinstance(error, PositionLost)
        assert error.asked == after
        await sealed(job)


async def test_a_position_beyond_the_last_record_of_an_ended_log_is_history_lost(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await written(job, "a")
    await sealed(job)
    _, error = await read(job, after=f"{pen.epoch}-2")
    assert isinstance(error, HistoryLost)


async def test_a_damaged_snapshot_is_history_lost(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await sealed(job)
    assert await store_snapshot(job.broker, job.keys, "job", incarnation=job.incarnation, blob=b"\x01junk")
    assert isinstance((await read(job))[1], HistoryLost)
    with pytest.raises(HistoryLost):
        await look(job.broker, job.keys, "job")


# Nobody waits for ever


async def overdue(job: Job) -> None:
    """Rewrite the job's first record as of one that was submitted long ago."""
    first = (await job.entries())[0]
    fields = {**json.loads(first.value), "deadline": 1}
    ttl = await job.broker.call("PTTL", job.keys.log("job"))
    await job.broker.call("DEL", job.keys.log("job"))
    await job.broker.call("XADD", job.keys.log("job"), FIRST, "job", json.dumps(fields))
    await job.broker.call("PEXPIRE", job.keys.log("job"), ttl)


async def test_a_reader_ends_a_job_that_is_past_its_deadline(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await overdue(job)
    now_ms = await job.broker.now_ms()
    fresh, error = await read(job, Fed(Look(FIRST, 1000), Look(FIRST, now_ms), A_LOOK))
    assert error is None
    assert json.loads(fresh[-1].value)["status"] == "expired"


async def test_a_reader_of_a_job_that_is_gone_at_its_deadline_is_told_so(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await overdue(job)

    async def expire() -> Look:
        now_ms = await job.broker.now_ms()
        await job.broker.call("DEL", job.keys.log("job"))
        return Look(FIRST, now_ms)

    assert isinstance((await read(job, Fed(expire, A_LOOK)))[1], JobNotFound)


async def test_looking_at_a_job_past_its_deadline_ends_it(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    assert (await look(job.broker, job.keys, "job")).status is Status.QUEUED
    await overdue(job)
    overview = await look(job.broker, job.keys, "job")
    assert overview.status is Status.EXPIRED
    assert overview.end is not None


async def test_a_glance_tells_where_a_job_stands(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await written(job, "a")
    overview = await look(job.broker, job.keys, "job")
    assert (overview.status, overview.top) == (Status.IN_PROGRESS, pen.top)
    await sealed(job, Status.INCOMPLETE)
    entries = await job.entries()
    for archived in (False, True):
        if archived:
            await store_snapshot(
                job.broker, job.keys, "job", incarnation=job.incarnation, blob=encode_snapshot(entries)
            )
        overview = await look(job.broker, job.keys, "job")
        assert (overview.status, overview.top) == (Status.INCOMPLETE, END)
        assert overview.job["incarnation"] == job.incarnation
        assert overview.end == json.loads(entries[-1].value)
    with pytest.raises(JobNotFound):
        await look(job.broker, job.keys, "nothing")
