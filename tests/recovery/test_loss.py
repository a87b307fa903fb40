"""Records that once stood and are missing: whoever reads is told what, and no shortened text passes for a whole one."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from engine import engine, wait_until
from job_logs import Job, archived, attached, request, sealed, submitted
from tailrace import AsyncTailrace, HistoryLost, JobFailed, JobNotFound, PositionLost, Settings, Status
from tailrace.joblog import Broker, look
from tailrace.producer import Producer
from tailrace.schemas import END, FIRST, START, Keys
from tailrace.worker.settle import settle


def client(redis: Redis, namespace: str) -> AsyncTailrace:
    return AsyncTailrace(settings=Settings(namespace=namespace), redis=redis)


async def written(job: Job, *texts: str) -> str:
    pen = await job.claim()
    return str(await pen.write(*texts))


async def overdue(job: Job) -> None:
    """Rewrite its first record as of one that was submitted long ago."""
    log = job.keys.log(job.job_id)
    entries, ttl = await job.entries(), await job.broker.call("PTTL", log)
    await job.broker.call("DEL", log)
    fields = {**json.loads(entries[0].value), "deadline": 1}
    await job.broker.call("XADD", log, FIRST, "job", json.dumps(fields))
    for entry in entries[1:]:
        await job.broker.call("XADD", log, entry.position, entry.field, entry.value)
    await job.broker.call("PEXPIRE", log, ttl)


async def trim_the_head(job: Job) -> None:
    await job.broker.call("XTRIM", job.keys.log("job"), "MAXLEN", 2)


async def delete_in_the_middle(job: Job) -> None:
    await job.broker.call("XDEL", job.keys.log("job"), (await job.entries())[3].position)


async def delete_the_first(job: Job) -> None:
    await job.broker.call("XDEL", job.keys.log("job"), FIRST)


DAMAGES = [trim_the_head, delete_in_the_middle, delete_the_first]
Damage = Callable[[Job], Awaitable[None]]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kept", ["log", "snapshot"])
async def test_no_shortened_text_of_a_damaged_log_passes_for_a_result(
    redis: Redis, namespace: str, damage: Damage, kept: str
) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a", "b", "c")
    await sealed(job)
    await damage(job)
    if kept == "snapshot":
        assert await settle(job.broker, job.keys, "job")
    async with client(redis, namespace) as tailrace:
        reader = tailrace.job("job")
        with pytest.raises(HistoryLost) as lost:
            await reader.result(timeout=5)
        assert lost.value.after == START if damage is not delete_in_the_middle else lost.value.after != START
        for kind in (reader.text, lambda: drained(reader.stream()), lambda: drained(reader.records())):
            with pytest.raises(HistoryLost):
                await kind()


async def drained(items: Any) -> list[Any]:
    return [item async for item in items]


async def test_what_stands_before_a_hole_can_be_read_and_the_error_names_the_hole(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a", "b", "c")
    await sealed(job)
    entries = await job.entries()
    await job.broker.call("XDEL", job.keys.log("job"), entries[3].position)
    async with client(redis, namespace) as tailrace:
        positions: list[str] = []
        lost: HistoryLost | None = None
        try:
            async for record in tailrace.job("job").records():
                positions.append(record.position)  # noqa: PERF401  # what came before the error counts
        except HistoryLost as error:
            lost = error
        assert lost is not None
        assert (lost.after, lost.until) == (entries[2].position, entries[4].position)


async def test_an_evicted_snapshot_is_history_lost_and_a_deleted_job_not_found(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a")
    await archived(job)
    async with client(redis, namespace) as tailrace:
        reader = tailrace.job("job")
        assert await reader.text(timeout=5) == "a"
        await job.broker.call("DEL", job.keys.snapshot("job"))
        with pytest.raises(HistoryLost) as lost:
            await reader.result(timeout=5)
        assert (lost.value.after, lost.value.until) == (START, END)
        with pytest.raises(HistoryLost):
            await reader.status()
        await tailrace.submit("x", job_id="other", delay=60.0)
        await tailrace.job("other").delete()
        with pytest.raises(JobNotFound):
            await tailrace.job("other").result(timeout=5)


async def test_a_position_above_the_top_waits_for_the_writer_and_gets_what_stands_instead(
    redis: Redis, namespace: str
) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    await pen.write("a")
    dump = await job.dump()
    shown = await pen.write("b", "c")
    await job.restore(dump)
    async with client(redis, namespace) as tailrace:
        reading = asyncio.create_task(drained(tailrace.job("job").records(after=shown)))
        await wait_until("it follows", lambda: followed(job))
        again = await job.claim(known_epoch=pen.epoch)
        await again.write("b", "d")
        await sealed(job)
        records = await asyncio.wait_for(reading, 10)
        assert [record.kind for record in records] == ["attempt", "chunk", "chunk", "end"]
        assert records[0].after == f"{pen.epoch}-1"


async def followed(job: Job) -> bool:
    channels = await job.broker.call("PUBSUB", "NUMSUB", job.keys.live(job.job_id))
    return (
        bool(dict(channels)[job.keys.live(job.job_id).encode()])
        if isinstance(channels[0], tuple | list)
        else bool(channels[1])
    )


async def test_a_position_above_the_top_of_a_job_that_nobody_writes_is_history_lost_at_the_deadline(
    redis: Redis, namespace: str
) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    stands = await pen.write("a")
    dump = await job.dump()
    shown = await pen.write("b", "c")
    await job.restore(dump)
    await overdue(job)
    async with client(redis, namespace) as tailrace:
        with pytest.raises(HistoryLost) as lost:
            await asyncio.wait_for(drained(tailrace.job("job").records(after=shown)), 10)
    assert (lost.value.after, lost.value.until) == (stands, shown)
    assert (await look(job.broker, job.keys, "job")).status is Status.EXPIRED


async def test_a_position_of_an_attempt_that_the_server_lost_whole_says_where_the_log_stands(
    redis: Redis, namespace: str
) -> None:
    job = await submitted(redis, namespace)
    dump = await job.dump()
    shown = await written(job, "a")
    await job.restore(dump)
    async with client(redis, namespace) as tailrace:
        with pytest.raises(PositionLost) as lost:
            await asyncio.wait_for(drained(tailrace.job("job").records(after=shown)), 10)
    assert (lost.value.asked, lost.value.stands) == (shown, FIRST)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_worker_that_gets_a_damaged_job_ends_it_instead_of_writing_on(
    redis: Redis, namespace: str, damage: Damage
) -> None:
    broker, keys = Broker(redis), Keys(namespace)
    await Producer(broker, keys).submit(request(max_attempts=9), job_id="job")
    job = await attached(broker, keys, "job")
    await written(job, "a", "b", "c")
    await damage(job)
    async with engine(redis, namespace, worker={"sweep_s": 60.0}) as running:

        async def ended() -> bool:
            return (await look(broker, keys, "job")).status is Status.FAILED

        await wait_until("it has ended", ended)
        assert running.rehearsal.calls == []
        with pytest.raises((HistoryLost, JobFailed)) as told:
            await running.tailrace.job("job").result(timeout=5)
        assert isinstance(told.value, HistoryLost), "a shortened text with a failure is not a whole one either"

        async def off_the_queue() -> bool:
            return not await broker.call("ZCARD", keys.queue)

        await wait_until("it is off the queue", off_the_queue)
