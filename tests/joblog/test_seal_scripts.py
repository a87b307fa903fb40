"""The scripts that end a log: seal, snapshot, erase."""

from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from job_logs import archived, attached, check_log, request, sealed, shown, submitted
from tailrace.joblog import (
    End,
    Fenced,
    Gone,
    Lost,
    Sealed,
    connected,
    erase,
    hand_off,
    look,
    seal,
    store_snapshot,
)
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.producer import Producer
from tailrace.schemas import (
    END,
    BrokerUnsuitable,
    EndRecord,
    JobNotFound,
    Keys,
    Status,
    decode,
)

# seal


async def test_only_the_first_end_stands(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    last = await (await job.claim()).write("a")
    first = await seal(job.broker, job.keys, "job", End(Status.FAILED, usage={"list": [], "object": {}}))
    assert first.ours
    assert first.end is not None
    assert (first.end.position, first.end.last) == (END, last)
    assert first.end.usage == {"list": [], "object": {}}
    second = await seal(job.broker, job.keys, "job", End(Status.CANCELLED))
    assert not second.ours
    assert second.end == first.end
    assert isinstance(decode((await job.entries())[-1]), EndRecord)
    await archived(job)
    assert (await seal(job.broker, job.keys, "job", End(Status.CANCELLED))).end is None
    assert (await look(job.broker, job.keys, "job")).status is Status.FAILED


async def test_only_the_holder_of_the_log_completes_it(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    old = await job.claim()
    dump = await job.dump()
    new = await job.claim()
    end = End(Status.COMPLETED)
    with pytest.raises(Fenced):
        await seal(job.broker, job.keys, "job", end, top=old.top, incarnation=job.incarnation)
    await job.restore(dump)
    with pytest.raises(Lost):
        await seal(job.broker, job.keys, "job", end, top=new.top, incarnation=job.incarnation)
    with pytest.raises(Gone):
        await seal(job.broker, job.keys, "job", end, incarnation="another")
    with pytest.raises(Gone):
        await seal(job.broker, job.keys, "nothing", end)
    assert (await seal(job.broker, job.keys, "job", end, top=old.top, incarnation=job.incarnation)).ours
    with pytest.raises(Gone):
        await seal(job.broker, job.keys, "job", end, incarnation="another")


@pytest.fixture
def small_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(private=True) as server:
        yield server


async def test_a_server_that_is_full_takes_no_record_but_every_end(small_server: EmbeddedServer) -> None:
    async with connected(small_server.url) as broker:
        keys = Keys()
        await Producer(broker, keys).submit(request(), job_id="job")
        job = await attached(broker, keys, "job")
        pen = await job.claim()
        await broker.call("CONFIG SET", "maxmemory", "1")
        with pytest.raises(BrokerUnsuitable, match="memory"):
            await pen.write("a")
        with pytest.raises(BrokerUnsuitable, match="memory"):
            await Producer(broker, keys).submit(request(), job_id="other")
        assert (await seal(broker, keys, "job", End(Status.CANCELLED))).ours
        assert await hand_off(broker, keys, "job", Status.CANCELLED, ttl_ms=1000, trimmed=True)
        assert await erase(broker, keys, "job")
        assert await job.entries() == []


# snapshot, erase


async def test_readers_get_the_same_from_a_snapshot_as_from_the_log(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await (await job.claim()).write("lost")
    pen = await job.claim()
    await pen.append(["delta", "{}", "chunk", "a\0", "chunk", "", "chunk:2", "\U0001f41f", "chunk", "b"])
    await sealed(job)
    before = await job.entries()
    await archived(job)
    assert await job.entries() == []
    assert await shown(job) == before


async def test_a_tombstone_is_small(real_redis: Redis, namespace: str) -> None:
    job = await submitted(real_redis, namespace)
    pen = await job.claim()
    for _ in range(20):
        await pen.write(*["some words "] * 50)
    await archived(job)
    size = await job.broker.call("MEMORY", "USAGE", job.keys.log("job"))
    name = len(job.keys.log("job"))
    assert size - name <= 400  # Valkey 9: 184, Redis 7.0: 372


async def test_only_an_ended_log_is_replaced_or_erased(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    before = await job.entries()
    assert not await store_snapshot(job.broker, job.keys, "job", incarnation=job.incarnation, blob=b"x")
    assert not await erase(job.broker, job.keys, "job")
    assert await job.entries() == before
    await seal(job.broker, job.keys, "job", End(Status.COMPLETED), top=pen.top)
    end = (await job.entries())[-1].value
    for incarnation, made_with in (("another", end), (job.incarnation, "another end")):
        assert not await store_snapshot(job.broker, job.keys, "job", incarnation=incarnation, blob=b"x", end=made_with)
    with pytest.raises(JobNotFound):
        await erase(job.broker, job.keys, "nothing")
    assert await erase(job.broker, job.keys, "job")
    assert (await job.ttls())[0] > 0


async def test_a_job_can_be_sealed_and_erased_at_once(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await seal(job.broker, job.keys, "job", End(Status.CANCELLED), erase=True)
    assert await job.entries() == []
    with pytest.raises(JobNotFound):
        await look(job.broker, job.keys, "job")
    with pytest.raises(Sealed):
        await job.claim()


async def test_a_job_is_handed_off_once(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    assert not await hand_off(job.broker, job.keys, "job", Status.COMPLETED, ttl_ms=60_000)  # the server lost its end
    await sealed(job)
    assert not await hand_off(job.broker, job.keys, "job", Status.COMPLETED, ttl_ms=60_000)  # or its snapshot
    assert await job.broker.call("ZCARD", job.keys.open) == 1
    await archived(job)
    for _ in range(2):
        assert await hand_off(job.broker, job.keys, "job", Status.COMPLETED, ttl_ms=60_000)
    assert await job.broker.call("XLEN", job.keys.ended) == 1
    assert await job.broker.call("ZCARD", job.keys.open) == 0


async def test_scripts_that_the_server_forgot_are_sent_again(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    for text in ("a", "b"):
        await job.broker.call("SCRIPT FLUSH")
        await pen.write(text)
    await job.broker.call("SCRIPT FLUSH")
    await sealed(job)
    check_log(await job.entries())
