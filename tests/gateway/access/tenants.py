"""Tenants with keys, and a gateway that knows them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateways import Served, served
from redis.asyncio import Redis

from engine import engine
from tailrace.gateway.access import hash_key, new_key
from tailrace.schemas.sections import TenantSettings

#: Tokens for as long as a test likes, then none for ever.
ENDLESS = "rehearsal:fault=endless,pace=0.01"


@dataclass
class Tenanted:
    """A gateway, and the key of each tenant as the header that carries it."""

    served: Served
    keys: dict[str, str]

    def of(self, tenant: str) -> dict[str, str]:
        """The headers that a tenant sends."""
        return bearer(self.keys[tenant])

    async def get(self, path: str, tenant: str | None = None, **more: Any) -> Any:
        return await self.ask("GET", path, tenant, **more)

    async def post(self, path: str, tenant: str | None = None, **more: Any) -> Any:
        return await self.ask("POST", path, tenant, **more)

    async def ask(self, method: str, path: str, tenant: str | None = None, **more: Any) -> Any:
        headers = (self.of(tenant) if tenant else {}) | more.pop("headers", {})
        return await self.served.http.request(method, path, headers=headers, **more)

    async def submit(self, tenant: str, job_id: str | None = None, *, prompt: str = "hello", **more: Any) -> str:
        """The id of a job of theirs."""
        made = await self.post("/v1/jobs", tenant, json={"prompt": prompt, "job_id": job_id, **more})
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def token(self, tenant: str, job_id: str, **asked: Any) -> str:
        """A read token for a job of theirs."""
        made = await self.post(f"/v1/jobs/{job_id}/tokens", tenant, json=asked)
        assert made.status_code == 201, made.text
        return str(made.json()["token"])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def tenanted(
    redis: Redis, namespace: str, *, with_worker: bool = True, gateway: dict[str, Any] | None = None, **tenants: Any
) -> AsyncGenerator[Tenanted]:
    """A gateway with these tenants: settings of each by name, {} for none."""
    keys = {name: new_key() for name in tenants}
    configured = {
        name: TenantSettings.model_validate({"key_hashes": (hash_key(keys[name]),), **settings})
        for name, settings in tenants.items()
    }
    async with (
        engine(redis, namespace, with_worker=with_worker) as running,
        served(running, tenants=configured, **(gateway or {})) as gate,
    ):
        yield Tenanted(gate, keys)
