"""Submitting, cancelling and deleting, as the producer's callers see it."""

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from job_logs import attached, request, submitted
from tailrace.joblog import Broker, End, Script, look, seal
from tailrace.producer import Producer, new_job_id
from tailrace.schemas import InvalidRequest, JobConflict, JobNotFound, Keys, QueueFull, Status, check_job_id


async def test_many_jobs_are_stored_and_queued_in_one_go(redis: Redis, namespace: str) -> None:
    broker, keys = Broker(redis), Keys(namespace)
    producer = Producer(broker, keys)
    ids = await producer.submit_many([(request(f"number {number}"), None) for number in range(30)])
    assert len(set(ids)) == 30
    assert [(await look(broker, keys, job_id)).status for job_id in ids] == [Status.QUEUED] * 30
    queued = await broker.call("ZRANGE", keys.queue, 0, -1)
    assert sorted(queued) == sorted(keys.queued(job_id).encode() for job_id in ids)
    assert await producer.submit_many([]) == []


async def test_scripts_forgotten_between_load_and_use_are_sent_again(
    redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgotten(Broker):
        async def load(self, script: Script, place: str = "") -> None:  # noqa: ARG002 - it is about to be forgotten
            await self.call("SCRIPT FLUSH")

    producer = Producer(Forgotten(redis), Keys(namespace))
    ids = await producer.submit_many([(request(), "one"), (request(), "two")])
    assert [(await look(Broker(redis), Keys(namespace), job_id)).status for job_id in ids] == [Status.QUEUED] * 2


async def test_one_refusal_among_many_stops_none_of_the_others(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, "taken")
    producer = Producer(job.broker, job.keys)
    with pytest.raises(JobConflict) as conflict:
        await producer.submit_many([(request(), "one"), (request("another"), "taken"), (request(), "two")])
    assert conflict.value.job_id == "taken"
    for job_id in ("one", "two"):
        assert (await look(job.broker, job.keys, job_id)).status is Status.QUEUED
    full = Producer(job.broker, job.keys, queue_capacity=4)
    with pytest.raises(QueueFull):
        await full.submit_many([(request(), "three"), (request(), "four")])
    assert (await look(job.broker, job.keys, "three")).status is Status.QUEUED


@pytest.mark.parametrize("job_id", ["", "a b", "a/b", "{a}", "é", "x" * 129, "a\n"])
async def test_odd_job_ids_are_refused_before_anything_is_stored(redis: Redis, namespace: str, job_id: str) -> None:
    producer = Producer(Broker(redis), Keys(namespace))
    with pytest.raises(InvalidRequest):
        await producer.submit(request(), job_id=job_id)
    with pytest.raises(InvalidRequest):
        await producer.submit_many([(request(), None), (request(), job_id)])
    for call in (producer.cancel, producer.delete):
        with pytest.raises(InvalidRequest):
            await call(job_id)
    assert await Broker(redis).call("DBSIZE") == 0
    assert check_job_id(new_job_id())


async def test_the_prompt_is_in_the_request_and_nowhere_else(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace, prompt="a secret prompt")
    for key in await job.broker.call("KEYS", "*"):
        kind = await job.broker.call("TYPE", key)
        held: Any = await job.broker.call(
            *{b"string": ("GET", key), b"stream": ("XRANGE", key, "-", "+"), b"zset": ("ZRANGE", key, 0, -1)}.get(
                kind, ("LRANGE", key, 0, -1)
            )
        )
        assert ("a secret prompt" in str(held)) == (key == job.keys.request("job").encode())


async def test_a_queued_job_is_cancelled_for_good(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    producer = Producer(job.broker, job.keys)
    assert await producer.cancel("job") is Status.CANCELLED
    assert await producer.cancel("job") is Status.CANCELLED
    assert (await look(job.broker, job.keys, "job")).status is Status.CANCELLED


async def test_cancelling_a_job_that_has_ended_tells_how(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await seal(job.broker, job.keys, "job", End(Status.COMPLETED))
    assert await Producer(job.broker, job.keys).cancel("job") is Status.COMPLETED


async def test_cancelling_a_running_job_tells_its_worker_and_keeps_the_output(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await (await job.claim(worker="old")).write("a")
    await (await job.claim(worker="new")).write("b")
    before = await job.entries()
    pubsub: Any = redis.pubsub()  # pyright: ignore[reportUnknownMemberType] - **kwargs without a type
    async with pubsub:
        await pubsub.subscribe(job.keys.worker("new"), job.keys.worker("old"))
        for _ in range(2):
            await pubsub.get_message(timeout=5)
        assert await Producer(job.broker, job.keys).cancel("job") is Status.CANCELLED
        message: Any = await pubsub.get_message(timeout=5)
    assert (message["channel"], message["data"]) == (job.keys.worker("new").encode(), b"cancel job")
    assert (await job.entries())[:-1] == before


@pytest.mark.parametrize("state", ["queued", "running", "ended"])
async def test_a_deleted_job_is_gone_in_every_state(redis: Redis, namespace: str, state: str) -> None:
    job = await submitted(redis, namespace)
    if state != "queued":
        await (await job.claim()).write("a")
    if state == "ended":
        await seal(job.broker, job.keys, "job", End(Status.COMPLETED))
    producer = Producer(job.broker, job.keys)
    await producer.delete("job")
    for call in (producer.cancel, producer.delete):
        with pytest.raises(JobNotFound):
            await call("job")
    log, stored_request, snapshot = await job.ttls()
    assert log > 0
    assert (stored_request, snapshot) == (-2, -2)
    assert await job.broker.call("ZCARD", job.keys.open) == 0


async def test_a_job_whose_end_the_server_lost_is_deleted_all_the_same(real_redis: Redis, namespace: str) -> None:
    job = await submitted(real_redis, namespace)
    dump = await job.dump()
    await seal(job.broker, job.keys, "job", End(Status.COMPLETED))

    class Forgetting(Broker):
        """Goes back in time between the look and the erasure."""

        went = False

        async def many(self, commands: Any) -> list[Any]:
            answers = await super().many(commands)
            if not self.went:
                self.went = True
                await job.restore(dump)
            return answers

    await Producer(Forgetting(real_redis), job.keys).delete("job")
    assert await job.entries() == []


async def test_an_id_can_be_used_again_when_its_time_is_over(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await job.broker.call("DEL", job.keys.log("job"), job.keys.request("job"))
    again = await submitted(redis, namespace, prompt="another")
    assert again.incarnation != job.incarnation
    stored: Any = json.loads(await job.broker.call("GET", job.keys.request("job")))
    assert "another" in json.dumps(stored)
    assert (await attached(job.broker, job.keys, "job")).incarnation == again.incarnation
