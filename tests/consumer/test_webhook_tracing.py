"""Tries of webhooks: spans below the job's, without what a receiver's URL may hold."""

import pytest
from receivers import delivering, hook, receiver
from redis.asyncio import Redis

from engine import engine, wait_until
from spans import attributes, id_of, kept, parent_of, trace_of


async def test_a_webhooks_tries_are_below_the_attempt_that_ended_the_job(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as spans:
        async with (
            receiver(500) as took,
            engine(real_redis, namespace, webhooks={"billing": hook(took.url)}) as e,
            delivering(real_redis, e.settings),
        ):
            job = await e.tailrace.submit("canary prompt")
            await wait_until("it was taken", lambda: len(spans.named("POST")) == 2)
    first, second = spans.named("POST")
    assert parent_of(first) == parent_of(second) == id_of(spans.one("process "))
    assert attributes(first)["error.type"] == "500"
    assert attributes(second)["http.response.status_code"] == 204
    assert attributes(second)["http.request.resend_count"] == 1
    assert attributes(second)["tailrace.job.id"] == job.id
    assert attributes(second)["tailrace.webhook.name"] == "billing"
    assert took.headers[1]["traceparent"][:-2] == f"00-{trace_of(second):032x}-{id_of(second):016x}-"
    assert "canary" not in " ".join(span.to_json() for span in spans.all)
