"""Ending the tasks that something open runs beside its block."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

#: Up to Python 3.11 asyncio.wait_for (in redis-py, in fakeredis) swallows a cancellation that comes together with what
#: it waits for: cancel again. Source: github.com/python/cpython/issues/86296.
_CANCEL_AGAIN_S: Final = 0.2


@asynccontextmanager
async def running(*coroutines: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run coroutines beside the block; they are cancelled, and have ended, when it ends."""
    tasks = {asyncio.create_task(coroutine) for coroutine in coroutines}
    try:
        yield
    finally:
        await end(tasks)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended, however they end."""
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        done, waiting = await asyncio.wait(waiting, timeout=_CANCEL_AGAIN_S)
        await asyncio.gather(*done, return_exceptions=True)
