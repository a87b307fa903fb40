"""/metrics of the gateway: who may see it, and what it says of requests and streams."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest
from access.tenants import tenanted
from gateways import RawReader, Served, raw, served
from redis.asyncio import Redis

from engine import engine, wait_until
from scraped import Scraped
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Counts

STREAM = "/v1/jobs/{job_id}/stream"


async def figures(gateway: Served) -> Scraped:
    answer = await gateway.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Scraped(answer.text)


@asynccontextmanager
async def a_reader_of(gateway: Served, model: str) -> AsyncGenerator[RawReader]:
    job = await gateway.engine.tailrace.submit("x", model=model)
    async with raw(gateway, f"/v1/jobs/{job.id}/stream") as reader:
        yield reader


async def test_requests_are_counted_by_their_routes_template(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e, served(e) as gateway:
        job = await e.tailrace.submit("x", model="rehearsal:tokens=2")
        await job.text(timeout=10)
        for path in (
            f"/v1/jobs/{job.id}",
            f"/v1/jobs/{job.id}?output=false",
            "/v1/jobs/none",
            "/no/such/place",
            "/healthz",
        ):
            await gateway.http.get(path)
        await gateway.http.request("INVENTED", "/v1/jobs")
        await gateway.http.post("/v1/jobs", json={"nonsense": 1})
        seen = await figures(gateway)
        assert seen(told.REQUESTS, route="/v1/jobs/{job_id}", method="GET", status="200") == 2
        assert seen(told.REQUESTS, route="/v1/jobs/{job_id}", method="GET", status="404") == 1
        assert seen(told.REQUESTS, route="none", method="GET", status="404") == 1
        assert seen(told.REQUESTS, route="/v1/jobs", method="POST", status="422") == 1
        assert seen(told.REQUESTS, route="/healthz") == 1
        assert seen("tailrace_gateway_response_start_seconds_count", route="/v1/jobs/{job_id}") == 3
        assert seen(told.REQUESTS_OPEN) == 1  # the scrape itself
        text = str(seen.samples)
        assert job.id not in text
        assert "INVENTED" not in text
        assert "such" not in text


async def test_streams_are_told_while_they_are_open_and_by_how_they_ended(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e, served(e) as gateway:
        async with a_reader_of(gateway, "rehearsal:tokens=1000,pace=0.02") as reader:
            await reader.read_text(1)
            seen = await figures(gateway)
            assert seen(told.STREAMS_OPEN) == 1
            assert seen(told.JOBS_FOLLOWED) == 1
            assert seen(told.REQUESTS_OPEN) == 2
        async with a_reader_of(gateway, "rehearsal:tokens=3") as reader:
            await reader.read()
            assert reader.ended

        async def both_are_over() -> bool:
            seen = await figures(gateway)
            return seen(told.STREAMS_ENDED, outcome="ended") == 1 and seen(told.STREAMS_ENDED, outcome="left") == 1

        await wait_until("one has ended and one has left", both_are_over)
        seen = await figures(gateway)
        assert seen(told.STREAMS_OPEN) == 0
        assert seen(told.REQUESTS, route=STREAM, status="200") == 2


async def test_both_text_formats_are_spoken(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e, served(e) as gateway:
        plain = await gateway.http.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        metrics = await gateway.http.get("/metrics", headers=accept)
        assert metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert metrics.headers["cache-control"] == "no-store"
        assert {"tailrace_redis_up"} <= Scraped(metrics.text, openmetrics=True).names & Scraped(plain.text).names


async def test_with_keys_only_who_sees_all_jobs_sees_metrics(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, with_worker=False, ops={"sees_all": True}, acme={}) as gateway:
        nobody = await gateway.get("/metrics")
        assert (nobody.status_code, nobody.headers["www-authenticate"][:6]) == (401, "Bearer")
        other, nowhere = await gateway.get("/metrics", "acme"), await gateway.get("/no/such/place", "acme")
        assert other.status_code == nowhere.status_code == 404
        assert other.json() == nowhere.json()
        assert Scraped((await gateway.get("/metrics", "ops")).text)(told.REDIS_UP) == 1


async def test_without_keys_other_machines_and_other_names_are_refused(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e, served(e) as gateway:
        refused = await gateway.http.get("/metrics", headers={"Host": "evil.example"})
        assert refused.status_code == 403


async def test_what_else_runs_in_the_process_is_told_too(redis: Redis, namespace: str) -> None:
    from tailrace.gateway import create_app

    counts = Counts(told.WORKER)
    counts.add(told.JOBS_ENDED, "completed")
    async with engine(redis, namespace, with_worker=False) as e:
        app = create_app(e.settings, tailrace=e.tailrace, metrics=[counts])
        transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
        async with app.router.lifespan_context(app), httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1"
        ) as http:  # fmt: skip
            seen = Scraped((await http.get("/metrics")).text)
    assert seen(told.JOBS_ENDED, status="completed") == 1
    assert seen(told.STREAMS_OPEN) == 0


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name[]=x"])
async def test_a_scrape_stays_small(redis: Redis, namespace: str, path: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e, served(e) as gateway:
        assert len((await gateway.http.get(path)).content) < 50_000
