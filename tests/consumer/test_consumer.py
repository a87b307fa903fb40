"""Readers over one connection: every record once and in order, whatever happens to readers, connection and server."""

import asyncio
import uuid
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from running_readers import TEST_S, heard, read, reading, subscribers, unheard, unreachable

from job_logs import Job, sealed, submitted
from tailrace.consumer import Consumer
from tailrace.consumer.channels import BUFFERED_CHARACTERS, BUFFERED_PUBLICATIONS, LiveFeed
from tailrace.joblog import (
    Broker,
    End,
    Look,
    Publication,
    connected,
    encode_snapshot,
    erase,
    seal,
    store_snapshot,
)
from tailrace.schemas import (
    END,
    START,
    BrokerUnavailable,
    Entry,
    InvalidRequest,
    JobNotFound,
    Keys,
    Position,
    Status,
)

# Every record once


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
async def test_a_reader_that_is_cut_off_anywhere_gets_every_record_once(
    data: st.DataObject, redis: Redis, namespace: str
) -> None:
    job_id = uuid.uuid4().hex
    job = await submitted(redis, namespace, job_id)
    for _ in range(data.draw(st.integers(0, 3), "attempts")):
        pen = await job.claim()
        for size in data.draw(st.lists(st.integers(1, 3), max_size=4), "appends"):
            await pen.append(["chunk", "text"] * size)
        if pen.seq and data.draw(st.booleans(), "rewind"):
            await pen.append(["rewind", f'{{"run":0,"to":"{pen.epoch}-1"}}'])
    await sealed(job)
    entries = await job.entries()
    if data.draw(st.booleans(), "archived"):
        blob = encode_snapshot(entries)
        assert await store_snapshot(job.broker, job.keys, job_id, incarnation=job.incarnation, blob=blob)
    got: list[Entry] = []
    async with Consumer(job.broker, job.keys) as consumer:
        while not got or got[-1].position != END:
            limit = data.draw(st.integers(1, 6), "records until the cut")
            got += await read(consumer, job_id, after=got[-1].position if got else START, limit=limit)
    assert got == entries


