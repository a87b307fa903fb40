"""Behind Sentinels: who leaves a primary that was replaced, and when. Sentinels leave it one for another 8 s."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.exceptions import RedisError
from redis.sentinel import MasterNotFoundError

from engine import wait_until
from redis_nodes import Node
from sentinel_servers import NAME, Sentinels, sentinels
from tailrace.joblog import Broker, connected, sentinel
from tailrace.joblog.connections import connect
from tailrace.joblog.sentinel import SentinelPool, watched

#: Until the old primary would say itself that it is none.
BEFORE_DEMOTION_S = 5.0
PAGE: Final = Path(__file__).parents[2] / "docs" / "security.md"


@pytest.fixture
async def three() -> AsyncIterator[Sentinels]:
    async with sentinels() as made:
        yield made


async def own_pubsub(broker: Broker) -> Any:
    pubsub = await broker.pubsub(lambda _: None)
    pubsub.say("SUBSCRIBE", "x")
    return pubsub


async def all_heard(three: Sentinels, user: str = "default") -> bool:
    """Whether somebody of that name listens to each of them."""
    there = [await watcher.redis.client_list() for watcher in three.watchers]
    return all(any((client["sub"], client["user"]) == ("1", user) for client in clients) for clients in there)


async def over(pubsub: Any) -> bool:
    """Whether the connection was closed."""
    try:
        return bool(await pubsub.waited(0))
    except ConnectionError:
        return True
    except Exception as error:
        assert "closed" in str(error)  # noqa: PT017 -- redis-py's
        return True


async def test_a_client_leaves_a_replaced_primary_when_the_sentinels_say_so(
    three: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "_LOOK_S", 3600.0)  # nobody asks
    async with connected(three.url) as broker:
        await broker.call("PING")
        pubsub = await own_pubsub(broker)
        await wait_until("all sentinels are heard", lambda: all_heard(three))
        old = await three.primary()
        new = await three.fail_over()

        async def left() -> bool:
            await broker.call("SET", "at", "x", "PX", 60_000)
            return bool(await new.redis.exists("at"))

        async with asyncio.timeout(BEFORE_DEMOTION_S):
            await wait_until("it writes to the new primary", left)
            await wait_until("what it waits on is closed too", lambda: over(pubsub))
        assert (await old.redis.role())[0] == "master", "the old primary has not said so itself"
        await pubsub.close()


async def test_a_sentinels_user_needs_no_more_rights_than_the_page_says(
    three: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "_LOOK_S", 3600.0)  # nobody asks
    (rule,) = re.findall(r"ACL SETUSER tailrace-sentinel (reset .*)", PAGE.read_text(encoding="utf-8"))
    for watcher in three.watchers:
        await watcher.redis.execute_command("ACL", "SETUSER", "watching", *rule.replace("PASSWORD", "secret").split())
    async with connected(f"{three.url}?sentinel_username=watching&sentinel_password=secret") as broker:
        await broker.call("PING")
        await wait_until("all sentinels are heard", lambda: all_heard(three, user="watching"))
        new = await three.fail_over()

        async def left() -> bool:
            await broker.call("SET", "at", "x", "PX", 60_000)
            return bool(await new.redis.exists("at"))

        async with asyncio.timeout(BEFORE_DEMOTION_S):
            await wait_until("it writes to the new primary", left)
        refused = {each["object"] for watcher in three.watchers for each in await watcher.redis.acl_log()}
        assert refused <= {"client|setinfo"}, "what redis-py says of itself, and nothing needs"


async def test_who_learns_of_another_primary_closes_what_is_in_use_at_the_old_one(three: Sentinels) -> None:
    redis = connect(three.url)
    try:
        broker, pool = Broker(redis), redis.connection_pool
        assert isinstance(pool, SentinelPool)
        await broker.call("PING")
        pubsub = await own_pubsub(broker)
        new = await three.fail_over()
        # A connection that begins now asks the sentinels.
        fresh = await broker.own_connection()
        assert fresh.port == new.port
        await wait_until("the other one is closed", lambda: over(pubsub))
        await broker.call("SET", "at", "x", "PX", 60_000)
        assert await new.redis.exists("at")
        assert fresh.is_connected
        await fresh.disconnect(nowait=True)
        await pubsub.close()
    finally:
        await redis.aclose()


async def test_what_renews_leases_leaves_a_replaced_primary_with_who_claims(three: Sentinels) -> None:
    redis = connect(three.url)
    claiming, pool = Broker(redis), redis.connection_pool
    assert isinstance(pool, SentinelPool)
    renewing: Any = pool.blocking()

    def asked() -> int:
        return int(renewing.info("server")["tcp_port"])

    try:
        await claiming.call("PING")
        old = await three.primary()
        assert await asyncio.to_thread(asked) == old.port
        # One sentinel after the other learns of it: the one that is asked first may be the last one.
        for watcher in renewing.connection_pool.sentinel_manager.sentinels:
            watcher.sentinel_masters = dict
        new = await three.fail_over()
        assert await asyncio.to_thread(asked) == old.port, "nobody has told it"
        fresh = await claiming.own_connection()
        assert fresh.port == new.port
        assert await asyncio.to_thread(asked) == new.port
        assert (await old.redis.role())[0] == "master", "the old primary has not said so itself"
        await fresh.disconnect(nowait=True)
    finally:
        renewing.close()
        await redis.aclose()


async def test_what_renews_leases_asks_the_sentinels_while_the_event_loop_is_held_up(three: Sentinels) -> None:
    redis = connect(three.url)
    pool = redis.connection_pool
    assert isinstance(pool, SentinelPool)
    renewing: Any = pool.blocking()
    try:
        await Broker(redis).call("PING")
        old = await three.primary()
        assert await asyncio.to_thread(renewing.ping)
        await old.kill()
        new = await three.wait_for_failover(old)
        assert cast("Any", pool).master_address == ("127.0.0.1", old.port), "nobody has used the loop's own"
        with suppress(RedisError):
            await asyncio.to_thread(renewing.ping)  # the connection that is lost
        assert (await asyncio.to_thread(renewing.info, "server"))["tcp_port"] == new.port
    finally:
        renewing.close()
        await redis.aclose()


class Told:
    """A sentinel that says this. `promoted`: it carries out a failover, and its state is still the old primary's."""

    def __init__(self, epoch: int, port: int, *, promoted: int | None = None, down: bool = False) -> None:
        plain = {"is_master": True, "is_sdown": False, "is_odown": down, "num-other-sentinels": 2}
        self._state: dict[str, Any] = {"ip": "127.0.0.1", "port": port, "config-epoch": epoch, **plain}
        self._address = [b"127.0.0.1", str(promoted or port).encode()]

    async def sentinel_masters(self) -> dict[str, Any]:
        return {NAME: self._state}

    async def execute_command(self, *_: str) -> list[bytes]:
        return self._address

    async def aclose(self) -> None: ...


async def test_the_sentinel_with_the_highest_epoch_is_believed() -> None:
    pool = SentinelPool(watched(f"redis+sentinel://127.0.0.1:1/{NAME}/0"))
    manager: Any = pool.sentinel_manager

    async def said(*sentinels: Told) -> int:
        manager.sentinels = list(sentinels)
        return (await pool.get_master_address())[1]

    assert await said(Told(0, 7001), Told(0, 7001)) == 7001
    # One that has just woken up says what it knew.
    assert await said(Told(0, 7001), Told(1, 7002)) == 7002
    assert await said(Told(1, 7002), Told(0, 7001)) == 7002
    assert await said(Told(2, 7002, promoted=7003, down=True), Told(1, 7002)) == 7003
    # A primary that is down is none.
    assert await said(Told(3, 7004, down=True), Told(2, 7003)) == 7003
    with pytest.raises(MasterNotFoundError):
        await said(Told(3, 7004, down=True))
    await pool.disconnect()


async def test_a_sentinel_that_hangs_keeps_nobody_from_asking_the_others(three: Sentinels) -> None:
    first: Node = three.watchers[0]
    async with connected(three.url) as broker:
        first.pause()
        async with asyncio.timeout(2):
            assert await broker.call("PING")
        first.resume()
