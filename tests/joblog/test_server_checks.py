"""Limits that come near, settings that cost, replicas that fall behind: on real servers set that way where that can be."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from job_logs import wait_until
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.server_checks import certificate_end, of_certificate, of_info, of_settings
from tailrace.joblog.suitability import Finding, check_server


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedServer]:
    """A server that the tests of this file reconfigure."""
    with EmbeddedServer(private=True) as server:
        yield server


@asynccontextmanager
async def configured(server: EmbeddedServer, settings: dict[str, str]) -> AsyncGenerator[Any]:
    redis: Any = Redis
    async with redis.from_url(server.url) as client:
        before = {name: (await client.config_get(name))[name] for name in settings}
        for name, value in settings.items():
            await client.config_set(name, value)
        try:
            yield client
        finally:
            for name, value in before.items():
                await client.config_set(name, value)


async def findings(redis: Any) -> dict[str, Finding]:
    return {found.code: found for found in await check_server(redis)}


@pytest.mark.parametrize(
    ("settings", "code", "level", "cure"),
    [
        ({"busy-reply-threshold": "50"}, "busy-scripts", "warning", "busy-reply-threshold 5000"),
        ({"timeout": "10"}, "idle-timeout", "warning", "CONFIG SET timeout 0"),
        ({"min-replicas-to-write": "1"}, "min-replicas", "error", "min-replicas-to-write 0"),
        ({"stream-node-max-bytes": "4096"}, "stream-nodes", "ok", ""),
    ],
)
async def test_a_setting_that_hurts_is_named_with_what_to_set(
    own_server: EmbeddedServer, settings: dict[str, str], code: str, level: str, cure: str
) -> None:
    async with configured(own_server, {}) as redis:
        before = await findings(redis)
        assert before.get(code, Finding("ok", code, "")).level == "ok"
    async with configured(own_server, settings) as redis:
        found = (await findings(redis))[code]
    assert found.level == level
    assert cure in found.cure


async def test_a_server_with_few_connections_left_is_a_warning(own_server: EmbeddedServer) -> None:
    anything: Any = Redis
    async with configured(own_server, {"maxclients": "6"}) as redis, AsyncExitStack() as others:
        for _ in range(4):
            await (await others.enter_async_context(anything.from_url(own_server.url))).ping()
        found = (await findings(redis))["connections"]
    assert (found.level, "CONFIG SET maxclients" in found.cure) == ("warning", True)


async def test_a_replica_in_step_is_told_and_one_that_hangs_is_a_warning(own_server: EmbeddedServer) -> None:
    port = own_server.tcp_url.rpartition(":")[2].partition("/")[0]
    password = own_server.tcp_url.partition("//:")[2].partition("@")[0]
    config = {"replicaof": f"127.0.0.1 {port}", "masterauth": password}
    async with configured(own_server, {"repl-timeout": "60"}) as redis:
        with EmbeddedServer(private=True, extra_config=config):

            async def in_step() -> bool:
                return "replicas" in (found := await findings(redis)) and found["replicas"].level == "ok"

            await wait_until("the replica is in step", in_step)
        info = {
            "connected_slaves": 2,
            "slave0": {"state": "online", "lag": 0},
            "slave1": {"state": "online", "lag": 40},
        }
        (found,) = of_info(info)
        assert (found.code, found.level) == ("replicas", "warning")
        assert found.what.startswith("1 of 2 replicas")


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"used_memory": 9 * 2**30, "total_system_memory": 10 * 2**30, "maxmemory": 0}, "unlimited"),
        ({"used_memory": 2**28, "used_memory_rss": 2**29}, "fragmentation"),
        ({"latest_fork_usec": 900_000}, "fork"),
        ({"aof_last_bgrewrite_status": "err"}, "aof-rewrite"),
        ({"connected_slaves": 1, "slave0": {"state": "wait_bgsave", "lag": 0}}, "replicas"),
        ({"connected_clients": 9000, "maxclients": 10000}, "connections"),
    ],
)
def test_what_the_server_tells_of_itself_is_judged(info: dict[str, Any], code: str) -> None:
    """What no server here can be brought to: a machine short of memory, a slow fork, a lagging replica."""
    (found,) = of_info(info)
    assert (found.code, found.level) == (code, "warning")
    assert found.cure
    assert of_info({}) == []


def test_settings_that_may_not_be_seen_are_not_judged() -> None:
    assert of_settings({"timeout": None, "busy-reply-threshold": None}, None) == []
    assert of_settings({"lua-time-limit": "10"}, None)[0].code == "busy-scripts"


@pytest.mark.parametrize(("days", "level"), [(-1, "warning"), (3, "warning"), (90, "ok")])
def test_a_certificate_that_ends_soon_is_a_warning(days: int, level: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = of_certificate(now + timedelta(days=days), now)
    assert (found.level, bool(found.cure)) == (level, level == "warning")
    assert certificate_end("Jan  5 09:34:43 2027 GMT") == datetime(2027, 1, 5, 9, 34, 43, tzinfo=UTC)
