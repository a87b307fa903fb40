"""What is too large is refused, with the limit's name, and costs nobody else anything. TAILRACE_RECORDS tries longer runs."""

import os
import re
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from engine import engine
from tailrace import InvalidRequest, JobFailed
from tailrace.producer.placing import new_job_id
from tailrace.schemas import ChunkRecord
from tailrace.schemas.requests import METADATA_LIMIT


def script(**script: Any) -> dict[str, Any]:
    return {"model": "rehearsal", "params": {"rehearsal": script}}


def test_job_ids_have_128_random_bits() -> None:
    ids = [int(new_job_id(), 16) for _ in range(200)]
    assert len(set(ids)) == len(ids)
    ones = everywhere = 0
    for each in ids:
        ones |= each
        everywhere |= ~each & (2**128 - 1)
    # Each bit was seen set and clear: a UUID has six that never change.
    assert ones == everywhere == 2**128 - 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"prompt": "é" * (4 * 2**20)}, "limits.text_bytes"),
        ({"messages": [{"role": "user", "content": "x" * 2**23}]}, "limits.text_bytes"),
        ({"input": ["x" * 2**23], "api": "responses"}, "limits.text_bytes"),
        ({"prompt": "x", "params": {"stop": "x" * 2**23}}, "limits.text_bytes"),
        ({"prompt": "x", "metadata": {"a": "x" * METADATA_LIMIT}}, "metadata"),
        ({"prompt": "x", "metadata": {"é" * METADATA_LIMIT: 1}}, "metadata"),
        ({"prompt": "x", "tags": ["x"] * METADATA_LIMIT}, "metadata"),
        ({"prompt": "x", "model": "x" * METADATA_LIMIT}, "model"),
        ({"task": "x" * METADATA_LIMIT, "input": 1}, "task"),
        (
            {"messages": [{"role": "user", "content": [{"image_url": "data:image/png;base64," + "A" * 21 * 2**20}]}]},
            "limits.image_bytes",
        ),
    ],
)
async def test_a_request_that_is_too_large_is_refused_and_nothing_is_stored(
    real_redis: Redis, namespace: str, given: dict[str, Any], told: str
) -> None:
    store: Any = real_redis
    async with engine(real_redis, namespace, with_worker=False) as e:
        with pytest.raises(InvalidRequest, match=re.escape(told)) as caught:
            await e.tailrace.submit(**given)
    assert len(str(caught.value)) < 500
    assert [key async for key in store.scan_iter(match=f"*{namespace}*")] == []


async def test_a_chunk_of_ten_megabytes_fails_the_job_and_no_other(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace) as e:
        other = await e.tailrace.submit("hello", **script(tokens=40, pace=0.01))
        huge = await e.tailrace.submit("huge", max_attempts=1, **script(tokens=2, fault="huge"))
        with pytest.raises(JobFailed) as caught:
            await huge.result(timeout=30)
        assert caught.value.error.type in ("upstream_malformed", "output_limit")
        assert (await other.text(timeout=10)).count("token") == 40


async def test_a_chunk_just_over_the_output_limit_is_not_stored(real_redis: Redis, namespace: str) -> None:
    store: Any = real_redis
    async with engine(real_redis, namespace, worker={"output_bytes": 1000}) as e:
        job = await e.tailrace.submit("x", **script(chunks=["a" * 600, "b" * 401, "c"]))
        with pytest.raises(JobFailed, match="output_bytes"):
            await job.text(timeout=10)
        shown: list[str] = []
        with pytest.raises(JobFailed):
            shown += [chunk async for chunk in job.stream()]
        async for record in job.records():
            if isinstance(record, ChunkRecord):
                shown.append(record.text)
                break
        assert shown == ["a" * 600]
    assert b"bbbb" not in b"".join([repr(entry).encode() for entry in await store.xrange(e.settings.keys.log(job.id))])


@pytest.mark.timeout(120)
async def test_very_many_tiny_records_are_one_job_like_others(real_redis: Redis, namespace: str) -> None:
    count = int(os.environ.get("TAILRACE_RECORDS", "10000"))
    async with engine(real_redis, namespace, worker={"lease_s": 5.0}) as e:
        job = await e.tailrace.submit("x", **script(chunks=["ab"] * count))
        began = time.monotonic()
        live = [chunk async for chunk in job.stream()]
        assert len(live) == count
        assert len({chunk.position for chunk in live}) == count
        late = [chunk async for chunk in job.stream()]
        assert late == live
        assert [chunk async for chunk in job.stream(after=live[-3].position)] == live[-2:]
        # Somebody else's job is not kept waiting by it.
        assert await (await e.tailrace.submit("next", **script(tokens=3))).text(timeout=10)
        assert time.monotonic() - began < 100


async def test_an_error_of_an_upstream_is_shortened(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace) as e:
        job = await e.tailrace.submit("x", **script(fault="status", code=400, error_code="c" * 10_000))
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout=10)
    assert len(str(caught.value)) < 1000
    assert len(caught.value.error.code or "") <= 100
