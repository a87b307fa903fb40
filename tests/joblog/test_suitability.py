"""What is wrong with a server is said before a job is lost to it, with the cure."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.joblog import suitability
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.rights import rule
from tailrace.joblog.suitability import Finding, check_server, require_suitable
from tailrace.schemas.errors import BrokerUnavailable, BrokerUnsuitable
from tailrace.schemas.keys import Keys


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedServer]:
    """A server that the tests of this file reconfigure."""
    with EmbeddedServer(private=True) as server:
        yield server


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncGenerator[Redis]:
    redis: Any = Redis
    async with redis.from_url(url, **options) as client:
        yield client


@asynccontextmanager
async def configured(server: EmbeddedServer, **settings: str) -> AsyncGenerator[Redis]:
    """The server with other settings for a while."""
    async with connected(server.url) as client:
        admin: Any = client
        before = {name: (await admin.config_get(name))[name] for name in _dashed(settings)}
        for name, value in _dashed(settings).items():
            await admin.config_set(name, value)
        try:
            yield client
        finally:
            for name, value in reversed(before.items()):
                await admin.config_set(name, value)


def _dashed(settings: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in settings.items()}


@asynccontextmanager
async def user_with(server: EmbeddedServer, *rules: str) -> AsyncGenerator[Redis]:
    """A connection as a user with these rights."""
    host = server.tcp_url.rpartition("@")[2]
    async with connected(server.url) as client:
        admin: Any = client
        await admin.execute_command("ACL", "SETUSER", "guest", "reset", "on", ">guest", *rules)
        async with connected(f"redis://guest:guest@{host}") as guest:
            yield guest
        await admin.execute_command("ACL", "DELUSER", "guest")


async def finding(redis: Redis, code: str, keys: Keys | None = None) -> Finding:
    (found,) = [finding for finding in await check_server(redis, keys) if finding.code == code]
    return found


async def test_the_embedded_server_has_nothing_to_complain_of(real_redis: Redis) -> None:
    findings = await require_suitable(real_redis)
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert len(findings) == 11


async def test_a_check_leaves_no_key_behind(redis: Redis, namespace: str) -> None:
    await check_server(redis, Keys(namespace))
    anything: Any = redis
    assert await anything.keys() == []


async def test_fakeredis_is_let_through_with_warnings_for_what_it_does_not_tell(redis: Redis) -> None:
    assert all(finding.level in {"ok", "warning"} for finding in await require_suitable(redis))


async def test_every_finding_that_is_not_ok_has_a_cure(own_server: EmbeddedServer) -> None:
    async with (
        configured(own_server, maxmemory_policy="allkeys-lru", appendonly="no"),
        user_with(own_server, "+@connection", "+info") as guest,
    ):
        findings = [finding for finding in await check_server(guest) if finding.level != "ok"]
    assert {finding.code for finding in findings} == {"eviction", "aof", "pubsub-buffer", "acl"}
    assert all(finding.cure for finding in findings)


async def test_a_policy_that_evicts_is_an_error_once_memory_is_limited(own_server: EmbeddedServer) -> None:
    async with configured(own_server, maxmemory_policy="allkeys-lru") as redis:
        assert (await finding(redis, "eviction")).level == "warning"
        await require_suitable(redis)
    async with configured(own_server, maxmemory_policy="allkeys-lru", maxmemory="100mb") as redis:
        with pytest.raises(BrokerUnsuitable, match="allkeys-lru") as caught:
            await require_suitable(redis)
        assert "CONFIG SET maxmemory-policy noeviction" in caught.value.cure


async def test_memory_that_is_nearly_full_is_a_warning_and_full_is_an_error(own_server: EmbeddedServer) -> None:
    async with connected(own_server.url) as client:
        admin: Any = client
        used = (await admin.info("memory"))["used_memory"]
    async with configured(own_server, maxmemory=str(int(used * 1.15))) as redis:
        assert (await finding(redis, "memory")).level == "warning"
    async with configured(own_server, maxmemory="1mb") as redis:
        with pytest.raises(BrokerUnsuitable, match="maxmemory"):
            await require_suitable(redis)


@pytest.mark.parametrize(
    ("setting", "value", "code", "cure"),
    [
        ("appendonly", "no", "aof", "appendonly yes"),
        ("appendfsync", "no", "fsync", "appendfsync everysec"),
        ("client_output_buffer_limit", "pubsub 32mb 8mb 60", "pubsub-buffer", "pubsub 8mb 2mb 30"),
        ("client_output_buffer_limit", "pubsub 0 0 0", "pubsub-buffer", "pubsub 8mb 2mb 30"),
    ],
)
async def test_a_weak_setting_is_a_warning_with_the_command_to_change_it(
    own_server: EmbeddedServer, setting: str, value: str, code: str, cure: str
) -> None:
    async with configured(own_server, **{setting: value}) as redis:
        found = await finding(redis, code)
        await require_suitable(redis)
    assert found.level == "warning"
    assert f"CONFIG SET {cure.split()[0]}" in found.cure or cure in found.cure


async def test_a_replica_is_refused(own_server: EmbeddedServer) -> None:
    with EmbeddedServer(private=True) as replica:
        port = own_server.tcp_url.rpartition(":")[2].partition("/")[0]
        async with connected(replica.url) as redis:
            admin: Any = redis
            await admin.execute_command("REPLICAOF", "127.0.0.1", port)
            with pytest.raises(BrokerUnsuitable, match=f"replica of 127.0.0.1:{port}"):
                await require_suitable(redis)


async def test_a_cluster_is_refused() -> None:
    with EmbeddedServer(private=True, extra_config={"cluster-enabled": "yes"}) as server:
        async with connected(server.url) as redis:
            with pytest.raises(BrokerUnsuitable, match="cluster"):
                await require_suitable(redis)


@pytest.mark.parametrize(
    ("told", "level"),
    [
        ({"redis_version": "6.2.14"}, "error"),
        ({"redis_version": "7.0.0"}, "ok"),
        ({"redis_version": "8.2.1"}, "ok"),
        ({"redis_version": "10.0"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "7.1.0"}, "error"),
        ({"redis_version": "next"}, "warning"),
    ],
)
def test_versions_are_judged(told: dict[str, str], level: str) -> None:
    assert suitability._version(told).level == level  # pyright: ignore[reportPrivateUsage] - no server is that old here


RIGHTS = tuple(rule("worker", Keys()).split())


async def test_the_rights_that_the_cure_names_are_enough(own_server: EmbeddedServer) -> None:
    async with user_with(own_server, *RIGHTS) as guest:
        assert (await finding(guest, "acl")).level == "ok"
        assert {found.code for found in await require_suitable(guest) if found.level == "warning"} == {
            "fsync",  # CONFIG is refused
            "pubsub-buffer",
        }
    async with user_with(own_server, "-@all") as guest:
        cure = (await finding(guest, "acl")).cure
    assert cure == f"ACL SETUSER <user> {' '.join(RIGHTS)}"


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("-xadd", "XADD"),
        ("-eval", "EVAL"),
        ("-xrevrange", "XREVRANGE"),
        ("-publish", "PUBLISH"),
        ("-subscribe", "SUBSCRIBE"),
        ("-time", "TIME"),
    ],
)
async def test_a_command_that_the_user_may_not_call_is_named(own_server: EmbeddedServer, rule: str, named: str) -> None:
    async with user_with(own_server, *RIGHTS, rule) as guest:
        with pytest.raises(BrokerUnsuitable, match=rf"may not call {named} on"):
            await require_suitable(guest)


@pytest.mark.parametrize("rule", ["~tailrace:*", "~arq:*:tailrace:*", "&tailrace:*"])
async def test_keys_and_channels_that_the_user_may_not_use_are_an_error(own_server: EmbeddedServer, rule: str) -> None:
    async with user_with(own_server, *(right for right in RIGHTS if right != rule)) as guest:
        assert (await finding(guest, "acl")).level == "error"


async def test_a_wrong_password_is_an_error_that_says_so(own_server: EmbeddedServer) -> None:
    async with connected("redis://:wrong@" + own_server.tcp_url.rpartition("@")[2]) as redis:
        with pytest.raises(BrokerUnsuitable, match="password"):
            await require_suitable(redis)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with EmbeddedServer(private=True) as server:
        server.kill()
        async with connected(server.url) as redis:
            with pytest.raises(BrokerUnavailable):
                await check_server(redis)
