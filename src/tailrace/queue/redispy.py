"""The little of redis-py that this room uses, with types: its own annotations are partly unknown to a strict checker."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, cast

from redis import Redis as BlockingRedis
from redis.asyncio import Redis


class Script(Protocol):
    def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int], /) -> Awaitable[object]: ...


class BlockingScript(Protocol):
    def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> object: ...


class Subscription(Protocol):
    async def subscribe(self, channel: str, /) -> None: ...
    async def get_message(self, *, timeout: float) -> Mapping[str, object] | None: ...
    async def ping(self) -> object: ...
    async def aclose(self) -> None: ...


class Pool(Protocol):
    connection_class: type[object]
    connection_kwargs: dict[str, Any]  # Any: whatever the connection class takes


class Client(Protocol):
    """A `redis.asyncio.Redis` that answers bytes."""

    @property
    def connection_pool(self) -> Pool: ...
    def register_script(self, script: str, /) -> Script: ...
    def pubsub(self) -> Subscription: ...
    async def blpop(self, keys: Sequence[str], timeout: float) -> object: ...


class BlockingClient(Protocol):
    @property
    def connection_pool(self) -> Pool: ...
    def register_script(self, script: str, /) -> BlockingScript: ...
    def close(self) -> None: ...


def typed(redis: Redis) -> Client:
    return cast("Client", redis)


def typed_blocking(redis: BlockingRedis) -> BlockingClient:
    return cast("BlockingClient", redis)
