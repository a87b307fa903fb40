"""Who may ask, what every answer has, what the server says of itself and what it does not."""

import asyncio
import logging
from typing import Any

import pytest
from gateways import raw, served
from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from engine import engine
from tailrace import AsyncTailrace, InvalidRequest, Settings
from tailrace.gateway import Principal, create_app, serve
from tailrace.gateway.access import is_loopback
from tailrace.gateway.errors import ApiError
from tailrace.schemas import GatewaySettings


async def test_health_tells_nothing_but_that(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        for path in ("/healthz", "/readyz"):
            answer = await gateway.http.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
            assert "server" not in answer.headers


async def test_without_redis_it_lives_but_is_not_ready_and_says_when_to_come_back(namespace: str) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0", namespace=namespace)
    async with AsyncTailrace(settings=settings) as tailrace:
        broken: Any = type("Engine", (), {"settings": settings, "tailrace": tailrace})
        async with served(broken) as gateway:
            assert (await gateway.http.get("/healthz")).status_code == 200
            for method, path in (("GET", "/readyz"), ("GET", "/v1/jobs/a/stream"), ("POST", "/v1/jobs")):
                answer = await gateway.http.request(method, path, json={"prompt": "a"} if method == "POST" else None)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unavailable")
                assert int(answer.headers["retry-after"]) > 0


async def test_without_keys_only_this_machine_is_answered_by_its_own_names(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        port = gateway.address[1]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST"):
            assert (await gateway.http.get("/v1/jobs", headers={"Host": host})).status_code == 200
        for host in ("evil.example.com", "192.168.0.7:8722", "0.0.0.0", "localhost.evil.com", "[::1", ""):
            answer = await gateway.http.get("/v1/jobs", headers={"Host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loopback_only")
        # What a proxy on this machine says of somebody else.
        answer = await gateway.http.get("/v1/jobs", headers={"X-Forwarded-For": "203.0.113.9"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loopback_only")


async def test_a_request_that_names_no_host_is_no_browsers_and_answered(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        reader, writer = await asyncio.open_connection(*gateway.address)
        writer.write(b"GET /v1/jobs HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


async def test_a_stream_over_http_1_0_has_an_end_that_a_cut_has_not(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        job = await running.tailrace.submit("hello")
        reader, writer = await asyncio.open_connection(*gateway.address)
        writer.write(f"GET /v1/jobs/{job.id}/stream HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(5):
            assert b"transfer-encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
            await job.cancel()
            assert (await reader.read()).endswith(b"\n\n\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


async def test_head_answers_with_the_head_of_get(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        job = await running.tailrace.submit("hello")
        for path in ("/healthz", "/readyz", "/v1/models", f"/v1/jobs/{job.id}", "/"):
            got, head = await gateway.http.get(path), await gateway.http.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
        for path, status in (
            (f"/v1/jobs/{job.id}/stream", 200),
            ("/v1/jobs/other/stream", 404),
            ("/v1/responses", 405),
        ):
            assert (await gateway.http.head(path)).status_code == status
        assert not len(gateway.app.state.gateway.streams)
        assert await job.status() == "queued"


async def test_pages_of_other_sites_may_not_call_it_unless_configured(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running:
        async with served(running) as gateway:
            own = {"Origin": gateway.url}
            assert (await gateway.http.get("/v1/jobs", headers=own)).status_code == 200
            for origin in ("https://evil.example.com", "null", "http://127.0.0.1:1"):
                answer = await gateway.http.get("/v1/jobs", headers={"Origin": origin})
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_refused")
                assert "access-control-allow-origin" not in answer.headers
        async with served(running, cors_origins=("https://app.example.com",)) as gateway:
            asked = {"Origin": "https://app.example.com"}
            answer = await gateway.http.get("/v1/jobs", headers=asked)
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
            assert "access-control-allow-credentials" not in answer.headers
            asked |= {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
            assert (await gateway.http.options("/v1/jobs", headers=asked)).status_code == 200
            asked["Origin"] = "https://evil.example.com"
            assert (await gateway.http.options("/v1/jobs", headers=asked)).status_code == 400


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_the_world(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com"])
async def test_nobody_else_is_let_in_by_mistake(host: str) -> None:
    with pytest.raises(InvalidRequest, match=r"no key is configured.*127\.0\.0\.1"):
        await serve(Settings(redis_url="redis://127.0.0.1:1/0", gateway=GatewaySettings(host=host, port=0)))


async def test_query_strings_are_not_logged(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        await gateway.http.get("/v1/jobs/a/stream?key=a-secret")
    logged = [record.getMessage() for record in caplog.records if record.name in ("tailrace.access", "uvicorn.access")]
    assert ["/v1/jobs/{job_id}/stream" in line and "a-secret" not in line for line in logged] == [True]


async def test_a_stream_that_is_dropped_on_purpose_is_no_traceback_in_the_log(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running:
        await running.tailrace.submit("hello", job_id="a")
        async with served(running) as gateway, raw(gateway, "/v1/jobs/a/stream") as reader:
            await reader.read(until=lambda: reader.sse.retry)
            gateway.server.should_exit = True
            await reader.read()
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


class Broken:
    """A bug."""

    async def principal(self, connection: HTTPConnection) -> Principal:
        if "x-refuse" in connection.headers:
            raise ApiError(401, "no such key", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        raise ZeroDivisionError("a secret of the house")


async def test_every_error_has_the_same_shape_and_a_bug_tells_nothing(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running, access=Broken()) as gateway,
    ):
        answer = await gateway.http.get("/v1/jobs")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "secret" not in answer.text
        answer = await gateway.http.get("/v1/jobs", headers={"X-Refuse": "1"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"] == {
            "message": "no such key",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }
        for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/v1/jobs", 405), ("GET", "/v1/jobs/", 404)):
            answer = await gateway.http.request(method, path)
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert (await gateway.http.put("/v1/jobs")).headers["allow"] == "GET, HEAD, POST"
        assert (await gateway.http.post("/v1/jobs/x")).headers["allow"] == "DELETE, GET, HEAD"


def test_the_openapi_document_tells_how_streams_and_refusals_look() -> None:
    document = create_app(Settings(redis_url="redis://127.0.0.1:1/0")).openapi()
    streams = [path for path in document["paths"] if path.endswith(("/stream", "/events", "/records"))]
    assert len(streams) == 3
    for path in streams:
        responses = document["paths"][path]["get"]["responses"]
        assert "text/event-stream" in responses["200"]["content"]
        assert {"204", "404", "410", "422", "503"} <= set(responses)
    shape = {"$ref": "#/components/schemas/ErrorBody"}
    for path, routes in document["paths"].items():
        for operation in routes.values() if path.startswith("/v1/jobs") else ():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert response["content"]["application/json"]["schema"] == shape, (path, status)


async def test_the_app_opens_a_client_of_its_own_where_none_is_given(server_url: str, namespace: str) -> None:
    app = create_app(Settings(redis_url=server_url, namespace=namespace))
    async with app.router.lifespan_context(app):
        assert await app.state.gateway.tailrace.broker.now_ms() > 0
    async with app.router.lifespan_context(app):  # and again
        assert not app.state.gateway.streams.closing
