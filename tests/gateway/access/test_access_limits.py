"""Limits per tenant: over all gateways, without leaks, and refusals that say when to come back."""

import asyncio
from typing import Any

import pytest
from gateways import raw, served
from redis.asyncio import Redis
from tenants import ENDLESS, Tenanted, tenanted

from engine import wait_until
from tailrace import BrokerUnavailable, JobConflict, QueueFull
from tailrace.gateway.access import Principal, store_for
from tailrace.gateway.access.limits import Limits
from tailrace.gateway.errors import ApiError
from tailrace.gateway.gateway import Gateway
from tailrace.joblog import Broker
from tailrace.schemas import JobRequest, Keys
from tailrace.schemas.sections import TenantSettings


def limits(namespace: str, tenant: str = "acme", **settings: Any) -> tuple[Limits, Keys]:
    return Limits(tenant, TenantSettings(key_env="KEY", **settings)), Keys(namespace)


async def retry_after(limited: Limits, broker: Broker, keys: Keys) -> int:
    """When a request may come back, in seconds; 0 if it is let in."""
    try:
        await limited.admit(broker, keys)
    except ApiError as error:
        return int((error.headers or {})["Retry-After"])
    return 0


async def age(broker: Broker, key: str, field: str, *, by_ms: int) -> None:
    """As if a job had been let in earlier."""
    begin, end = (int(part) for part in (await broker.call("HGET", key, field)).split())
    await broker.call("HSET", key, field, f"{begin - by_ms} {end - by_ms}")


