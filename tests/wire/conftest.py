"""A worker on the rehearsal upstream, and both clients, for the tests of docs/wire.md."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from wire_clients import CLIENTS, NODE, WireClient, client_of, plain_environment

from node_packages import installed_node_packages
from stack import Stack, running_stack
from tailrace.joblog.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def wire_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture(scope="module")
def stack(wire_server: EmbeddedServer) -> Iterator[Stack]:
    with running_stack(wire_server.url, rehearsal={"pace": 0.002}) as stack:
        yield stack


@pytest.fixture(scope="session")
def node_packages() -> Path:
    return installed_node_packages(NODE) / "node_modules"


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, stack: Stack, wire_server: EmbeddedServer) -> WireClient:
    """A client of the running worker's namespace. (By TCP: redis-cli has another way to name a unix socket.)"""
    return client_of(request.param, request, stack.environment | {"TAILRACE_REDIS_URL": wire_server.tcp_url})


@pytest.fixture(params=CLIENTS)
def reader(request: pytest.FixtureRequest, namespace: str, server: EmbeddedServer) -> WireClient:
    """A client of a namespace without a worker, where the test writes the log."""
    here = {"TAILRACE_REDIS_URL": server.tcp_url, "TAILRACE_NAMESPACE": namespace}
    return client_of(request.param, request, plain_environment() | here)


@pytest.fixture
async def wire_redis(wire_server: EmbeddedServer) -> AsyncIterator[Redis]:
    redis: Any = Redis
    async with redis.from_url(wire_server.url) as opened:
        yield opened
