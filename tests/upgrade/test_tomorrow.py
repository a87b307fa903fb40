"""What a later version of the same wire may write, met by this one: by its readers, its workers, its operators' tools."""

import json
from dataclasses import replace
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from engine import engine, wait_until
from job_logs import attached
from tailrace import AsyncTailrace, InvalidRequest, JobFailed, Status
from tailrace.producer import Requeuer
from tailrace.producer.storing import store
from tailrace.schemas import JobRequest, UnknownRecord

MODEL: Final = "rehearsal:tokens=12"
RUN_ID: Final = "6f1c2f7e-4f4f-4d0e-9d55-0f3a5f0c1d11"


async def submit_as_later(
    tailrace: AsyncTailrace, job_id: str, *, request: dict[str, Any], record: dict[str, Any]
) -> None:
    """As a later producer submits: with fields that this version does not know."""
    asked = JobRequest.of("hello", model=MODEL)
    storing = await tailrace.producer._storing(asked, job_id)  # pyright: ignore[reportPrivateUsage]  # the script's words
    stored = json.loads(storing.request)
    stored["request"] |= request
    later = replace(
        storing,
        request=json.dumps(stored, separators=(",", ":")),
        record=json.dumps(json.loads(storing.record) | record),
    )
    assert await store(tailrace.broker, tailrace.settings.keys, [later], capacity=0) == [[b"stored"]]


async def test_a_first_record_with_later_fields_is_run_and_read(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running:
        tailrace = running.tailrace
        await submit_as_later(tailrace, "later", request={}, record={"lane": {"of": [1, 2]}, "views": 9})
        result = await tailrace.job("later").result()
        assert result.text == (await (await tailrace.submit("hello", model=MODEL)).result()).text
        assert (await tailrace.consumer.look("later")).job["lane"] == {"of": [1, 2]}


async def test_a_request_with_a_field_that_workers_do_not_know_fails_once_and_says_why(
    redis: Redis, namespace: str
) -> None:
    async with engine(redis, namespace) as running:
        tailrace = running.tailrace
        await submit_as_later(tailrace, "later", request={"of_tomorrow": True}, record={})
        with pytest.raises(JobFailed) as caught:
            await tailrace.job("later").result()
        assert caught.value.error.type == "request_unreadable"
        requeuer = Requeuer(tailrace.broker, running.settings.keys, tailrace.producer)
        with pytest.raises(InvalidRequest, match="of_tomorrow"):
            await requeuer.requeue("later")

        async def handed_off() -> bool:
            return int(await tailrace.broker.call("ZCARD", running.settings.keys.open)) == 0

        await wait_until("it is over, not tried again and again", handed_off)


async def test_a_job_that_a_later_worker_began_is_read_and_gone_on_with(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running:
        tailrace, keys = running.tailrace, running.settings.keys
        whole = JobRequest.of("hello", model=MODEL)
        await tailrace.producer.submit(whole, job_id="begun")
        pen = await (await attached(tailrace.broker, keys, "begun")).claim(worker="of-tomorrow")
        await pen.append(
            [
                *("heartbeat", '{"ts":1}'),
                *("heartbeat", "no JSON at all"),
                *("delta", '{"run":0,"delta":{"type":"hologram","voxels":[1]},"lane":3}'),
                *("event", f'{{"run":0,"event":"on_chat_model_start","run_id":"{RUN_ID}","name":"m","lane":1,"ts":1}}'),
                *("event", '{"run":0,"event":"on_hologram_shown","ts":1,"depth":{"of":[]}}'),
                *("chunk", "something else "),
            ]
        )
        seen: list[str] = []
        async for record in tailrace.job("begun").records():
            seen.append(record.kind)
            if record.kind == "chunk":
                break
        assert seen == ["job", "attempt", "heartbeat", "heartbeat", "delta", "event", "event", "chunk"]
        async with running.another_worker():
            result = await tailrace.job("begun").result()
            expected = await (await tailrace.submit("hello", model=MODEL)).result()
            assert (result.status, result.text) == (Status.COMPLETED, expected.text)
        records = [record async for record in tailrace.job("begun").records()]
        assert [type(record) for record in records[2:5]] == [UnknownRecord] * 3
        assert sum(record.kind == "attempt" for record in records) == 2
        events = [event["event"] async for event in tailrace.job("begun").stream_events()]
        assert (events[0], events[-1]) == ("on_chat_model_start", "on_chat_model_end")


async def test_a_later_end_is_an_end(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running:
        tailrace, keys = running.tailrace, running.settings.keys
        await tailrace.producer.submit(JobRequest.of("hello", model=MODEL), job_id="ended")
        pen = await (await attached(tailrace.broker, keys, "ended")).claim()
        top = await pen.write("all of it")
        end = {"last": top, "ts": 9, "status": "completed", "cost": {"usd": 1}, "timings": {"queued_ms": 4}}
        await tailrace.broker.call(
            "XADD", keys.log("ended"), "18446744073709551615-18446744073709551615", "end", json.dumps(end)
        )
        result = await tailrace.job("ended").result()
        assert (result.status, result.text) == (Status.COMPLETED, "all of it")
