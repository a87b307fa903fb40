"""Every route that there is, asked by who may not: none can be forgotten."""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from redis.asyncio import Redis
from starlette.routing import WebSocketRoute
from tenants import ENDLESS, tenanted
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import tailrace.gateway
from engine import wait_until
from tailrace.gateway import create_app
from tailrace.gateway.access import hash_key, new_key
from tailrace.schemas import Settings

#: What anybody may have, since it is the same for everybody: no job is seen here.
OPEN = {"/healthz", "/readyz", "/openapi.json", "/", "/console/{name}"}

#: What a route needs beside its path in order to get as far as looking for the job.
BODIES: dict[tuple[str, str], dict[str, Any]] = {}


class Route(NamedTuple):
    method: str
    path: str

    def to(self, job_id: str) -> str:
        """The path, with this job in it."""
        return re.sub(r"{\w+}", job_id, self.path)

    @property
    def of_a_job(self) -> bool:
        return "{" in self.path and self.path not in OPEN


def routes_of(app: FastAPI) -> set[Route]:
    """Everything that can be asked for, but for WebSockets."""
    return {
        Route(method, re.sub(r":\w+}", "}", str(route.path)))  # as the document has it
        for route in iter_route_contexts(app.routes)
        for method in (route.methods or ({"GET"} if not is_websocket(route.original_route) else ()))
    }


def is_websocket(route: object) -> bool:
    return isinstance(route, WebSocketRoute) or type(route).__name__ == "APIWebSocketRoute"


def asked(route: Route) -> dict[str, Any]:
    body = BODIES.get((route.method, route.path), {})
    return {"json": body} if route.method in ("POST", "PUT", "PATCH") else {}


def no_json(route: Route) -> dict[str, Any]:
    return {"content": b"no JSON"} if asked(route) else {}


@pytest.fixture
def routes() -> set[Route]:
    found = routes_of(create_app(Settings()))
    assert Route("GET", "/v1/jobs/{job_id}/stream") in found
    assert Route("POST", "/v1/jobs") in found
    return found


