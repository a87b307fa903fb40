"""Requests of the gateway: spans, and lines in the log, without what nobody else may see."""

import logging
from typing import Any, Final

import pytest
from gateways import served
from opentelemetry.trace import SpanKind
from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from engine import engine, wait_until
from spans import attributes, id_of, kept, parent_of, trace_of
from tailrace.telemetry.logs import ACCESS

CALLER: Final = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "v=1"}
CHAT: Final = {"model": "rehearsal", "messages": [{"role": "user", "content": "canary prompt"}]}


async def test_a_request_goes_on_with_its_clients_trace(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace) as e, served(e) as gateway:
            answer = await gateway.http.post("/v1/chat/completions", json=CHAT, headers=CALLER)
            assert answer.status_code == 200
            await wait_until("all is over", lambda: spans.named("process ") and spans.named("POST"))
    request = spans.one("POST /v1/chat/completions")
    assert request.kind is SpanKind.SERVER
    assert (trace_of(request), parent_of(request)) == (int("a" * 32, 16), int("b" * 16, 16))
    told = attributes(request)
    assert told["http.request.method"] == "POST"
    assert told["http.route"] == told["url.path"] == "/v1/chat/completions"
    assert told["http.response.status_code"] == 200
    assert told["tailrace.tenant"] == "default"
    assert told["tailrace.job.id"] == answer.headers["x-tailrace-job-id"]
    assert parent_of(spans.one("send ")) == id_of(request)
    assert parent_of(spans.one("process ")) == id_of(spans.one("send "))
    assert "canary" not in " ".join(span.to_json() for span in spans.all)


async def test_strangers_can_be_kept_from_choosing_the_trace(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace, with_worker=False) as e, served(e, traceparent=False) as gateway:
            await gateway.http.get("/v1/jobs", headers=CALLER)
    assert parent_of(spans.one("GET /v1/jobs")) is None


async def test_probes_make_no_spans_and_what_has_no_route_is_not_told(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace, with_worker=False) as e, served(e) as gateway:
            await gateway.http.get("/healthz")
            await gateway.http.get("/readyz")
            await gateway.http.get("/canary-path?canary=query")
            await gateway.http.request("PROPFIND", "/v1/jobs")
    assert sorted(span.name for span in spans.all) == ["GET", "_OTHER /v1/jobs"]
    told = " ".join(span.to_json() for span in spans.all)
    lines = [record.getMessage() for record in caplog.records if record.name == ACCESS]
    assert len(lines) == 2
    assert "canary" not in f"{told} {lines}".lower()


async def test_each_request_is_a_line_with_route_status_time_tenant_and_job(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with engine(real_redis, namespace) as e, served(e) as gateway:
        made = await gateway.http.post("/v1/jobs", json={"prompt": "canary prompt", "job_id": "mine"})
        assert made.status_code == 201
        await gateway.http.get("/v1/jobs/mine/stream?token=canary-token")
        await gateway.http.get("/v1/jobs/not%20an%20id")
    told: list[Any] = [record for record in caplog.records if record.name == ACCESS]
    # A line is written when a request is over, which its client may know before.
    shown = {(each.method, each.route, each.status, each.tenant, each.job_id) for each in told}
    assert shown == {
        ("POST", "/v1/jobs", 201, "default", "mine"),
        ("GET", "/v1/jobs/{job_id}/stream", 200, "default", "mine"),
        ("GET", "/v1/jobs/{job_id}", 404, "default", None),
    }
    assert len(told) == 3
    assert all(each.duration_ms >= 0 for each in told)
    ours = [record for record in caplog.records if not record.name.startswith("httpx2")]
    assert not [record for record in ours if "canary" in f"{record.getMessage()} {vars(record)}"]


class Broken:
    async def principal(self, connection: HTTPConnection) -> Any:
        assert connection.url.path == "/v1/jobs/a"
        raise ZeroDivisionError("canary")


async def test_a_bug_is_a_500_in_span_and_line(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace, with_worker=False) as e, served(e, access=Broken()) as gateway:
            assert (await gateway.http.get("/v1/jobs/a")).status_code == 500
    told = attributes(spans.one("GET /v1/jobs/{job_id}"))
    assert (told["http.response.status_code"], told["error.type"]) == (500, "ZeroDivisionError")
    (line,) = [record for record in caplog.records if record.name == ACCESS]
    assert vars(line)["status"] == 500
