"""For the tests of this room: workers on either Redis, with short leases, closed at the end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias, cast

import fakeredis
import redis as blocking

from tailrace.queue.leased import Handler, LeasedWorker
from tailrace.queue.renewal import blocking_twin
from tailrace.schemas.keys import Keys

AnyRedis: TypeAlias = Any
"""A `redis.asyncio.Redis`; its own annotations are partly unknown to a strict checker."""

MakeWorker = Callable[..., Awaitable[LeasedWorker]]

TTL_MS = 60_000


def twin_of(redis: AnyRedis) -> blocking.Redis:
    """A blocking client for the same server, fake or real."""
    if isinstance(redis, fakeredis.FakeAsyncRedis):
        kwargs = cast("Any", redis).connection_pool.connection_kwargs
        names = ("host", "port", "db", "server", "version", "server_type")
        return fakeredis.FakeRedis(**{name: kwargs[name] for name in names if name in kwargs})
    return blocking_twin(redis)


async def wait_until(description: str, condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """`condition` may be plain or async."""
    give_up = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < give_up, f"waited in vain until {description}"
        await asyncio.sleep(0.003)


@asynccontextmanager
async def open_workers(redis: AnyRedis, keys: Keys) -> AsyncGenerator[MakeWorker]:
    """`await make(handler, ...)`: a worker that is open and runs until the block ends."""
    async with AsyncExitStack() as stack:

        async def make(handler: Handler, *, worker_name: str = "w", **settings: Any) -> LeasedWorker:
            settings = {"lease_s": 0.3, "renewal_client": partial(twin_of, redis), **settings}
            worker = LeasedWorker(handler, keys=keys, redis=redis, worker_name=worker_name, **settings)
            running = asyncio.create_task(_run(worker))
            stack.push_async_callback(_ended, running)
            stack.callback(worker.stop)
            await wait_until("the worker runs", lambda: worker.main_task)
            return worker

        yield make


async def _run(worker: LeasedWorker) -> None:
    async with worker:
        await worker.async_run()


async def _ended(running: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(10):
        await running
