"""Readers of many jobs in one process of the benchmarks: when the tokens come to them, and how old they are by then.

The process submits the jobs and follows each of them, through tailrace's own client or as the naive design does.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

from redis.asyncio import Redis

from benchmarks import naive, upstream
from benchmarks.ages import Ages
from benchmarks.loops import FASTEST, Orders, answer_at_once, asked_at_once, run_child
from benchmarks.processes import child, say
from benchmarks.relay_worker import PROMPT, relay_worker
from benchmarks.streams import Consumer, Load, Running, Side
from tailrace import AsyncTailrace, Settings

How = Literal["tailrace", "naive"]


class _Arrivals:
    """What has come."""

    def __init__(self) -> None:
        self.tokens = 0
        self.ages = Ages()

    def take(self, text: str) -> None:
        """The text of one or several tokens."""
        now, ages = upstream.now_us(), self.ages.now
        for begin in range(0, len(text), upstream.WIDTH):
            self.tokens += 1
            ages.append(upstream.age_us(text[begin : begin + upstream.WIDTH], now))

    def next_window(self) -> int:
        """Begin one; how many tokens have come until now."""
        self.ages.next_window()
        return self.tokens


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    arrivals = _Arrivals()
    opened = asyncio.Event()

    async def open_() -> None:
        opened.set()

    async def ages() -> None:
        for window in arrivals.ages.windows():
            say(*window)

    orders.on("open", open_)
    orders.on("ages", ages)
    answer_at_once(lambda: (arrivals.next_window(),))
    follow = _follow if configuration["how"] == "tailrace" else _consume
    await follow(configuration, arrivals, opened)
    await asyncio.Event().wait()


async def _follow(configuration: dict[str, Any], arrivals: _Arrivals, opened: asyncio.Event) -> None:
    async with AsyncTailrace(settings=Settings.model_validate(configuration["settings"])) as tailrace:

        async def read(job_id: str) -> None:
            async for chunk in tailrace.job(job_id).stream():
                arrivals.take(chunk)

        await (await tailrace.submit(PROMPT, model=upstream.model(100, tokens=3))).result()  # warm
        say("ready")
        await opened.wait()
        requests = [{"prompt": PROMPT, "model": configuration["model"]}] * configuration["streams"]
        async with asyncio.TaskGroup() as readers:
            for job in await tailrace.submit_many(requests):
                readers.create_task(read(job.id))


async def _consume(configuration: dict[str, Any], arrivals: _Arrivals, opened: asyncio.Event) -> None:
    make = cast("Any", Redis)
    url, namespace, streams = configuration["redis_url"], configuration["namespace"], configuration["streams"]
    async with make.from_url(url) as redis:
        await naive.warm(url, namespace, redis)
        say("ready")
        await opened.wait()
        await naive.enqueue(url, namespace, streams, configuration["model"])
        async with asyncio.TaskGroup() as readers:
            for number in range(streams):
                readers.create_task(naive.consume(redis, naive.stream_of(namespace, number), arrivals.take))


@asynccontextmanager
async def _reader(load: Load, how: How, worker_pid: int) -> AsyncGenerator[Running]:
    configuration: dict[str, Any] = {
        "how": how,
        "settings": load.bench.settings_table(load.namespace),
        "redis_url": load.bench.redis_url,
        "namespace": load.namespace,
        "streams": load.streams,
        "model": upstream.model(load.rate),
        "loop": FASTEST if how == "tailrace" else "asyncio",
        "cores": sorted(load.cores.consumer),
    }
    async with child("benchmarks.deliveries", configuration) as reader:
        windows = 0

        async def open_() -> None:
            await reader.tell("open")

        async def through() -> int:
            nonlocal windows
            windows += 1
            (tokens,) = await asked_at_once(reader)
            return int(tokens)

        async def ages_us() -> list[list[float]]:
            await reader.tell("ages")
            return [[float(age) for age in await reader.line()] for _ in range(windows - 1)]

        yield Running(worker_pid, open_, through, consumer=Consumer(reader.pid, ages_us))


def through_tailrace(transport: str = "aiohttp") -> Side:
    """tailrace's worker, its upstreams read this way, and its readers, each in a process."""

    @asynccontextmanager
    async def running(load: Load) -> AsyncGenerator[Running]:
        async with (
            relay_worker(load, FASTEST, transport) as worker,
            _reader(load, "tailrace", worker.pid) as running,
        ):
            yield running

    return running


@asynccontextmanager
async def through_naive(load: Load) -> AsyncGenerator[Running]:
    """The naive worker and its consumers, each in a process."""
    async with naive.naive_worker(load) as worker, _reader(load, "naive", worker.pid) as running:
        yield running


if __name__ == "__main__":
    run_child(_main)