async def test_requests_beyond_the_limit_are_told_when_to_come_back(redis: Redis, namespace: str) -> None:
    broker = Broker(redis)
    limited, keys = limits(namespace, requests_per_minute=7)
    another, _ = limits(namespace, requests_per_minute=7)
    other, _ = limits(namespace, "other", requests_per_minute=7)
    # Two gateways, one bucket.
    for number in range(7):
        assert await retry_after(limited if number % 2 else another, broker, keys) == 0
    for each in (limited, another):
        assert 0 < await retry_after(each, broker, keys) <= 9
    assert await retry_after(other, broker, keys) == 0
    # One goes out of the bucket every 60/7 s: as if so much time had passed.
    key = f"{namespace}:tenant:acme:requests"
    full_at = int(await broker.call("GET", key))
    assert 0 < await broker.call("PTTL", key) <= 60_001
    await broker.call("SET", key, full_at - 60_000_000 // 7 - 1, "PX", 60_000)
    assert await retry_after(limited, broker, keys) == 0
    assert await retry_after(limited, broker, keys) > 0


async def test_a_clock_that_went_back_locks_nobody_out(redis: Redis, namespace: str) -> None:
    broker = Broker(redis)
    limited, keys = limits(namespace, requests_per_minute=60)
    ahead = (await broker.now_ms() + 3_600_000) * 1000
    await broker.call("SET", f"{namespace}:tenant:acme:requests", ahead, "PX", 60_000)
    assert await retry_after(limited, broker, keys) == 1


async def test_requests_are_counted_on_every_route_that_wants_a_key(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={"requests_per_minute": 3}, other={}) as gateway:
        job_id = await gateway.submit("acme")
        token = await gateway.token("acme", job_id)
        assert (await gateway.get(f"/v1/jobs/{job_id}?token={token}")).status_code == 200
        for _ in range(2):
            answer = await gateway.get(f"/v1/jobs/{job_id}", "acme")
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(answer.headers["retry-after"]) <= 20
        assert (await gateway.get(f"/v1/jobs/{job_id}?token={token}")).status_code == 429
        assert (await gateway.get("/v1/jobs", "other")).status_code == 200
        assert (await gateway.get("/healthz")).status_code == 200


async def test_a_job_that_has_ended_makes_a_place(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, acme={"concurrent_jobs": 2}, other={}) as gateway:
        first = await gateway.submit("acme", "first", model=ENDLESS)
        await gateway.submit("acme", model=ENDLESS)
        answer = await gateway.post("/v1/jobs", "acme", json={"prompt": "third"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
        await gateway.submit("other")
        # Sent again, it is no further job.
        again = await gateway.post("/v1/jobs", "acme", json={"prompt": "hello", "job_id": first, "model": ENDLESS})
        assert again.status_code == 200
        await gateway.post(f"/v1/jobs/{first}/cancel", "acme")

        async def has_place() -> bool:
            return bool((await gateway.post("/v1/jobs", "acme", json={"prompt": "third"})).status_code == 201)

        await wait_until("there is a place", has_place)


async def test_many_short_jobs_one_after_the_other_need_one_place(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, acme={"concurrent_jobs": 1}) as gateway:
        for _ in range(3):
            job_id = await gateway.submit("acme")
            await gateway.get(f"/v1/jobs/{job_id}/stream", "acme")


async def test_jobs_are_counted_over_all_gateways_also_when_they_come_together(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={"concurrent_jobs": 3}) as gateway:
        tenants = gateway.served.app.state.settings.gateway.tenants
        async with served(gateway.served.engine, tenants=tenants) as second:
            other = Tenanted(second, gateway.keys)
            answers = await asyncio.gather(
                *(
                    each.post("/v1/jobs", "acme", json={"prompt": str(number)})
                    for number in range(5)
                    for each in (gateway, other)
                )
            )
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 7


def gateway_of(gateway: Tenanted) -> Gateway:
    found = gateway.served.app.state.gateway
    assert isinstance(found, Gateway)
    return found


@pytest.mark.parametrize("failure", [QueueFull(1), JobConflict("a"), None])
async def test_a_job_that_was_refused_leaves_its_place(
    redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={}) as gateway:
        limited, keys = limits(namespace, concurrent_jobs=1)
        principal = Principal("acme", limits=limited)
        here = gateway_of(gateway)
        if failure is not None:

            async def fail(*_: object, **__: object) -> None:
                raise failure

            with monkeypatch.context() as patched:
                patched.setattr(here.tailrace.producer, "store", fail)
                with pytest.raises(type(failure)):
                    await store_for(here, principal, JobRequest.of(prompt="a"))
            assert await here.tailrace.broker.call("HLEN", f"{keys.namespace}:tenant:acme:jobs") == 0
        stored = await store_for(here, principal, JobRequest.of(prompt="a"))
        assert stored.new
        with pytest.raises(ApiError):
            await store_for(here, principal, JobRequest.of(prompt="b"))


async def test_a_conflict_with_ones_own_running_job_leaves_that_counted(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={"concurrent_jobs": 2}) as gateway:
        await gateway.submit("acme", "mine", prompt="hello")
        other = await gateway.post("/v1/jobs", "acme", json={"prompt": "goodbye", "job_id": "mine"})
        assert other.status_code == 409
        await gateway.submit("acme")
        assert (await gateway.post("/v1/jobs", "acme", json={"prompt": "next"})).status_code == 429


async def test_a_job_that_is_sent_again_after_its_end_needs_no_place(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={"concurrent_jobs": 1}) as gateway:
        await gateway.submit("acme", "first")
        await gateway.post("/v1/jobs/first/cancel", "acme")
        await gateway.submit("acme", "second")
        again = await gateway.post("/v1/jobs", "acme", json={"prompt": "hello", "job_id": "first"})
        assert (again.status_code, again.json()["status"]) == (200, "cancelled")


async def test_a_gateway_that_died_before_it_stored_a_job_blocks_its_place_for_a_while_only(
    redis: Redis, namespace: str
) -> None:
    broker = Broker(redis)
    limited, keys = limits(namespace, concurrent_jobs=1)
    assert await limited.take_job(broker, keys, "never-stored", life_s=60)
    with pytest.raises(ApiError):
        await limited.take_job(broker, keys, "next", life_s=60)
    await age(broker, f"{namespace}:tenant:acme:jobs", "never-stored", by_ms=30_000)
    later, _ = limits(namespace, concurrent_jobs=1)
    assert await later.take_job(broker, keys, "next", life_s=60)


async def test_a_store_whose_answer_was_lost_keeps_its_place_as_long_as_the_job_runs(
    redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={}) as gateway:
        limited, _ = limits(namespace, concurrent_jobs=1)
        principal, here = Principal("acme", limits=limited), gateway_of(gateway)
        producer = here.tailrace.producer
        store = producer.store

        async def lose_the_answer(*arguments: Any, **named: Any) -> None:
            await store(*arguments, **named)
            raise BrokerUnavailable("lost")

        with monkeypatch.context() as patched:
            patched.setattr(producer, "store", lose_the_answer)
            with pytest.raises(BrokerUnavailable):
                await store_for(here, principal, JobRequest.of(prompt="a"), job_id="a")
        again = limits(namespace, concurrent_jobs=1)[0]
        with pytest.raises(ApiError):
            await store_for(here, Principal("acme", limits=again), JobRequest.of(prompt="b"), job_id="b")
        assert not (await store_for(here, principal, JobRequest.of(prompt="a"), job_id="a")).new
        await producer.cancel("a")
        last = limits(namespace, concurrent_jobs=1)[0]
        assert (await store_for(here, Principal("acme", limits=last), JobRequest.of(prompt="b"), job_id="b")).new


async def test_a_job_beyond_its_time_counts_no_more_and_nothing_is_kept_for_ever(redis: Redis, namespace: str) -> None:
    broker = Broker(redis)
    limited, keys = limits(namespace, concurrent_jobs=1)
    await limited.take_job(broker, keys, "old", life_s=60)
    key = f"{namespace}:tenant:acme:jobs"
    assert 0 < await broker.call("PTTL", key) <= 60_000
    await broker.call("XADD", keys.log("old"), "0-1", "job", "{}")
    await broker.call("PEXPIRE", keys.log("old"), 60_000)
    await age(broker, key, "old", by_ms=60_001)
    assert await limited.take_job(broker, keys, "next", life_s=120)
    assert await broker.call("HKEYS", key) == [b"next"]
    assert 60_000 < await broker.call("PTTL", key) <= 120_000


async def test_who_asks_again_and_again_for_a_place_costs_redis_one_look(
    redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(redis)
    limited, keys = limits(namespace, concurrent_jobs=1)
    await limited.take_job(broker, keys, "a", life_s=60)
    looks: list[object] = []
    many = broker.many

    async def counted(commands: Any) -> list[Any]:
        looks.append(commands)
        return await many(commands)

    monkeypatch.setattr(broker, "many", counted)
    monkeypatch.setattr("tailrace.gateway.access.limits._LOOK_AGAIN_S", 3600)
    for number in range(5):
        with pytest.raises(ApiError):
            await limited.take_job(broker, keys, f"b{number}", life_s=60)
    assert len(looks) == 1


async def test_open_streams_are_counted_until_their_connections_are_done(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, acme={"open_streams": 2}, other={}) as gateway:
        job_id = await gateway.submit("acme", model=ENDLESS)
        path, key = f"/v1/jobs/{job_id}/stream", f"Authorization: Bearer {gateway.keys['acme']}"
        token = await gateway.token("acme", job_id)
        async with raw(gateway.served, path, key) as one, raw(gateway.served, f"{path}?token={token}") as two:
            await one.read_text(1)
            await two.read_text(1)
            answer = await gateway.get(path, "acme")
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert answer.headers["content-type"] == "application/json"
            # What is no stream is not counted.
            assert (await gateway.get(f"/v1/jobs/{job_id}", "acme")).status_code == 200
            one.leave()

            async def has_place() -> bool:
                async with raw(gateway.served, path, key) as three:
                    await three.read(until=lambda: True)
                    return three.status == 200

            await wait_until("there is a place again", has_place)
        await gateway.post(f"/v1/jobs/{job_id}/cancel", "acme")
        for _ in range(3):
            assert (await gateway.get(path, "acme")).status_code == 200


async def test_a_job_that_would_be_streamed_is_not_stored_without_a_place_for_its_stream(
    redis: Redis, namespace: str
) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={}) as gateway:
        limited, _ = limits(namespace, open_streams=1)
        limited.streams = 1
        principal, here = Principal("acme", limits=limited), gateway_of(gateway)
        with pytest.raises(ApiError):
            await store_for(here, principal, JobRequest.of(prompt="a"), job_id="a", streamed=True)
        assert not await here.tailrace.broker.call("EXISTS", here.tailrace.settings.keys.log("a"))
        assert (await store_for(here, principal, JobRequest.of(prompt="a"), job_id="a")).new
        # Once it is stored, the stream is not refused: who is would ask for another job.
        limited.streams = 0
        await store_for(here, principal, JobRequest.of(prompt="b"), streamed=True)
        limited.streams = 1
        limited.check_stream()


async def test_a_body_beyond_a_tenants_limit_is_refused_however_it_is_sent(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={"max_body_bytes": 1000}, other={}) as gateway:
        body = b'{"prompt": "%b"}' % (b"a" * 1000)

        async def pieces() -> Any:
            for begin in range(0, len(body), 100):
                yield body[begin : begin + 100]

        json = {"Content-Type": "application/json"}
        for content in (body, pieces()):
            answer = await gateway.post("/v1/jobs", "acme", content=content, headers=json)
            assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
        for content in (body, pieces()):
            assert (await gateway.post("/v1/jobs", "other", content=content, headers=json)).status_code == 201
        await gateway.submit("acme")


async def test_nobody_without_a_key_makes_the_gateway_read_a_body(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}) as gateway:
        for how in ("Content-Length: 20000000", "Transfer-Encoding: chunked"):
            reader, writer = await asyncio.open_connection(*gateway.served.address)
            writer.write(f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n{how}\r\n\r\n".encode())
            async with asyncio.timeout(10):
                assert b" 401 " in await reader.readline()
            writer.transport.abort()


async def test_a_tenants_jobs_go_to_its_queues_and_to_no_other(redis: Any, namespace: str) -> None:
    keys = Keys(namespace)
    acme, beta = {"queues": ("gold", "batch")}, dict[str, Any]()
    async with tenanted(redis, namespace, with_worker=False, acme=acme, beta=beta) as gate:
        await gate.submit("acme", "first")
        await gate.submit("acme", "second", queue="batch")
        await gate.submit("beta", "third")
        places = {"first": "gold", "second": "batch", "third": "default"}
        for job_id, queue in places.items():
            assert await redis.zscore(keys.queue_of(queue), keys.queued(job_id)) is not None
        for tenant, queue in (("acme", "silver"), ("beta", "gold")):
            refused = await gate.post("/v1/jobs", tenant, json={"prompt": "hello", "queue": queue})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "queue_not_allowed")
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        refused = await gate.post("/v1/chat/completions", "beta", json=body, headers={"x-tailrace-queue": "gold"})
        assert refused.status_code == 403
        assert not await redis.exists(keys.queue_of("silver"))
        assert await redis.zcard(keys.queue_of("gold")) == 1
