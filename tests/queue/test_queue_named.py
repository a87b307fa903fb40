"""Several queues: whose jobs a worker takes, in which order, and who may still find them all."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_workers import TTL_MS, open_workers

from engine import wait_until
from tailrace.joblog import Broker
from tailrace.queue import Claimed, enqueue, forget_old_queues, hand_back, known_queues
from tailrace.queue.renewal import LEASES_PER_CALL, Renewal
from tailrace.schemas import DEFAULT_QUEUE, InvalidRequest, Keys


async def test_a_worker_takes_jobs_of_its_queues_only(redis: Any, namespace: str) -> None:
    keys, ran = Keys(namespace), dict[str, str]()

    async def run(job_id: str, claimed: Claimed) -> None:
        ran[job_id] = claimed.worker

    async with open_workers(redis, keys) as make:
        await make(run, worker_name="plain")
        await make(run, worker_name="batch", queues=["batch"])
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
        await enqueue(redis, keys, "b", ttl_ms=TTL_MS, queue="batch")
        await enqueue(redis, keys, "nobody", ttl_ms=TTL_MS, queue="other")
        await wait_until("both ran", lambda: len(ran) == 2)
        await wait_until("they left their queues", lambda: left(redis, keys))
        assert await redis.zcard(keys.queue_of("other")) == 1
    assert ran == {"a": "plain", "b": "batch"}


async def left(redis: Any, keys: Keys) -> bool:
    return not await redis.exists(keys.queue, keys.queue_of("batch"))


async def test_what_is_due_in_the_first_queue_goes_before_what_waits_longer_in_the_second(
    redis: Any, namespace: str
) -> None:
    keys, order = Keys(namespace), list[str]()

    async def run(job_id: str, _claimed: Claimed) -> None:
        order.append(job_id)

    for number in range(4):
        await enqueue(redis, keys, f"late{number}", ttl_ms=TTL_MS, queue="batch")
    for number in range(4):
        await enqueue(redis, keys, f"soon{number}", ttl_ms=TTL_MS, queue="interactive")
    async with open_workers(redis, keys) as make:
        busy = await make(run, queues=["interactive", "batch"], max_jobs=1, burst=True, lease_s=5)
        assert busy.main_task is not None
        await asyncio.wait_for(busy.main_task, 20)
    assert [job_id[:4] for job_id in order] == ["soon"] * 4 + ["late"] * 4


async def test_an_idle_worker_hears_of_a_job_in_any_of_its_queues_at_once(redis: Any, namespace: str) -> None:
    keys, ran = Keys(namespace), asyncio.Event()

    async def run(_job_id: str, _claimed: Claimed) -> None:
        ran.set()

    async with open_workers(redis, keys) as make:
        await make(run, queues=["first", "second"], look_s=60)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS, queue="second")
        async with asyncio.timeout(10):  # of the minute until it looks by itself
            await ran.wait()


async def test_leases_in_several_queues_are_renewed_and_handed_back(redis: Any, namespace: str) -> None:
    keys, held, claims = Keys(namespace), asyncio.Event(), dict[str, int]()

    async def hold(job_id: str, claimed: Claimed) -> None:
        claims[job_id] = claimed.claims
        await held.wait()

    async with open_workers(redis, keys) as make:
        holder = await make(hold, worker_name="dead", queues=["one", "two"], lease_s=0.4)
        await enqueue(redis, keys, "a", ttl_ms=TTL_MS, queue="one")
        await enqueue(redis, keys, "b", ttl_ms=TTL_MS, queue="two")
        await wait_until("both are held", lambda: len(claims) == 2)
        first = {name: await deadline(redis, keys, name) for name in ("one", "two")}
        for name in first:
            await wait_until(f"{name}'s lease is renewed", lambda name=name: renewed(redis, keys, name, first[name]))  # type: ignore[misc]  # bound at once
        assert (holder.lost, claims) == (0, {"a": 1, "b": 1})
        assert await hand_back(redis, keys, "dead", lease_s=0.4) == 0, (
            "it does not look into queues that it is not told of"
        )
        assert await hand_back(redis, keys, "dead", lease_s=0.4, queues=["one", "two"]) == 2
        held.set()


async def deadline(redis: Any, keys: Keys, name: str) -> float:
    ((_, score),) = await redis.zrange(keys.queue_of(name), 0, -1, withscores=True)
    return float(score)


async def renewed(redis: Any, keys: Keys, name: str, before: float) -> bool:
    return await deadline(redis, keys, name) > before


@given(st.lists(st.sampled_from("abc"), max_size=3 * LEASES_PER_CALL))
def test_each_renewal_has_one_queues_leases_and_all_of_them_are_renewed(queues: list[str]) -> None:
    renewal = Renewal(lambda: None, lease_ms=1000, token="t", worker="w", lost=lambda *_: None)  # type: ignore[arg-type,return-value]  # never asked  # pyright: ignore[reportArgumentType]
    for number, queue in enumerate(queues):
        renewal.hold(f"j{number}", number, number, queue=queue)
    renewed_there: dict[str, str] = {}
    for (queue,), (lease_ms, *flat), batch in renewal._calls():  # pyright: ignore[reportPrivateUsage]  # what is sent
        assert lease_ms == 1000
        assert len(batch) <= LEASES_PER_CALL
        assert flat == [part for queued_id, number in batch for part in (queued_id, "t", number)]
        renewed_there |= {queued_id: queue for queued_id, _ in batch}
    assert renewed_there == {f"j{number}": queue for number, queue in enumerate(queues)}


async def test_queues_are_known_as_long_as_a_job_can_be_in_them(redis: Any, namespace: str) -> None:
    keys, broker = Keys(namespace), Broker(redis)
    assert await known_queues(broker, keys) == [DEFAULT_QUEUE]
    await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
    assert not await redis.exists(keys.queues), "the default one needs no entry"
    await enqueue(redis, keys, "b", ttl_ms=TTL_MS, queue="slow")
    await enqueue(redis, keys, "c", ttl_ms=TTL_MS, queue="batch")
    assert await known_queues(broker, keys) == [DEFAULT_QUEUE, "batch", "slow"]
    await redis.zadd(keys.queues, {"batch": 1})
    await forget_old_queues(broker, keys)
    assert await known_queues(broker, keys) == [DEFAULT_QUEUE, "slow"]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "x" * 65, "{a}"])
async def test_what_is_no_name_is_refused(redis: Any, namespace: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name of a queue"):
        await enqueue(redis, Keys(namespace), "a", ttl_ms=TTL_MS, queue=name)


def test_no_queues_key_is_anothers() -> None:
    keys = Keys("ns")
    names = ["default", "wake", "queue", "queues", "open", "default.wake"]
    spelt = [key for name in names for key in (keys.queue_of(name), keys.wake_of(keys.queue_of(name)))]
    assert len({*spelt, keys.queues, keys.open}) == 2 * len(names) + 2
    assert [keys.queue_name(keys.queue_of(name)) for name in names] == names
