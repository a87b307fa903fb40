"""Readers that run beside a test."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from job_logs import Job, wait_until
from tailrace.consumer import Consumer
from tailrace.joblog import (
    Broker,
    connected,
)
from tailrace.schemas import (
    START,
    Entry,
    Position,
)

TEST_S = 20.0


async def read(
    consumer: Consumer,
    job_id: str = "job",
    *,
    after: str = START,
    limit: int | None = None,
    into: list[Entry] | None = None,
) -> list[Entry]:
    """Fresh records until the end, or until there are so many."""
    fresh: list[Entry] = [] if into is None else into
    async with asyncio.timeout(TEST_S), aclosing(consumer.follow(job_id, after=Position(after))) as batches:
        async for batch in batches:
            if batch.fresh:
                fresh += batch.entries
            if limit is not None and len(fresh) >= limit:
                return fresh[:limit]
    return fresh


@asynccontextmanager
async def reading(consumer: Consumer, *, readers: int = 1) -> AsyncGenerator[list["asyncio.Task[list[Entry]]"]]:
    """Readers of the job that run beside the block."""
    got: list[list[Entry]] = [[] for _ in range(readers)]
    tasks = [asyncio.create_task(read(consumer, into=into)) for into in got]

    async def begun() -> bool:
        return all(got)

    try:
        await wait_until("every reader has begun", begun)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def subscribers(job: Job) -> int:
    """How many connections hear the job's channel."""
    return int((await job.broker.call("PUBSUB", "NUMSUB", job.keys.live(job.job_id)))[1])


async def heard(job: Job) -> None:
    """Wait until somebody hears the job's channel."""
    await wait_until("a subscription", lambda: subscribers(job))


async def unheard(job: Job) -> None:
    async def nobody() -> bool:
        return await subscribers(job) == 0

    await wait_until("no subscription", nobody)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def unreachable() -> AsyncGenerator[Broker]:
    async with connected(f"redis://127.0.0.1:{closed_port()}") as broker:
        yield broker
