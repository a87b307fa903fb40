"""Claim, renew and settle by themselves: who may do what to whose lease."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from queue_workers import TTL_MS, AnyRedis

from tailrace.queue import enqueue, payload_key
from tailrace.queue.names import IN_PROGRESS_PREFIX, RETRY_PREFIX
from tailrace.queue.redispy import typed
from tailrace.queue.scripts import CLAIM_LUA, RENEW_LUA, SETTLE_LUA
from tailrace.schemas.keys import Keys

LEASE_MS = 10_000


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


async def claim(redis: AnyRedis, keys: Keys, token: str, *, limit: int = 10, lease_ms: int = LEASE_MS) -> Any:
    script = typed(redis).register_script(CLAIM_LUA)
    return await script([keys.queue, keys.wake], [lease_ms, limit, token, f"{keys.namespace}:"])


async def renew(redis: AnyRedis, keys: Keys, *leases: str | int, lease_ms: int = LEASE_MS) -> Any:
    return await typed(redis).register_script(RENEW_LUA)([keys.queue], [lease_ms, *leases])


async def settle(redis: AnyRedis, keys: Keys, job_id: str, token: str, *, deadline: int = 0, delay: int = -1) -> Any:
    queued = keys.queued(job_id)
    names = [keys.queue, keys.wake, IN_PROGRESS_PREFIX + queued, payload_key(keys, job_id), RETRY_PREFIX + queued]
    return await typed(redis).register_script(SETTLE_LUA)(names, [queued, token, deadline, delay])


async def queue_of(redis: AnyRedis, keys: Keys) -> Any:
    return await redis.zrange(keys.queue, 0, -1, withscores=True)


async def run_out(redis: AnyRedis, keys: Keys, job_id: str, score: int = 1) -> None:
    """The lease of the job ends now."""
    await redis.delete(IN_PROGRESS_PREFIX + keys.queued(job_id))
    await redis.zadd(keys.queue, {keys.queued(job_id): score})


async def test_a_job_is_claimed_once_and_oldest_first(redis: AnyRedis, keys: Keys) -> None:
    for job_id in ("a", "b", "c"):
        await enqueue(redis, keys, job_id, ttl_ms=TTL_MS)
        await redis.zadd(keys.queue, {keys.queued(job_id): ord(job_id)})
    wait, length, _deadline, taken, *_ = await claim(redis, keys, "one", limit=2)
    assert (wait, length, taken[::5]) == (0, 3, [keys.queued("a").encode(), keys.queued("b").encode()])
    wait, _, _, taken, *_ = await claim(redis, keys, "two")
    assert taken[::5] == [keys.queued("c").encode()]
    assert 0 < wait <= LEASE_MS
    assert (await claim(redis, keys, "three"))[3] == []
    assert await redis.llen(keys.wake) == 0, "words that announce nothing are cleared"


async def test_an_entry_whose_score_was_overwritten_stays_its_holders(redis: AnyRedis, keys: Keys) -> None:
    await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
    await claim(redis, keys, "one")
    await redis.zadd(keys.queue, {keys.queued("a"): 1})
    wait, _, _, taken, *_ = await claim(redis, keys, "two")
    assert taken == []
    assert wait > 0, "or the worker would look again and again"


async def test_renewal_tells_what_is_lost_and_keeps_the_rest(redis: AnyRedis, keys: Keys) -> None:
    for job_id in ("kept", "taken", "gone"):
        await enqueue(redis, keys, job_id, ttl_ms=TTL_MS)
    deadline = (await claim(redis, keys, "one"))[2]
    await run_out(redis, keys, "taken")
    await claim(redis, keys, "two")
    await redis.zrem(keys.queue, keys.queued("gone"))
    leases = [part for job_id in ("kept", "taken", "gone") for part in (keys.queued(job_id), "one", deadline)]
    later, lost = await renew(redis, keys, *leases, lease_ms=2 * LEASE_MS)
    assert lost == [keys.queued("taken").encode(), keys.queued("gone").encode()]
    assert dict(await queue_of(redis, keys))[keys.queued("kept").encode()] == later > deadline
    assert await redis.get(IN_PROGRESS_PREFIX + keys.queued("taken")) == b"two"
    assert not await redis.zscore(keys.queue, keys.queued("gone")), "a renewal puts nothing back"


async def test_a_lease_that_ran_out_goes_on_only_if_nobody_had_the_job_since(redis: AnyRedis, keys: Keys) -> None:
    await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
    deadline = (await claim(redis, keys, "one"))[2]
    await run_out(redis, keys, "a", deadline)
    later, lost = await renew(redis, keys, keys.queued("a"), "one", deadline)
    assert lost == []
    await run_out(redis, keys, "a")
    await claim(redis, keys, "two")
    assert await settle(redis, keys, "a", "two", delay=0) == 1
    assert (await renew(redis, keys, keys.queued("a"), "one", later))[1] == [keys.queued("a").encode()]


@pytest.mark.parametrize("delay", [-1, 0, 500])
async def test_who_lost_the_lease_cannot_end_the_new_holders_claim(redis: AnyRedis, keys: Keys, delay: int) -> None:
    await enqueue(redis, keys, "a", ttl_ms=TTL_MS)
    old = (await claim(redis, keys, "one"))[2]
    await run_out(redis, keys, "a")
    await claim(redis, keys, "two")
    before = await queue_of(redis, keys)
    assert await settle(redis, keys, "a", "one", deadline=old, delay=delay) == 0
    assert await queue_of(redis, keys) == before
    assert await redis.get(IN_PROGRESS_PREFIX + keys.queued("a")) == b"two"
    assert await redis.exists(payload_key(keys, "a"))
    assert await settle(redis, keys, "a", "two") == 1
    assert not await redis.exists(payload_key(keys, "a"), IN_PROGRESS_PREFIX + keys.queued("a"), keys.queue)


async def test_ids_of_others_leave_the_queue_and_their_keys_stay(redis: AnyRedis, keys: Keys) -> None:
    other = f"{keys.namespace}x:job"
    junk = [b"\xff\x00", b"", other.encode(), f"{keys.namespace}:a b".encode(), f"{keys.namespace}:".encode()]
    junk.append(keys.queued("x" * 129).encode())
    await redis.zadd(keys.queue, dict.fromkeys(junk, 1))
    await redis.set("arq:job:" + other, b"theirs", px=TTL_MS)
    _, _, _, taken, foreign, expired = await claim(redis, keys, "one")
    assert sorted(foreign) == sorted(junk)
    assert taken == expired == []
    assert await redis.get("arq:job:" + other) == b"theirs"
    assert not await redis.exists("arq:in-progress:" + other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    job_id=st.text(st.sampled_from("aZ09_-.: é\n\x00%"), max_size=6)
    | st.integers(126, 131).map(lambda length: "x" * length)
)
async def test_the_script_takes_an_id_exactly_when_python_does(redis: AnyRedis, keys: Keys, job_id: str) -> None:
    queued = keys.queued(job_id)
    await redis.set("arq:job:" + queued, b"{}", px=TTL_MS)
    await redis.zadd(keys.queue, {queued: 1})
    _, _, _, taken, foreign, _ = await claim(redis, keys, "one")
    await redis.delete(keys.queue, "arq:in-progress:" + queued)
    assert bool(taken) == (keys.job_of(queued) is not None) == (not foreign)


async def test_planted_types_do_not_stop_the_queue(redis: AnyRedis, keys: Keys) -> None:
    for job_id in ("list", "held", "fine"):
        await enqueue(redis, keys, job_id, ttl_ms=TTL_MS)
    await redis.delete(payload_key(keys, "list"))
    await redis.rpush(payload_key(keys, "list"), b"x")
    await redis.pexpire(payload_key(keys, "list"), TTL_MS)
    await redis.rpush(IN_PROGRESS_PREFIX + keys.queued("held"), b"x")
    await redis.rpush(RETRY_PREFIX + keys.queued("fine"), b"x")
    await redis.zadd(keys.queue, {keys.queued("never"): float("inf"), keys.queued("always"): float("-inf")})
    _, _, _, taken, _, expired = await claim(redis, keys, "one")
    payloads = dict(zip(taken[::5], taken[2::5], strict=True))
    assert payloads.keys() == {keys.queued("fine").encode(), keys.queued("list").encode()}
    assert payloads[keys.queued("list").encode()] == b"", "no payload, so the worker refuses it"
    assert taken[3::5] == [1, 1], "claims that cannot be counted"
    assert expired == [keys.queued("always").encode()]
    assert (await claim(redis, keys, "two"))[0] > 0
    await redis.zrem(keys.queue, keys.queued("never"))
