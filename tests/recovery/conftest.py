"""Two servers for each test: logs here, the queue there."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from two_servers import Two

from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import Keys


@pytest.fixture(scope="module")
def other() -> Any:
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture
async def two(real_redis: Redis, other: EmbeddedServer, namespace: str) -> AsyncIterator[Two]:
    """Both servers as they are when a worker has been there for some time."""
    make: Any = Redis
    async with make.from_url(other.tcp_url) as queue:
        await queue.flushall()
        made = Two(real_redis, queue, Keys(namespace))
        await made.scrubbed()
        await made.later()
        await made.scrubbed()
        assert await made.walks() == 2
        yield made
        for_ever = [key async for key in queue.scan_iter() if await queue.pttl(key) == -1]
        assert not for_ever, f"keys without a time to live: {for_ever}"
