"""The native API: submit, look at, list, cancel, delete; and how refusals look."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from gateways import Served, served
from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from engine import engine, wait_until
from tailrace.gateway import Principal
from tailrace.schemas import END, JobFailed, JobRequest

ENDLESS = "rehearsal:fault=endless,pace=0.01"
SECRET = "the prompt that nobody else may read"


async def test_a_job_is_submitted_followed_and_read_over_http(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        asked = {"prompt": SECRET, "metadata": {"user": 7}, "tags": ["song"], "params": {"temperature": 0}}
        made = await gateway.http.post("/v1/jobs", json=asked)
        assert made.status_code == 201
        job_id = made.json()["id"]
        assert made.headers["location"] == f"/v1/jobs/{job_id}"
        await gateway.http.get(f"/v1/jobs/{job_id}/stream")
        whole = (await gateway.http.get(f"/v1/jobs/{job_id}")).json()
        result = await running.tailrace.job(job_id).result()
        assert (whole["status"], whole["text"], whole["usage"]) == ("completed", result.text, result.usage)
        assert (whole["metadata"], whole["tags"], whole["api"]) == ({"user": 7}, ["song"], "chat")
        assert whole["finish_reason"] == "stop"
        assert whole["attempts"] == 1
        assert SECRET not in str(whole)


async def test_the_same_request_under_the_same_id_is_the_same_job(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:

        async def submit(**asked: Any) -> tuple[int, str]:
            answer = await gateway.http.post("/v1/jobs", json={"job_id": "mine", **asked})
            return answer.status_code, answer.json().get("id") or answer.json()["error"]["code"]

        assert await submit(prompt="hello") == (201, "mine")
        assert await submit(prompt="hello") == (200, "mine")
        assert await submit(prompt="hello!") == (409, "job_conflict")


async def test_a_job_submitted_in_python_is_the_same_over_http(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        job = await running.tailrace.submit("hello", job_id="mine")
        assert (await gateway.http.post("/v1/jobs", json={"prompt": "hello", "job_id": "mine"})).status_code == 200
        await gateway.http.post("/v1/jobs/mine/cancel")
        assert await job.status() == "cancelled"


async def test_other_fields_are_the_upstreams_as_in_python(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        theirs = {"max_tokens": 5, "limits": 3, "tenant": "x", "prediction": None, "params": {"metadata": {"a": "b"}}}
        asked = {"prompt": "hello", "metadata": {"c": "d"}, "temperature": 0, **theirs}
        assert (await gateway.http.post("/v1/jobs", json={"job_id": "mine", **asked})).status_code == 201
        stored = await redis.get(running.settings.keys.request("mine"))
        request = JobRequest.model_validate(json.loads(stored)["request"])
        params = {
            "max_tokens": 5,
            "limits": 3,
            "tenant": "x",
            "prediction": None,
            "metadata": {"a": "b"},
            "temperature": 0,
        }
        assert (request.params, request.metadata, request.tenant) == (params, {"c": "d"}, None)


REFUSED: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"prompt": ""}, None),
    ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, None),
    ({"prompt": "a", "job_id": "no id!"}, None),
    ({"prompt": "a", "params": {"extra_headers": {"Host": "evil"}}}, None),
    ({"prompt": "a", "deadline": -1}, None),
    ({"prompt": 7}, "prompt"),
    ({"prompt": "a", "base_url": "http://evil"}, None),
    ({"prompt": "a", "extra_headers": {"Host": "evil"}}, None),
    ({"prompt": "a", "stream": False}, None),
    ({"prompt": "a", "temperature": 0, "params": {"temperature": 1}}, None),
]
NO_REQUESTS = [b"", b"{", b'"hello"', b"[]", b'{"prompt": "\xff"}']


async def test_a_request_that_cannot_be_taken_is_refused_in_one_shape_and_stores_nothing(
    real_redis: Redis, namespace: str
) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        for asked, param in REFUSED:
            answer = await gateway.http.post("/v1/jobs", json=asked)
            assert answer.status_code == 422
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "invalid_request")
        for body in NO_REQUESTS:
            answer = await gateway.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (400, 422)
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert not await real_redis.exists(running.settings.keys.open)


async def test_a_form_of_another_page_is_no_request(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        answer = await gateway.http.post(
            "/v1/jobs", content=b'{"prompt": "a"}', headers={"content-type": "text/plain;charset=UTF-8"}
        )
        assert answer.status_code == 422
        assert not await real_redis.exists(running.settings.keys.open)


async def test_a_full_queue_says_when_to_come_back(redis: Redis, namespace: str) -> None:
    async with (
        engine(redis, namespace, with_worker=False, queue_capacity=1) as running,
        served(running) as gateway,
    ):
        assert (await gateway.http.post("/v1/jobs", json={"prompt": "a"})).status_code == 201
        answer = await gateway.http.post("/v1/jobs", json={"prompt": "b"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0


async def test_what_has_come_so_far_can_be_read_while_the_job_runs(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        await running.tailrace.submit("hello", model=ENDLESS, job_id="a")

        async def partial() -> bool:
            job = (await gateway.http.get("/v1/jobs/a")).json()
            return job["status"] == "in_progress" and len(job["text"]) > 10

        await wait_until("there is some text", partial)
        await gateway.http.delete("/v1/jobs/a")


async def test_a_cancel_can_be_sent_again_and_says_how_the_job_ended(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        await running.tailrace.submit("hello", model=ENDLESS, job_id="a")
        done = await running.tailrace.submit("hello")
        await done.result()
        for _ in range(2):
            answer = await gateway.http.post("/v1/jobs/a/cancel")
            assert (answer.status_code, answer.json()) == (200, {"id": "a", "status": "cancelled"})
        answer = await gateway.http.post(f"/v1/jobs/{done.id}/cancel")
        assert answer.json()["status"] == "completed"


async def test_a_deleted_job_is_gone_for_every_route(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        await (await running.tailrace.submit("hello", job_id="a")).result()
        assert (await gateway.http.delete("/v1/jobs/a")).json() == {"id": "a", "deleted": True}
        for method, path in OF_A_JOB:
            answer = await gateway.http.request(method, path.format("a"))
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")


OF_A_JOB = [
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}/stream"),
    ("GET", "/v1/jobs/{}/stream?after=18446744073709551615-18446744073709551615"),
    ("GET", "/v1/jobs/{}/events"),
    ("GET", "/v1/jobs/{}/records"),
    ("POST", "/v1/jobs/{}/cancel"),
    ("DELETE", "/v1/jobs/{}"),
]


async def test_what_is_no_job_is_not_found(real_redis: Redis, namespace: str) -> None:
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        for job_id in ("nobody", "no%20id", "a" * 200, "%00", "..%2Fjobs"):
            for method, path in OF_A_JOB:
                answer = await gateway.http.request(method, path.format(job_id))
                assert answer.status_code == 404
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_open_jobs_are_listed_until_they_end(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as running, served(running) as gateway:
        for name in ("a", "b", "c"):
            await running.tailrace.submit("hello", job_id=name, tags=[name])
        await gateway.http.post("/v1/jobs/b/cancel")
        listed = (await gateway.http.get("/v1/jobs")).json()
        assert {job["id"]: job["tags"] for job in listed["jobs"]} == {"a": ["a"], "c": ["c"]}
        assert not listed["more"]
        listed = (await gateway.http.get("/v1/jobs?limit=1")).json()
        assert len(listed["jobs"]) == 1
        assert listed["more"]


def told(job: dict[str, Any]) -> dict[str, Any]:
    """What a job in a listing says of its end."""
    names = ("status", "ended", "finish_reason", "usage", "error", "attempts", "timings")
    return {name: job[name] for name in names}


async def ended_ids(gateway: Served, asked: str, **headers: str) -> list[str]:
    listed = (await gateway.http.get(f"/v1/jobs?{asked}", headers=headers)).json()["jobs"]
    return [job["id"] for job in listed if job["ended"] is not None]


async def test_jobs_that_have_ended_are_listed_with_how_if_asked_for(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        done = await running.tailrace.submit("hello", job_id="done")
        result = await done.result()
        broken = await running.tailrace.submit("hello", model="rehearsal:fault=status,code=401", job_id="broken")
        with pytest.raises(JobFailed):
            await broken.result()
        await running.tailrace.submit("hello", delay=600, job_id="later")

        async def handed_off() -> bool:
            return len(await ended_ids(gateway, "ended=10")) == 2

        await wait_until("both are handed off", handed_off)
        jobs = {job["id"]: job for job in (await gateway.http.get("/v1/jobs?ended=10")).json()["jobs"]}
        assert list(jobs) == ["later", "broken", "done"]
        end = (await running.tailrace.consumer.look("done")).end
        assert end is not None
        assert result.timings is not None
        assert told(jobs["done"]) == {
            "status": "completed",
            "ended": end["ts"],
            "finish_reason": "stop",
            "usage": result.usage,
            "error": None,
            "attempts": 1,
            "timings": result.timings.model_dump(),
        }
        assert (jobs["broken"]["status"], jobs["broken"]["error"]["http_status"]) == ("failed", 401)
        assert told(jobs["later"]) == dict.fromkeys(told(jobs["later"])) | {"status": "queued"}
        assert await ended_ids(gateway, "ended=1") == ["broken"]
        assert await ended_ids(gateway, "limit=10") == []
        await broken.delete()
        assert await ended_ids(gateway, "ended=1") == ["done"]


async def test_ended_jobs_of_all_shards_are_listed_the_last_one_first(
    redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.consumer.listing._PAGE", 2)
    async with engine(redis, namespace, ended_shards=3) as running, served(running) as gateway:
        names = [f"job-{number}" for number in range(12)]
        jobs = await running.tailrace.submit_many([{"prompt": "hello", "job_id": name} for name in names])
        for job in jobs:
            await job.result()

        async def handed_off() -> bool:
            return len(await ended_ids(gateway, "ended=200")) == len(names)

        await wait_until("all are handed off", handed_off)
        listed = (await gateway.http.get("/v1/jobs?ended=200")).json()["jobs"]
        times = [job["ended"] for job in listed]
        assert times == sorted(times, reverse=True)
        assert {job["id"] for job in listed} == set(names)
        assert [job["ended"] for job in (await gateway.http.get("/v1/jobs?ended=7")).json()["jobs"]] == times[:7]
        assert (await gateway.http.get("/v1/jobs?ended=201")).status_code == 422


async def test_a_job_can_be_looked_at_without_its_output(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running) as gateway:
        result = await (await running.tailrace.submit("hello", job_id="a")).result()
        whole = (await gateway.http.get("/v1/jobs/a")).json()
        glance = (await gateway.http.get("/v1/jobs/a?output=false")).json()
        assert whole["text"] == result.text
        assert set(whole) - set(glance) == {"text", "choices", "output", "follow_up"}
        assert told(glance) == told(whole)
        assert glance["ended"] is not None
        assert glance["position"] == END


class ByHeader:
    """Trusts what the client says of itself."""

    async def principal(self, connection: HTTPConnection) -> Principal:
        return Principal(connection.headers["x-tenant"])


async def test_the_jobs_of_another_tenant_are_not_there(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running, access=ByHeader()) as gateway:
        asked = {"prompt": "hello", "job_id": "mine", "model": ENDLESS}
        mine, other = {"x-tenant": "acme"}, {"x-tenant": "other"}
        assert (await gateway.http.post("/v1/jobs", json=asked, headers=mine)).status_code == 201
        for method, path in OF_A_JOB:
            answer = await gateway.http.request(method, path.format("mine"), headers=other)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
        assert (await gateway.http.get("/v1/jobs", headers=other)).json()["jobs"] == []
        assert (await gateway.http.post("/v1/jobs", json=asked, headers=other)).status_code == 409
        assert (await gateway.http.get("/v1/jobs/mine", headers=mine)).status_code == 200
        assert len((await gateway.http.get("/v1/jobs", headers=mine)).json()["jobs"]) == 1
        assert (await gateway.http.post("/v1/jobs/mine/cancel", headers=mine)).json()["status"] == "cancelled"


async def test_the_ended_jobs_of_another_tenant_are_not_listed(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running, access=ByHeader()) as gateway:
        for name in ("acme", "other", "other-2", "other-3"):
            asked = {"prompt": "hello", "job_id": f"of-{name}"}
            tenant = name.partition("-")[0]
            await gateway.http.post("/v1/jobs", json=asked, headers={"x-tenant": tenant})
            await running.tailrace.job(f"of-{name}").result()

        async def handed_off() -> bool:
            return not await running.tailrace.broker.call("ZCARD", running.settings.keys.open)

        await wait_until("all are handed off", handed_off)
        assert await ended_ids(gateway, "ended=1", **{"x-tenant": "acme"}) == ["of-acme"]
        assert len(await ended_ids(gateway, "ended=10", **{"x-tenant": "other"})) == 3
        assert await ended_ids(gateway, "ended=10", **{"x-tenant": "nobody"}) == []


async def test_a_job_says_whose_it_is_in_its_log_and_nowhere_else(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as running, served(running, access=ByHeader()) as gateway:
        headers = {"x-tenant": "acme"}
        await gateway.http.post("/v1/jobs", json={"prompt": "hello", "job_id": "a"}, headers=headers)
        for path in ("/v1/jobs/a/records", "/v1/jobs/a/events", "/v1/jobs/a/stream", "/v1/jobs/a"):
            assert "acme" not in (await gateway.http.get(path, headers=headers)).text
        assert (await running.tailrace.consumer.look("a")).job["tenant"] == "acme"


@pytest.mark.parametrize("sized", [True, False])
async def test_a_body_over_the_limit_is_refused(real_redis: Redis, namespace: str, sized: bool) -> None:
    async with (
        engine(real_redis, namespace, with_worker=False) as running,
        served(running, max_body_bytes=1000) as gateway,
    ):
        body = b'{"prompt": "' + b"x" * 2000 + b'"}'

        async def pieces() -> AsyncGenerator[bytes]:
            yield body[:100]
            yield body[100:]

        headers = {"content-type": "application/json"}
        answer = await gateway.http.post("/v1/jobs", content=body if sized else pieces(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
