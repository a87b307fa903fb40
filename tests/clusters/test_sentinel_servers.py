"""The sentinels that tests break things behind: each method does what it says, on each server program that there is."""

from typing import Any

import pytest
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import ReadOnlyError

from redis_nodes import binaries
from sentinel_servers import NAME, sentinels


@pytest.mark.parametrize("binary", binaries())
async def test_a_killed_primary_is_replaced_and_a_stock_client_is_told(binary: str) -> None:
    async with sentinels(binary=binary) as three:
        old = await three.primary()
        assert old is three.servers[0]
        assert await three.replicas() == three.servers[1:]
        await old.redis.set("kept", "1", ex=60)
        await old.redis.wait(2, 5000)
        with pytest.raises(ReadOnlyError):
            await three.servers[1].redis.set("kept", "2")
        await old.kill()
        new = await three.wait_for_failover(old)
        assert await new.redis.get("kept") == "1"
        assert {await three.told_by(watcher) for watcher in three.watchers} == {new}
        make: Any = Sentinel
        stock = make([("127.0.0.1", watcher.port) for watcher in three.watchers])
        assert await stock.discover_master(NAME) == ("127.0.0.1", new.port)
        for watcher in stock.sentinels:
            await watcher.aclose()
        assert three.url.startswith(f"redis+sentinel://:{three.password}@127.0.0.1:{three.watchers[0].port},")
        assert three.url.endswith(f"/{NAME}/0")


@pytest.mark.faults
async def test_a_stopped_primary_is_replaced_and_becomes_a_replica() -> None:
    async with sentinels() as three:
        old = await three.primary()
        old.pause()
        new = await three.wait_for_failover(old)
        old.resume()
        # Sentinels let it be a primary for 8 s before they make it a replica.
        await three.wait_until_ready()
        assert old in await three.replicas()
        with pytest.raises(ReadOnlyError):
            await old.redis.set("x", "1")
        assert (await new.redis.info("replication"))["connected_slaves"] == 2


async def test_a_failover_by_hand_and_a_sentinel_less() -> None:
    async with sentinels() as three:
        old = await three.primary()
        await three.watchers[2].kill()
        new = await three.fail_over()
        assert new is not old
        assert await three.primary() is new