async def test_readers_and_writer_at_once_give_every_reader_every_record(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    async with Consumer(job.broker, job.keys) as consumer, reading(consumer, readers=5) as readers:
        pen = await job.claim()
        late: list[asyncio.Task[list[Entry]]] = []
        try:
            for number in range(60):
                await pen.write(*[f"{number}.{part} " for part in range(number % 3 + 1)])
                if number % 20 == 10:
                    late.append(asyncio.create_task(read(consumer)))
                    late.append(asyncio.create_task(read(consumer, after=pen.top)))
            pen = await job.claim(attempt=2)
            await pen.write("more")
            await sealed(job)
            entries = await job.entries()
            for got in await asyncio.gather(*readers):
                assert got == entries
            for got in await asyncio.gather(*late):
                assert got == entries[-len(got) :]
        finally:
            await asyncio.gather(*late, return_exceptions=True)


async def test_a_reader_that_resumes_at_the_end_is_answered_without_asking_redis(namespace: str) -> None:
    async with unreachable() as broker, Consumer(broker, Keys(namespace)) as consumer:
        assert await read(consumer, after=END) == []


@pytest.mark.parametrize("after", ["", "5", "-", "0-0 ", "00-1", "x-1", "1-", "\u0661-1", "18446744073709551616-0"])
async def test_what_is_no_position_is_refused_before_anything_is_asked(namespace: str, after: str) -> None:
    async with unreachable() as broker, Consumer(broker, Keys(namespace)) as consumer:
        with pytest.raises(InvalidRequest):
            await read(consumer, after=after)
        with pytest.raises(InvalidRequest):
            await read(consumer, "no job id!")


async def test_an_unknown_job_is_not_found(redis: Redis, namespace: str) -> None:
    async with Consumer(Broker(redis), Keys(namespace)) as consumer:
        with pytest.raises(JobNotFound):
            await read(consumer, "nothing")
        with pytest.raises(JobNotFound):
            await consumer.look("nothing")


# Who hears what


async def test_junk_on_the_channel_disturbs_nobody(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    async with Consumer(job.broker, job.keys) as consumer, reading(consumer) as [reader]:
        await heard(job)
        pen = await job.claim()
        junk: list[str | bytes] = [
            b"", b"\xff", b"0-1\n", f"{pen.top}\nx-1 chunk 1\na\n", f"{pen.top}\n9-1 end 1\na\n",
            f"{pen.top}\n{pen.epoch}-2 chunk 1\na\n", f"{pen.top}\n{END} end 2\n{{}}\n", f"{pen.top}\n{END} attempt 2\n[]\n",
        ]  # fmt: skip
        for message in junk:
            await job.broker.call("PUBLISH", job.keys.live("job"), message)
        await pen.write("a")
        await sealed(job)
        assert await reader == await job.entries()


async def listeners(broker: Broker) -> int:
    """Connections to the server that have subscribed to something."""
    listed = await broker.call("CLIENT", "LIST", "TYPE", "pubsub")
    text = listed.decode() if isinstance(listed, bytes) else str(listed)
    return text.count("id=") + text.count("'id'")


async def test_many_readers_of_many_jobs_share_one_connection(
    real_redis: Redis, server_url: str, namespace: str
) -> None:
    jobs = [await submitted(real_redis, namespace, f"job{number}") for number in range(20)]
    async with connected(server_url) as broker, Consumer(broker, jobs[0].keys) as consumer:
        before = await listeners(broker)
        tasks = [asyncio.create_task(read(consumer, job.job_id)) for job in jobs for _ in range(5)]
        for job in jobs:
            await heard(job)
        assert await listeners(broker) == before + 1
        for job in jobs:
            assert await subscribers(job) == 1
            await sealed(job)
        for number, got in enumerate(await asyncio.gather(*tasks)):
            assert got == await jobs[number // 5].entries()
        for job in jobs:
            await unheard(job)


async def test_a_reader_that_leaves_the_loop_leaves_no_subscription(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    async with Consumer(job.broker, job.keys) as consumer, reading(consumer) as [other]:
        await heard(job)
        assert len(await read(consumer, limit=1)) == 1
        await job.claim()
        assert await subscribers(job) == 1, "the other reader is still there"
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        await unheard(job)
        # And the next one is heard again.
        await sealed(job)
        assert await read(consumer) == await job.entries()


async def test_readers_that_come_and_go_disturb_no_other(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    async with Consumer(job.broker, job.keys) as consumer, reading(consumer) as [steady]:
        for number in range(30):
            passing = asyncio.create_task(read(consumer))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            await pen.write(str(number))
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
        await sealed(job)
        assert await steady == await job.entries()
    await unheard(job)


# Lost publications, slow readers


async def test_a_quiet_job_is_looked_at(redis: Redis, namespace: str) -> None:
    """The last publication was lost: no hole tells."""
    job = await submitted(redis, namespace)
    async with Consumer(job.broker, job.keys, look_s=0.05) as consumer, reading(consumer) as [reader]:
        await heard(job)
        mute = Job(job.broker, MuteKeys(namespace), "job", job.incarnation)
        pen = await mute.claim()
        await pen.write("a")
        await sealed(mute)
        assert await reader == await job.entries()


class MuteKeys(Keys):
    """The same log, another channel: what is written is not heard."""

    def live(self, job_id: str) -> str:
        return super().live(job_id) + "-elsewhere"


async def test_a_job_that_vanishes_in_silence_is_not_found(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    async with Consumer(job.broker, job.keys, look_s=0.05) as consumer, reading(consumer) as [reader]:
        await heard(job)
        mute = MuteKeys(namespace)
        await seal(job.broker, mute, "job", End(Status.CANCELLED))
        await erase(job.broker, mute, "job")
        with pytest.raises(JobNotFound):
            await reader


async def test_a_reader_that_does_not_keep_up_reads_the_log_instead(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    async with Consumer(job.broker, job.keys) as consumer, asyncio.timeout(TEST_S):
        got: list[Entry] = []
        async with aclosing(consumer.follow("job")) as batches:
            got += (await anext(batches)).entries
            # Nobody takes a record while these are published: more than a reader's buffer holds.
            pen = await job.claim()
            for _ in range(6):
                await pen.write("x" * (BUFFERED_CHARACTERS // 4))
            await sealed(job)
            async for batch in batches:
                got += batch.entries
        assert got == await job.entries()


def publication(seq: int, text: str = "x") -> Publication:
    return Publication(Position(f"5-{seq}"), [Entry(Position(f"5-{seq + 1}"), "chunk", text)])


async def test_a_readers_buffer_is_bounded_in_number_and_size() -> None:
    feed = LiveFeed()
    for seq in range(BUFFERED_PUBLICATIONS + 1):
        feed.push(publication(seq))
    assert await feed.next() == Look(top=None)
    feed.push(publication(1))
    assert await feed.next() == publication(1)
    for seq in range(5):
        feed.push(publication(seq, "x" * (BUFFERED_CHARACTERS // 4)))
    assert await feed.next() == Look(top=None)
    feed.push(BrokerUnavailable("away"))
    with pytest.raises(BrokerUnavailable):
        await feed.next()
