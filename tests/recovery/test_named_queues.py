"""Jobs in queues with names: they run where they belong, stay there when they are healed, and bring others there."""

from typing import Any

import pytest
from redis.asyncio import Redis

from engine import engine, wait_until
from tailrace import App, Context, JobConflict, QueueFull
from tailrace.cli.fleet import look_around
from tailrace.joblog import Broker
from tailrace.producer import Producer
from tailrace.schemas import DEFAULT_QUEUE, JobRequest, Keys
from tailrace.worker.checkup import Finding
from tailrace.worker.sweep import reopen, sweep, sweep_report


async def queued_in(redis: Any, keys: Keys, job_id: str) -> list[str]:
    """The names of the queues that have it."""
    names = (DEFAULT_QUEUE, "batch", "gpu")
    return [name for name in names if await redis.zscore(keys.queue_of(name), keys.queued(job_id)) is not None]


async def test_a_job_runs_with_a_worker_of_its_queue_and_with_no_other(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running:
        job = await running.tailrace.submit("hello", queue="gpu")
        assert (await (await running.tailrace.submit("hello")).result()).status == "completed"
        assert await job.status() == "queued"
        async with running.another_worker(queues=("gpu", DEFAULT_QUEUE)):
            assert (await job.result()).status == "completed"
            await wait_until("it has left its queue", lambda: empty(redis, running.settings.keys))


async def empty(redis: Any, keys: Keys) -> bool:
    return not await redis.exists(keys.queue_of("gpu"))


async def test_the_queue_is_part_of_the_request(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running:
        first = await running.tailrace.submit("hello", job_id="a", queue="gpu")
        assert (await running.tailrace.submit("hello", job_id="a", queue="gpu")).id == first.id
        with pytest.raises(JobConflict):
            await running.tailrace.submit("hello", job_id="a")
    assert JobRequest.of("hello").digest() == JobRequest.of("hello", queue=DEFAULT_QUEUE).digest()


async def test_the_capacity_is_each_queues_own(redis: Redis, namespace: str) -> None:
    keys = Keys(namespace)
    producer = Producer(Broker(redis), keys, queue_capacity=1)
    await producer.submit(JobRequest.of("a"))
    await producer.submit(JobRequest.of("b", queue="batch"))
    with pytest.raises(QueueFull):
        await producer.submit(JobRequest.of("c", queue="batch"))


@pytest.mark.parametrize("known", [True, False])
async def test_a_job_that_its_queue_has_lost_is_queued_there_again(redis: Any, namespace: str, known: bool) -> None:
    keys, broker = Keys(namespace), Broker(redis)
    job_id = await Producer(broker, keys).submit(JobRequest.of("a", queue="batch"))
    await redis.zadd(keys.open, {job_id: 1}, xx=True)
    assert (await sweep(broker, keys)).healed == {}, "it waits where it belongs"
    await redis.delete(keys.queue_of("batch"), *([] if known else [keys.queues]))
    await redis.zadd(keys.open, {job_id: 1}, xx=True)
    assert (await sweep_report(broker, keys)).findings == {Finding.UNQUEUED: 1}
    assert (await sweep(broker, keys)).healed == {"queued": 1}
    assert await queued_in(redis, keys, job_id) == ["batch"]


async def test_an_index_entry_that_was_lost_comes_back_from_the_jobs_queue(redis: Any, namespace: str) -> None:
    keys, broker = Keys(namespace), Broker(redis)
    job_id = await Producer(broker, keys).submit(JobRequest.of("a", queue="batch"))
    await redis.delete(keys.open)
    assert await reopen(broker, keys, 0) == (0, 0)
    assert await reopen(broker, keys, 0, "batch") == (1, 0)
    assert await redis.zscore(keys.open, job_id) is not None


async def test_a_cancelled_jobs_place_in_its_queue_is_cleared_by_a_sweep(redis: Any, namespace: str) -> None:
    keys, broker = Keys(namespace), Broker(redis)
    producer = Producer(broker, keys)
    job_ids = [await producer.submit(JobRequest.of("a", queue="batch", delay=600)) for _ in range(2)]
    await producer.cancel(job_ids[0])
    await producer.delete(job_ids[1])
    await redis.zadd(keys.open, dict.fromkeys(job_ids, 1))
    await sweep(broker, keys)
    assert [await queued_in(redis, keys, job_id) for job_id in job_ids] == [[], []]


async def test_a_follow_up_and_a_child_wait_in_their_parents_queue(redis: Any, namespace: str) -> None:
    app = App()

    @app.task
    async def parent(ctx: Context) -> str:
        own, other = await ctx.child("hello"), await ctx.child("hello", queue=DEFAULT_QUEUE)
        return f"{own.job_id} {other.job_id}"

    @app.task
    async def after(ctx: Context, result: dict[str, Any]) -> str:
        return str(result["job_id"])

    worker = {"queues": ("gpu", DEFAULT_QUEUE)}
    async with engine(redis, namespace, app=app, worker=worker) as running:
        job = await running.tailrace.submit(task="parent", queue="gpu", then="after")
        result = await job.result()
        assert result.status == "completed", result.error
        own, other = result.text.split()
        assert result.follow_up is not None
        follow_up = running.tailrace.job(result.follow_up)
        assert (await follow_up.result()).text == job.id
        looks = {each: await running.tailrace.consumer.look(each) for each in (job.id, own, other, follow_up.id)}
        queues = {each: overview.job.get("queue") for each, overview in looks.items()}
        assert queues == {job.id: "gpu", own: "gpu", other: None, follow_up.id: "gpu"}


async def test_looking_around_tells_each_queue(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running:
        for queue, delay in (("gpu", None), ("gpu", 600), (DEFAULT_QUEUE, None)):
            await running.tailrace.submit("hello", queue=queue, delay=delay)
        fleet = await look_around(running.tailrace.broker, running.settings.keys)
        assert {name: (queue.jobs, queue.due) for name, queue in fleet.queues.items()} == {
            DEFAULT_QUEUE: (1, 1),
            "gpu": (2, 1),
        }
        assert (fleet.queued, fleet.due) == (3, 2)
