"""The setting `max_retries` of an upstream, through the whole engine."""

import pytest
from redis.asyncio import Redis

from engine import engine, wait_until


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_request_is_sent_again_as_often_as_the_upstreams_setting_says(
    redis: Redis, namespace: str, retries: int
) -> None:
    model = "rehearsal:fault=status,code=503,retry_after=0.01"
    async with engine(redis, namespace, upstream={"max_retries": retries}) as running:
        job = await running.tailrace.submit("x", model=model, max_attempts=1)

        async def failed() -> bool:
            return (await job.status()) == "failed"

        await wait_until("the job has failed", failed)
        assert len(running.rehearsal.calls) == 1 + retries
