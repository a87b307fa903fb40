"""The log's scripts one by one: what each stores, answers and publishes, and how long it is kept."""

import asyncio
import json
import secrets
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from job_logs import Job, Pen, archived, attached, check_log, request, sealed, shown, submitted
from tailrace.joblog import (
    Broker,
    End,
    Fenced,
    Gone,
    Lost,
    Sealed,
    Word,
    connected,
    look,
    parse_publication,
    seal,
)
from tailrace.joblog.writing import CLAIM
from tailrace.producer import Producer
from tailrace.schemas import (
    FIRST,
    GRACE_S,
    JobConflict,
    JobNotFound,
    JobRecord,
    Keys,
    Position,
    QueueFull,
    Status,
    decode,
)

GRACE_MS = int(GRACE_S * 1000)
SLACK_MS = 5000


# submit


async def test_the_same_request_under_the_same_id_is_the_same_job_in_every_state(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    producer = Producer(job.broker, job.keys)
    await producer.submit(request(), job_id="job")
    before = await job.entries()
    await sealed(job)
    await producer.submit(request(), job_id="job")
    await archived(job)
    await producer.submit(request(), job_id="job")
    assert (await shown(job))[:1] == before


@pytest.mark.parametrize("state", ["open", "sealed", "archived"])
async def test_another_request_under_the_same_id_is_a_conflict(redis: Redis, namespace: str, state: str) -> None:
    job = await submitted(redis, namespace)
    if state == "sealed":
        await sealed(job)
    elif state == "archived":
        await archived(job)
    with pytest.raises(JobConflict):
        await Producer(job.broker, job.keys).submit(request("another"), job_id="job")


async def test_a_deleted_id_stays_taken_even_for_the_same_request(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    producer = Producer(job.broker, job.keys)
    await producer.delete("job")
    with pytest.raises(JobConflict):
        await producer.submit(request(), job_id="job")
    with pytest.raises(JobNotFound):
        await look(job.broker, job.keys, "job")
    with pytest.raises(JobNotFound):
        await producer.delete("job")


async def test_a_full_queue_stores_nothing(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, "first")
    producer = Producer(job.broker, job.keys, queue_capacity=1)
    with pytest.raises(QueueFull):
        await producer.submit(request(), job_id="second")
    with pytest.raises(JobNotFound):
        await look(job.broker, job.keys, "second")
    await producer.submit(request(), job_id="first")
    assert await job.broker.call("ZRANGE", job.keys.open, 0, -1) == [b"first"]


async def test_a_log_lives_from_submit_to_deadline_grace_and_retention(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, delay=7, deadline=100, retention=1000)
    log, stored_request, snapshot = await job.ttls()
    expected = 1_107_000 + GRACE_MS
    assert expected - SLACK_MS < log <= expected
    assert abs(log - stored_request) < 1000
    assert snapshot == -2
    for key in (job.keys.open, job.keys.queue):
        assert await job.broker.call("PTTL", key) > expected - SLACK_MS


@pytest.mark.parametrize("how", ["sealed", "archived"])
async def test_an_ended_job_lives_for_its_retention_from_the_end_on(redis: Redis, namespace: str, how: str) -> None:
    job = await submitted(redis, namespace, deadline=5000, retention=1000)
    await (sealed(job) if how == "sealed" else archived(job))
    log, stored_request, snapshot = await job.ttls()
    assert 1_000_000 - SLACK_MS < log <= 1_000_000
    assert abs(log - stored_request) < 1000
    assert snapshot == -2 if how == "sealed" else abs(log - snapshot) < 1000


async def test_the_end_never_makes_a_job_live_longer(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, retention=1000)
    await job.broker.call("PEXPIRE", job.keys.log("job"), 50_000)
    await sealed(job)
    assert (await job.ttls())[0] <= 50_000


async def test_what_a_caller_wrote_is_stored_as_it_is(redis: Redis, namespace: str) -> None:
    metadata: dict[str, Any] = {
        "list": [],
        "object": {},
        "nul": "a\0b",
        "text": "\U0001f41f é \u2028",
        "big": 2**63 - 1,
    }
    job = await submitted(redis, namespace, metadata=metadata, tags=["\0", "ü"])
    await job.claim()
    record = decode((await job.entries())[0])
    assert isinstance(record, JobRecord)
    assert record.metadata == metadata
    assert record.tags == ["\0", "ü"]
    deep: Any = None
    for _ in range(100):
        deep = [deep]
    job = await submitted(redis, namespace, "deep", metadata={"deep": deep})
    await job.claim()
    assert (await look(job.broker, job.keys, "deep")).job["metadata"] == {"deep": deep}


# claim


async def test_a_claim_says_what_stands_before_it_and_epochs_grow(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    one = await job.claim()
    assert one.after == FIRST
    top = await one.write("a", "b")
    two = await job.claim(attempt=2)
    assert two.after == top
    assert two.epoch > one.epoch
    far = two.epoch + 10**12
    three = await job.claim(known_epoch=far)
    assert three.epoch > far
    assert (await job.claim()).epoch > three.epoch
    check_log(await job.entries())


async def test_a_claim_whose_answer_was_lost_finds_itself(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    record = json.dumps({"attempt": 1, "worker": "w", "nonce": "n", "incarnation": job.incarnation})
    words: list[Word] = [job.keys.live("job"), "n", job.incarnation, 0, 5, record]
    first = await job.broker.run(CLAIM, [job.keys.log("job")], words)
    assert await job.broker.run(CLAIM, [job.keys.log("job")], words) == first
    assert len(await job.entries()) == 2


async def test_a_claim_that_is_carried_out_late_takes_the_log_from_nobody(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    record = json.dumps({"attempt": 1, "worker": "w", "nonce": "n", "incarnation": job.incarnation})
    words: list[Word] = [job.keys.live("job"), "n", job.incarnation, 0, 5, record]
    first = await job.broker.run(CLAIM, [job.keys.log("job")], words)
    pen = Pen(job, Position(first[1].decode()), FIRST)
    await pen.write("a")
    assert await job.broker.run(CLAIM, [job.keys.log("job")], words) == first, "it finds itself under what it wrote"
    await pen.write("b")
    newer = await job.claim(known_epoch=pen.epoch, attempt=2)
    with pytest.raises(Fenced):
        await job.claim(known_epoch=pen.epoch)
    assert (await job.broker.run(CLAIM, [job.keys.log("job")], words))[0] == b"fenced"
    await newer.write("c")
    assert [entry.field for entry in await job.entries()] == ["job", "attempt", "chunk", "chunk", "attempt", "chunk"]


async def test_a_claim_on_what_is_not_open_is_refused(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    stranger = Job(job.broker, job.keys, "job", "another incarnation")
    with pytest.raises(Gone):
        await stranger.claim()
    with pytest.raises(Gone):
        await Job(job.broker, job.keys, "nothing", job.incarnation).claim()
    await sealed(job)
    with pytest.raises(Sealed):
        await job.claim()
    await archived(job)
    with pytest.raises(Sealed):
        await job.claim()


# append


async def test_an_append_that_is_sent_again_lands_once(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    pairs = ["chunk", "a", "delta", '{"run":0}', "chunk:7", "b"]
    for _ in range(3):
        assert (await pen.send(pairs))[0] == b"ok"
    assert [(entry.field, entry.value) for entry in (await job.entries())[2:]] == [
        ("chunk", "a"),
        ("delta", '{"run":0}'),
        ("chunk:7", "b"),
    ]


async def test_appends_are_refused_for_the_reason_that_stands(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    old = await job.claim()
    await old.write("a")
    before = await job.entries()
    new = await job.claim(attempt=2)
    with pytest.raises(Fenced):
        await old.write("b")
    await new.write("c")
    await sealed(job)
    for state in ("sealed", "tombstone"):
        if state == "tombstone":
            await archived(job)
        for pen in (old, new):
            with pytest.raises(Sealed):
                await pen.write("late")
    assert (await job.entries()) == []
    assert (await shown(job))[:3] == before
    await job.broker.call("DEL", job.keys.log("job"), job.keys.request("job"), job.keys.snapshot("job"))
    with pytest.raises(Gone):
        await new.write("later")
    again = await submitted(redis, namespace, prompt="another")
    with pytest.raises(Gone):
        await new.write("much later")
    await again.claim()
    with pytest.raises(Gone):
        await new.write("never")


async def test_a_writer_whose_records_are_lost_is_told_what_stands(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    stands = await pen.write("a")
    dump = await job.dump()
    await pen.write("b", "c")
    await job.restore(dump)
    with pytest.raises(Lost) as lost:
        await pen.write("d")
    assert lost.value.top == stands
    again = await job.claim(known_epoch=pen.epoch)
    assert again.after == stands
    assert again.epoch > pen.epoch


async def test_a_publication_is_what_is_stored(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pubsub: Any = redis.pubsub()  # pyright: ignore[reportUnknownMemberType] - **kwargs without a type
    async with pubsub:
        await pubsub.subscribe(job.keys.live("job"))
        pen = await job.claim()
        await pen.append(["chunk", "a\nb\0 \U0001f41f", "chunk:3", "", "event", '{"é": [1]}'])
        await pen.append(["chunk", "x" * 100_000])
        await sealed(job)
        heard: list[bytes] = []
        async with asyncio.timeout(10):
            while len(heard) < 4:
                message: Any = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
                if message is not None:
                    heard.append(message["data"])
    publications = [parse_publication(message) for message in heard]
    assert None not in publications
    entries = await job.entries()
    assert [entry for publication in publications if publication for entry in publication.entries] == entries[1:]
    assert [publication.after for publication in publications if publication] == [
        entries[0].position,
        entries[1].position,
        entries[4].position,
        entries[5].position,
    ]


async def test_a_publish_that_the_acl_refuses_does_not_lose_the_answer(
    real_redis: Redis, server_url: str, namespace: str
) -> None:
    await submitted(real_redis, namespace)
    admin, password = Broker(real_redis), secrets.token_hex(8)
    await admin.call("ACL", "SETUSER", "mute", "on", f">{password}", "~*", "+@all", "resetchannels")
    try:
        async with connected(server_url.replace("unix://:", "unix://mute:")) as broker:
            kwargs = cast("Any", broker.redis.connection_pool).connection_kwargs
            kwargs.update(username="mute", password=password)
            mute = await attached(broker, Keys(namespace), "job")
            pen = await mute.claim()
            await pen.write("a")
            await pen.write("b")
            ending = await seal(broker, mute.keys, "job", End(Status.COMPLETED), top=pen.top)
            assert ending.ours
            check_log(await mute.entries())
    finally:
        await admin.call("ACL", "DELUSER", "mute")
