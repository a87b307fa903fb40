"""For the tests of this room: workers on either Redis, with short leases, closed at the end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from engine import twin_of, wait_until
from tailrace.queue.leased import Handler, LeasedWorker
from tailrace.schemas.keys import Keys

AnyRedis: TypeAlias = Any
"""A `redis.asyncio.Redis`; its own annotations are partly unknown to a strict checker."""

MakeWorker = Callable[..., Awaitable[LeasedWorker]]

TTL_MS = 60_000


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
