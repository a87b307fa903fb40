"""The real server beside the simulated one."""

from collections.abc import Iterator

import pytest
from redis import Redis

from .reality import OPENED


@pytest.fixture
def real(server_url: str) -> Iterator[Redis]:
    with Redis.from_url(server_url) as client:  # pyright: ignore[reportUnknownMemberType]  # **kwargs without a type
        yield client
        while OPENED:
            OPENED.pop().disconnect()
