"""Pages of other sites: only of those that are configured, and with everything that a stream and the SDK need."""

import pytest
from gateways import raw, served
from redis.asyncio import Redis
from tenants import ENDLESS, bearer, tenanted

from engine import engine

APP = "https://app.example.com"
#: What an OpenAI SDK in a browser sends, and a fetch that resumes.
HEADERS = ["authorization", "content-type", "last-event-id", "x-stainless-lang", "x-stainless-retry-count"]


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": ",".join(HEADERS),
    }


async def test_without_origins_no_answer_lets_a_page_read_it(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}) as gateway:
        for answer in (
            await gateway.get("/v1/jobs", "acme", headers={"Origin": APP}),
            await gateway.ask("OPTIONS", "/v1/jobs", headers=preflight(APP)),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_preflight_needs_no_key_and_allows_all_that_is_sent(
    real_redis: Redis, namespace: str, method: str
) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, gateway={"cors_origins": (APP,)}, acme={}) as gateway:
        answer = await gateway.ask("OPTIONS", "/v1/jobs/a/stream", headers=preflight(APP, method))
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == APP
        assert set(answer.headers["access-control-allow-headers"].split(",")) == set(HEADERS)
        assert method in answer.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in answer.headers
        refused = await gateway.ask("OPTIONS", "/v1/jobs/a/stream", headers=preflight("https://evil.example.com"))
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers


async def test_a_page_can_read_refusals_and_what_they_say_beside(real_redis: Redis, namespace: str) -> None:
    origins = {"cors_origins": (APP,), "max_body_bytes": 1000}
    async with tenanted(
        real_redis, namespace, with_worker=False, gateway=origins, acme={"requests_per_minute": 1}
    ) as gateway:
        page = {"Origin": APP}
        answers = [
            await gateway.get("/v1/jobs", headers=page),
            await gateway.post("/v1/jobs", headers=page, json={"prompt": "a"}),
            await gateway.post("/v1/jobs", "acme", headers=page, content=b"a" * 1001),
            await gateway.get("/v1/jobs/none", "acme", headers=page),
            await gateway.get("/v1/jobs", "acme", headers=page),
        ]
        assert [answer.status_code for answer in answers] == [401, 401, 413, 404, 429]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == APP
            assert "Retry-After" in answer.headers["access-control-expose-headers"]


async def test_streams_are_neither_held_back_nor_taken_for_ended(real_redis: Redis, namespace: str) -> None:
    """Events come while the job runs; at shutdown the connection is cut without an end, CORS or not."""
    async with tenanted(real_redis, namespace, gateway={"cors_origins": (APP,)}, acme={}) as gateway:
        job_id = await gateway.submit("acme", model=ENDLESS)
        headers = (f"Origin: {APP}", f"Authorization: Bearer {gateway.keys['acme']}")
        async with raw(gateway.served, f"/v1/jobs/{job_id}/stream", *headers) as reader:
            await reader.read_text(3)
            assert f"access-control-allow-origin: {APP}".encode() in reader.head.lower()
            gateway.served.server.should_exit = True
            await reader.read()
            assert not reader.ended


async def test_any_page_may_read_with_a_key_where_the_operator_says_so(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, gateway={"cors_origins": ("*",)}, acme={}) as gateway:
        answer = await gateway.get("/v1/jobs", headers=bearer(gateway.keys["acme"]) | {"Origin": APP})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert "access-control-allow-credentials" not in answer.headers


async def test_without_keys_pages_need_their_origin_configured(real_redis: Redis, namespace: str) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running, cors_origins=(APP,)) as gateway,
    ):
        assert (await gateway.http.get("/v1/jobs", headers={"Origin": APP})).status_code == 200
        assert (await gateway.http.get("/v1/jobs", headers={"Origin": "https://evil.example.com"})).status_code == 403
