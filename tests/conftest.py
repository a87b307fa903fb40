"""What every test may ask for: a Redis (`redis`: once fake, once real), a `namespace` of its own, and no leaks after it.

The real one is the embedded server's, a Valkey 9; TAILRACE_TEST_SERVER=redis-server takes a program on PATH in its place,
and leaves out the fake.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis

from tailrace.joblog import _server
from tailrace.joblog.embedded import EmbeddedServer

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

LEAK_PATIENCE_SECONDS: Final = 2.0
#: The program that is the real server; empty: the embedded one's.
SERVER: Final = os.environ.get("TAILRACE_TEST_SERVER", "")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that a test starts
# and interrupts. A signal that is handled here is at its default in them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    if SERVER:
        program = shutil.which(SERVER)
        if program is None:
            raise pytest.UsageError(f"TAILRACE_TEST_SERVER: there is no {SERVER!r} on PATH")
        patches = pytest.MonkeyPatch()
        patches.setattr(_server, "find_binary", lambda: program)
        config.add_cleanup(patches.undo)


def pytest_report_header() -> str:
    said = subprocess.run([_server.find_binary(), "--version"], capture_output=True, text=True, check=False)
    return f"server: {said.stdout.strip()}"


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """One private server for the session. A test that kills or reconfigures a server starts one of its own."""
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture(scope="session")
def server_url(server: EmbeddedServer) -> str:
    return server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["real"] if SERVER else ["fake", "real"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """An empty Redis that answers in bytes: the test runs once on fakeredis, once on a real server.

    Fails a test that leaves a key without a time to live, an asyncio task, or a connection of its own to the server.
    """
    if request.param == "fake":
        async with _no_task_left(), fakeredis.FakeAsyncRedis() as client:
            yield client
            await _assert_every_key_expires(client)
    else:
        async with _no_task_left(), _real(request.getfixturevalue("server_url")) as client:
            yield client


@pytest.fixture
async def real_redis(server_url: str) -> AsyncIterator[Redis]:
    """As `redis`, on the real server only: for what fakeredis does not have."""
    async with _no_task_left(), _real(server_url) as client:
        yield client


@asynccontextmanager
async def _real(url: str) -> AsyncGenerator[Redis]:
    redis: Any = Redis
    async with redis.from_url(url) as client:
        await client.flushall()
        before = await _connections(client)
        yield client
        await _assert_every_key_expires(client)
        # The test's own pool: it may hold several connections.
        await client.connection_pool.disconnect()
        await _eventually_empty("connections left open", partial(_connections_beyond, client, before))


@asynccontextmanager
async def _no_task_left() -> AsyncGenerator[None]:
    before = asyncio.all_tasks()

    async def left() -> list[str]:
        return [repr(task) for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]

    yield
    await _eventually_empty("asyncio tasks left running", left)


# Any: redis-py's own annotations are partly unknown to a strict checker.
async def _assert_every_key_expires(client: Any) -> None:
    for_ever = [key async for key in client.scan_iter() if await client.pttl(key) == -1]
    if for_ever:
        pytest.fail(f"keys without a time to live: {for_ever}")


async def _connections(client: Any) -> set[str]:
    return {connection["id"] for connection in await client.client_list()}


async def _connections_beyond(client: Any, before: set[str]) -> list[str]:
    own = str(await client.client_id())
    listed = await client.client_list()
    return [str(connection) for connection in listed if connection["id"] not in before | {own}]


async def _eventually_empty(what: str, look: Callable[[], Any]) -> None:
    """A task that was cancelled, a connection that was closed: gone a moment later."""
    give_up = time.monotonic() + LEAK_PATIENCE_SECONDS
    while left := await look():
        if time.monotonic() > give_up:
            pytest.fail(f"{what}: {left}")
        await asyncio.sleep(0.005)
