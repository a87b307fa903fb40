"""The design that most people write first, as the baseline: arq as it comes, openai's typed stream, an XADD per token, and
a blocked XREAD per consumer. Its worker and its consumers are processes of the benchmarks.
"""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from arq.connections import RedisSettings, create_pool
from arq.worker import Worker
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from redis.asyncio import Redis

from benchmarks import upstream
from benchmarks.direct import NO_CAP
from benchmarks.loops import Orders, run_child
from benchmarks.processes import Child, child, say
from benchmarks.relay_worker import entries
from benchmarks.streams import Load, Running

FUNCTION: Final = "relay"
END: Final = b"end"
_BLOCK_MS: Final = 5000


def stream_of(namespace: str, number: int) -> str:
    """The Redis Stream of one job."""
    return f"{namespace}:naive:{number}"


async def relay(ctx: dict[Any, Any], model: str, stream: str) -> None:
    """What is queued: ask the model, append what comes."""
    openai: AsyncOpenAI = ctx["openai"]
    redis = ctx["redis"]
    chunks = await openai.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}], stream=True)
    async for chunk in chunks:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            await redis.xadd(stream, {"text": text})
    await redis.xadd(stream, {END: ""})


async def consume(redis: Any, stream: str, take: Callable[[str], None]) -> None:
    """Follow one stream from its beginning: what is to be said for it is that it is short."""
    last = "0"
    while True:
        for _, records in await redis.xread({stream: last}, block=_BLOCK_MS):
            for last, fields in records:  # noqa: B007  # the cursor
                if END in fields:
                    return
                take(fields[b"text"].decode())


async def enqueue(redis_url: str, namespace: str, streams: int, model: str) -> None:
    """Queue so many jobs."""
    async with await create_pool(RedisSettings.from_dsn(redis_url), default_queue_name=_queue(namespace)) as pool:
        for number in range(streams):
            await pool.enqueue_job(FUNCTION, model, stream_of(namespace, number))


async def warm(redis_url: str, namespace: str, redis: Any) -> None:
    """One short job through all of it."""
    await enqueue(redis_url, namespace, 1, upstream.model(100, tokens=3))
    await consume(redis, stream_of(namespace, 0), lambda _: None)
    await redis.delete(stream_of(namespace, 0))


def _queue(namespace: str) -> str:
    return f"{namespace}:queue"


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    openai = AsyncOpenAI(
        base_url=configuration["base_url"], api_key="none", http_client=DefaultAsyncHttpxClient(limits=NO_CAP)
    )

    worker = Worker(
        [relay],
        redis_settings=RedisSettings.from_dsn(configuration["redis_url"]),
        queue_name=_queue(configuration["namespace"]),
        max_jobs=configuration["streams"],
        handle_signals=False,
        ctx={"openai": openai},
    )
    try:
        say("ready")
        await worker.async_run()
    finally:
        await worker.close()
        await openai.close()


@asynccontextmanager
async def naive_worker(load: Load) -> AsyncGenerator[Child]:
    """The process, with room for all streams of the load, alone on its core. On asyncio, as arq's command runs it."""
    configuration: dict[str, Any] = {
        "redis_url": load.bench.redis_url,
        "base_url": load.upstream.base_url,
        "namespace": load.namespace,
        "streams": load.streams,
        "cores": sorted(load.cores.worker),
    }
    # A job that is stopped in its stream says so in many words, and there are a thousand.
    with open(os.devnull, "wb") as errors:  # noqa: ASYNC230  # it never blocks
        async with child("benchmarks.naive", configuration, errors=errors) as worker:
            yield worker


@asynccontextmanager
async def naive(load: Load) -> AsyncGenerator[Running]:
    """The worker, as a side. No consumer reads."""
    names = [stream_of(load.namespace, number) for number in range(load.streams)]
    make = cast("Any", Redis)
    async with naive_worker(load) as worker, make.from_url(load.bench.redis_url) as redis:
        await warm(load.bench.redis_url, load.namespace, redis)

        async def open_() -> None:
            await enqueue(load.bench.redis_url, load.namespace, load.streams, upstream.model(load.rate))

        async def through() -> int:
            return await entries(redis, names)

        yield Running(worker.pid, open_, through)


if __name__ == "__main__":
    run_child(_main)
