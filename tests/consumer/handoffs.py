"""Ended jobs for tests of the hand-off: made by the scripts that workers use, without a worker."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from job_logs import attached, request
from tailrace import AsyncEnded, AsyncTailrace, Settings, Status
from tailrace.joblog import Broker, End, seal
from tailrace.producer import Producer
from tailrace.schemas import ErrorDetail, Keys
from tailrace.worker.settle import settle


async def end_job(
    redis: Redis,
    keys: Keys,
    job_id: str,
    status: Status = Status.COMPLETED,
    text: str = "some text",
    **fields: Any,
) -> None:
    """Submit a job, write its text, end it and hand it off."""
    broker = Broker(redis)
    await Producer(broker, keys).submit(request("a secret prompt", **fields), job_id=job_id)
    pen = await (await attached(broker, keys, job_id)).claim()
    await pen.write(text)
    error = ErrorDetail(type="upstream_status", message="it said no") if status is Status.FAILED else None
    await seal(broker, keys, job_id, End(status, error=error))
    assert await settle(broker, keys, job_id)


async def end_jobs(redis: Redis, keys: Keys, job_ids: Sequence[str], **fields: Any) -> None:
    for job_id in job_ids:
        await end_job(redis, keys, job_id, **fields)


@asynccontextmanager
async def client(redis: Redis, namespace: str, **settings: Any) -> AsyncGenerator[AsyncTailrace]:
    async with AsyncTailrace(settings=Settings(namespace=namespace, **settings), redis=redis) as tailrace:
        yield tailrace


@asynccontextmanager
async def reading(
    tailrace: AsyncTailrace, group: str = "g", *, ack: bool = True, **options: Any
) -> AsyncGenerator[list[AsyncEnded]]:
    """What a reader of the group is handed while the block runs."""
    got: list[AsyncEnded] = []

    async def read() -> None:
        async for ended in tailrace.ended(group, **options):
            if ack:
                await ended.ack()
            got.append(ended)

    task = asyncio.create_task(read())
    try:
        yield got
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def held(redis: Redis, keys: Keys, group: str = "g") -> int:
    """How many entries of a group are in somebody's hands."""
    count = 0
    for stream in keys.ended_streams:
        count += int((await Broker(redis).call("EVAL", _PENDING, 1, stream, group))[0])
    return count


_PENDING = "return redis.call('XPENDING', KEYS[1], ARGV[1])"


async def consumers(redis: Redis, keys: Keys, group: str = "g") -> set[str]:
    """Who is in a group."""
    found: Any = redis
    return {each["name"].decode() for each in await found.xinfo_consumers(keys.ended, group)}


def ids(got: Sequence[AsyncEnded]) -> list[str]:
    return [ended.job_id for ended in got]
