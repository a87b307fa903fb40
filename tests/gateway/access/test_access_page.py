"""docs/gateway-access.md: its configuration is one, and the rights of its role are enough and no more."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateways import served
from redis.asyncio import Redis

from engine import Engine, engine, wait_until
from tailrace import AsyncTailrace, InvalidRequest, Settings
from tailrace.gateway.access import hash_key, new_key
from tailrace.gateway.access.keys import Tenants
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.rights import rule
from tailrace.schemas.sections import TenantSettings

PAGE = Path(__file__).parents[3] / "docs" / "gateway-access.md"


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("OPERATIONS_KEY", "TAILRACE_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    toml = re.search(r"^```toml\n(.*?)^```\n", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert toml is not None
    file = tmp_path / "tailrace.toml"
    file.write_text(toml[1])
    return Settings.load(config=file)


def test_the_configuration_is_one(configured: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    monkeypatch.setenv("OPERATIONS_KEY", key)
    tenants = Tenants(configured)
    tenants.load()
    operations = tenants.with_key(key)
    assert operations is not None
    assert operations.principal.sees_all
    acme = configured.gateway.tenants["acme"]
    assert acme.concurrent_jobs == 50
    assert not acme.sees_all


async def test_started_as_the_page_says_it_answers_who_has_a_key(
    configured: Settings, redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = configured.gateway
    asked: dict[str, Any] = {"tenants": named.tenants, "token_secret_env": named.token_secret_env}
    async with engine(redis, namespace, with_worker=False) as running:
        with pytest.raises(InvalidRequest, match="TAILRACE_TOKEN_SECRET"):
            await served(running, **asked).__aenter__()
        key = new_key()
        monkeypatch.setenv("TAILRACE_TOKEN_SECRET", new_key())
        with pytest.raises(InvalidRequest, match="OPERATIONS_KEY"):
            await served(running, **asked).__aenter__()
        monkeypatch.setenv("OPERATIONS_KEY", key)
        async with served(running, **asked) as gateway:
            said = {path: (await gateway.http.get(path)).status_code for path in ("/v1/jobs", "/", "/openapi.json")}
            assert said == {"/v1/jobs": 401, "/": 200, "/openapi.json": 200}
            listed = await gateway.http.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"})
            assert listed.status_code == 200


@dataclass
class Weak:
    """A gateway whose user on the server has the rights of its role only."""

    http: httpx2.AsyncClient
    admin: Any
    running: Engine

    async def submit(self, job_id: str, **asked: Any) -> None:
        made = await self.http.post("/v1/jobs", json={"prompt": "a", "job_id": job_id, **asked})
        assert made.status_code == 201, made.text

    async def lists_ended(self, job_id: str) -> bool:
        listed = await self.http.get("/v1/jobs?ended=5")
        assert listed.status_code == 200, listed.text
        return job_id in {job["id"] for job in listed.json()["jobs"]}

    async def used(self) -> set[str]:
        return {name.removeprefix("cmdstat_") for name in await self.admin.info("commandstats")}


@asynccontextmanager
async def weak(
    server: EmbeddedServer, namespace: str, *, with_worker: bool = True, **settings: Any
) -> AsyncGenerator[Weak]:
    key = new_key()
    limited = {"requests_per_minute": 1000, "concurrent_jobs": 1, "open_streams": 5, "sees_all": True}
    tenants = {"acme": TenantSettings.model_validate({"key_hashes": (hash_key(key),), **limited})}
    client: Any = Redis.from_url(server.tcp_url)  # pyright: ignore[reportUnknownMemberType]  # redis-py's **kwargs
    host, _, port = server.tcp_url.rpartition("@")[2].partition("/")[0].partition(":")
    async with client as admin, engine(admin, namespace, with_worker=with_worker, **settings) as running:
        words = rule("gateway", running.settings.keys).split()
        await admin.execute_command("ACL", "SETUSER", "gateway", "reset", "on", ">secret", *words)
        async with (
            Redis(host=host, port=int(port), username="gateway", password="secret") as user,  # this test's
            AsyncTailrace(settings=running.settings, redis=user) as tailrace,
            served(Engine(tailrace, running.rehearsal, running.settings, user, None), tenants=tenants) as gateway,
        ):
            gateway.http.headers["Authorization"] = f"Bearer {key}"
            yield Weak(gateway.http, admin, running)


async def test_the_rights_are_enough_and_every_command_of_them_is_used(namespace: str) -> None:
    with EmbeddedServer(private=True) as server:
        async with weak(server, namespace) as gateway:
            http = gateway.http
            assert (await http.get("/readyz")).status_code == 200
            for job_id in ("a", "b"):  # the second one has to look for a place
                await gateway.submit(job_id)
                assert "event: end" in (await http.get(f"/v1/jobs/{job_id}/stream")).text
                assert (await http.get(f"/v1/jobs/{job_id}")).json()["status"] == "completed"
            await wait_until("it is handed off", lambda: gateway.lists_ended("a"))
            token = (await http.post("/v1/jobs/b/tokens")).json()["token"]
            assert (await http.get(f"/v1/jobs/b?token={token}")).status_code == 200
            assert (await http.delete("/v1/jobs/b")).status_code == 200
            await gateway.submit("c", delay=60)
            assert (await http.post("/v1/jobs/c/cancel")).json()["status"] == "cancelled"
        async with weak(server, namespace, with_worker=False, queue_capacity=10) as gateway:
            # What was done so far, a worker may have done, or the check of the server.
            await gateway.admin.script_flush()
            await gateway.admin.config_resetstat()
            http = gateway.http
            await gateway.submit("d")
            assert (await http.post("/v1/jobs", json={"prompt": "a", "job_id": "d"})).status_code == 200
            async with http.stream("GET", "/v1/jobs/d/stream") as stream:
                await wait_until("it is followed", lambda: has_used(gateway, "subscribe"))
                assert (await http.post("/v1/jobs/d/cancel")).json()["status"] == "cancelled"
                assert "event: end" in [line async for line in stream.aiter_lines()]
            task = await http.post("/v1/jobs", json={"api": "task", "task": "unheard of", "input": 1, "job_id": "e"})
            assert task.status_code == 201, task.text
            assert await gateway.lists_ended("a")
            assert (await http.delete("/v1/jobs/e")).status_code == 200
            assert "tailrace_queue_" in (await http.get("/metrics")).text
            await wait_until("it is followed no more", lambda: has_used(gateway, "unsubscribe"))
            words = rule("gateway", gateway.running.settings.keys).split()
            # On a connection that has been quiet; for a database other than 0; a producer's, for many jobs at once.
            quiet = {"ping", "select", "script|load"}
            granted = {word.removeprefix("+") for word in words if word.startswith("+")} - quiet
            assert granted - await gateway.used() == set()


async def has_used(gateway: Weak, command: str) -> bool:
    return command in await gateway.used()
