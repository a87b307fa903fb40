"""The blocking client that renews leases beside an asyncio one."""

import gc
from typing import Any

from redis.asyncio import Redis

from tailrace.queue.renewal import blocking_twin


def test_a_twin_that_is_closed_leaves_no_connection(server_url: str) -> None:
    asking: Any = Redis.from_url(server_url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
    twin: Any = blocking_twin(asking)
    assert twin.ping()
    (connection,) = twin.connection_pool._available_connections
    assert connection._sock is not None
    twin.close()
    assert connection._sock is None
    del connection, twin
    gc.collect()