def test_the_openapi_document_and_the_routes_are_the_same(routes: set[Route]) -> None:
    paths: dict[str, dict[str, Any]] = create_app(Settings()).openapi()["paths"]
    documented = {Route(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert documented <= routes
    assert {route for route in routes if route.of_a_job and route.method != "HEAD"} <= documented
    assert {"/v1/jobs/{job_id}", "/v1/responses/{response_id}", "/v1/models/{model}"} <= set(paths)


def test_every_refusal_in_the_document_has_the_shape_that_is_sent() -> None:
    document = create_app(Settings()).openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")):
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (method, path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_document_says_which_routes_want_a_key(routes: set[Route]) -> None:
    key = hash_key(new_key())
    keyed = create_app(Settings.load(gateway={"tenants": {"acme": {"key_hashes": [key]}}})).openapi()
    for path, methods in keyed["paths"].items():
        for method, operation in methods.items():
            wanted = [name for each in operation.get("security", []) for name in each]
            read = method == "get" and re.fullmatch(r"/v1/jobs/{job_id}(/stream|/events|/records)?", path)
            expected = [] if path in OPEN else ["key", "readToken"] if read else ["key"]
            assert wanted == expected, (method, path)
    assert set(keyed["components"]["securitySchemes"]) == {"key", "readToken"}
    assert "securitySchemes" not in create_app(Settings()).openapi()["components"]


def test_jobs_are_stored_in_the_name_of_who_asks_and_nowhere_else() -> None:
    """A route that stored a job by itself would store it for nobody, and past the limits."""
    house = Path(tailrace.gateway.__file__).parent
    storing = [
        path.relative_to(house).as_posix()
        for path in house.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and re.search(r"producer\.(store|submit|submit_many)$", ast.unparse(node))
    ]
    assert set(storing) == {"access/submitting.py"}


async def test_no_route_answers_without_a_key(redis: Redis, namespace: str, routes: set[Route]) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={}) as gateway:
        job_id = await gateway.submit("acme")
        for headers in ({}, {"Authorization": "Bearer tr-none"}, {"Authorization": "Basic dHItbm9uZQ=="}):
            for route in routes:
                for body in (asked(route), no_json(route)):
                    answer = await gateway.ask(route.method, route.to(job_id), headers=headers, **body)
                    if route.path in OPEN:
                        anybodys = await gateway.ask(route.method, route.to("none"), headers=headers)
                        assert answer.status_code == anybodys.status_code
                        assert answer.text.replace(job_id, "none") == anybodys.text
                        assert answer.status_code in (200, 404), route
                    else:
                        assert answer.status_code == 401, route
                        assert answer.headers["www-authenticate"].startswith("Bearer ")
                        assert route.method == "HEAD" or answer.json()["error"]["type"] == "authentication_error"


async def test_another_tenants_job_is_not_there_on_any_route(redis: Redis, namespace: str, routes: set[Route]) -> None:
    async with tenanted(redis, namespace, acme={}, other={}) as gateway:
        job_id = await gateway.submit("acme")
        await gateway.get(f"/v1/jobs/{job_id}/stream", "acme")
        for route in sorted(each for each in routes if each.of_a_job):
            theirs = await gateway.ask(route.method, route.to(job_id), "other", **asked(route))
            assert theirs.status_code == 404, (route, theirs.text)
            nowhere = await gateway.ask(route.method, route.to("none"), "other", **asked(route))
            assert theirs.text.replace(job_id, "none") == nowhere.text, route
        assert (await gateway.get(f"/v1/jobs/{job_id}", "acme")).json()["status"] == "completed"
        for path in {route.path for route in routes if not route.of_a_job} - OPEN:
            assert job_id not in (await gateway.get(path, "other")).text


async def test_every_native_route_answers_the_job_owner(redis: Redis, namespace: str, routes: set[Route]) -> None:
    """Or a 404 for others would prove nothing."""
    async with tenanted(redis, namespace, acme={}, admin={"sees_all": True}) as gateway:
        for tenant in ("acme", "admin"):
            for route in sorted(each for each in routes if each.of_a_job and each.path.startswith("/v1/jobs/")):
                job_id = await gateway.submit("acme")
                answer = await gateway.ask(route.method, route.to(job_id), tenant, **asked(route))
                assert answer.status_code in (200, 201), (route, tenant, answer.text)


async def test_an_open_listing_shows_ones_own_jobs_only(redis: Redis, namespace: str) -> None:
    tenants: dict[str, Any] = {"acme": {}, "other": {}, "default": {}, "admin": {"sees_all": True}}
    async with tenanted(redis, namespace, with_worker=False, **tenants) as gateway:
        await gateway.submit("acme", "of-acme")
        await gateway.submit("other", "of-other")
        await gateway.served.engine.tailrace.submit("hello", job_id="past-the-gateway")

        async def seen(tenant: str) -> set[str]:
            return {job["id"] for job in (await gateway.get("/v1/jobs", tenant)).json()["jobs"]}

        assert await seen("acme") == {"of-acme"}
        assert await seen("other") == {"of-other"}
        assert await seen("default") == {"past-the-gateway"}
        assert await seen("admin") == {"of-acme", "of-other", "past-the-gateway"}


async def test_an_id_that_another_tenant_has_is_taken_and_says_no_more(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, with_worker=False, acme={}, other={}) as gateway:
        await gateway.submit("acme", "mine", prompt="hello")
        for prompt in ("hello", "goodbye"):
            answer = await gateway.post("/v1/jobs", "other", json={"prompt": prompt, "job_id": "mine"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_conflict")


async def test_a_websocket_is_refused_without_a_key(redis: Redis, namespace: str) -> None:
    app = create_app(Settings())
    paths = [str(each.path) for each in iter_route_contexts(app.routes) if is_websocket(each.original_route)]
    async with tenanted(redis, namespace, with_worker=False, acme={}) as gateway:
        for path in paths:
            with pytest.raises(InvalidStatus) as refused:
                async with connect(gateway.served.url.replace("http", "ws") + path):
                    pass
            assert refused.value.response.status_code == 401


async def test_a_cancelled_job_of_a_tenant_ends_for_its_owner(redis: Redis, namespace: str) -> None:
    async with tenanted(redis, namespace, acme={}, other={}) as gateway:
        job_id = await gateway.submit("acme", model=ENDLESS)

        async def status() -> str:
            return str((await gateway.get(f"/v1/jobs/{job_id}", "acme")).json()["status"])

        async def is_running() -> bool:
            return await status() == "in_progress"

        await wait_until("the job runs", is_running)
        assert (await gateway.post(f"/v1/jobs/{job_id}/cancel", "other")).status_code == 404
        assert await status() == "in_progress"
        await gateway.post(f"/v1/jobs/{job_id}/cancel", "acme")
        assert await status() == "cancelled"
