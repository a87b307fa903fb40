"""Where a job is sent, and with which key, is the operator's configuration and nothing that a job can say."""

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from engine import engine, running_worker
from tailrace import InvalidRequest, JobFailed
from tailrace.schemas import REFUSED_PARAMS
from tailrace.upstreams.rehearsal import Rehearsal

EVIL = "evil.invalid"
STEERING: dict[str, Any] = {
    "extra_headers": {"Authorization": f"Bearer {EVIL}", "Host": EVIL, "X-Evil": EVIL},
    "default_headers": {"Authorization": f"Bearer {EVIL}"},
    "extra_query": {"a": EVIL},
    "default_query": {"a": EVIL},
    "extra_body": {"model": EVIL},
    "base_url": f"http://{EVIL}/v1",
    "websocket_base_url": f"ws://{EVIL}/v1",
    "api_key": EVIL,
    "admin_api_key": EVIL,
    "organization": EVIL,
    "project": EVIL,
    "timeout": 1e9,
    "max_retries": 1000,
    "http_client": EVIL,
    "idempotency_key": EVIL,
    "stream": False,
}
#: Fields that mean something to HTTP libraries, not to a model: they may go, but into the body only.
BODY_ONLY: dict[str, Any] = {
    "headers": {"Authorization": f"Bearer {EVIL}"}, "url": f"http://{EVIL}", "method": "DELETE", "proxy": EVIL,
    "auth": EVIL, "cookies": {"a": EVIL}, "options": {"headers": {"Host": EVIL}}, "follow_redirects": True, "path": "/evil",
}  # fmt: skip


async def test_what_would_steer_the_connection_is_refused_at_submit(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e:
        for name, value in STEERING.items():
            assert name in REFUSED_PARAMS
            given: list[dict[str, Any]] = [{name: value}, {"params": {name: value}}]
            for params in given:
                with pytest.raises(InvalidRequest, match=name):
                    await e.tailrace.submit("hello", **params)


@pytest.mark.parametrize("api", ["chat", "completions", "responses"])
async def test_a_request_that_was_written_past_submit_steers_nothing_either(
    redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    monkeypatch.setenv("RIGHT_KEY", "sk-right")
    store: Any = redis
    # The upstream takes no other key: an answer shows which one came.
    async with Rehearsal(api_key="sk-right") as rehearsal:
        upstream = {"base_url": rehearsal.base_url, "api_key_env": "RIGHT_KEY"}
        async with engine(redis, namespace, with_worker=False, upstream=upstream) as e:
            prompt: dict[str, Any] = (
                {"input": "hello", "api": "responses"} if api == "responses" else {"prompt": "hello", "api": api}
            )
            job = await e.tailrace.submit(**prompt, model="rehearsal", params=BODY_ONLY)
            stored = json.loads(await store.get(e.settings.keys.request(job.id)))
            stored["request"]["params"] |= STEERING
            await store.set(e.settings.keys.request(job.id), json.dumps(stored), keepttl=True)
            async with running_worker(e.settings, redis):
                assert await job.text(timeout=10)
        (call,) = rehearsal.calls
    assert call.headers["host"] == rehearsal.base_url.split("/")[2]
    assert EVIL not in json.dumps(dict(call.headers))
    assert call.path in ("/v1/chat/completions", "/v1/completions", "/v1/responses")
    assert not REFUSED_PARAMS & call.body.keys() - {"stream"}
    assert call.body["stream"] is True
    assert call.body["model"] == "rehearsal"
    assert {name: call.body[name] for name in BODY_ONLY} == BODY_ONLY


@pytest.mark.parametrize(
    "name",
    [f"http://{EVIL}/v1", "default\r\nHost: evil", "../default", "__class__", "\x00", "default.base_url", "x" * 9999],
)
async def test_an_upstream_is_a_configured_name_or_none(redis: Redis, namespace: str, name: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("hello", upstream=name)
        with pytest.raises(JobFailed) as caught:
            await job.result(timeout=10)
    assert caught.value.error.type == "unknown_upstream"
    assert not e.rehearsal.calls
    assert len(str(caught.value)) < 600
