"""Any number of readers of one live job as a process of the benchmarks.

It says `open` and the memory that its readers take, once each has what was written before it came. When something is
written again it says, for each window of time, what CPU time the process has used, how many tokens were delivered, and some
of the times from sending to delivery.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, cast

from redis.asyncio import Redis

from benchmarks.cpu import cpu_ns, rss_bytes
from benchmarks.loops import Orders, run_child
from benchmarks.processes import say
from tailrace import AsyncTailrace, Settings

#: So many readers, spread over all of them, look at the clock; for all to do it would cost more than it should measure.
_WATCHES: Final = 100
#: What fits into a line.
_SAMPLES: Final = 4000
_SETTLE_S: Final = 0.3


class _Tally:
    """What the readers have got."""

    def __init__(self, readers: int) -> None:
        self.readers = readers
        self.begun = 0
        self.all_begun = asyncio.Event()
        self.flowing = asyncio.Event()
        self.delivered = 0
        self.latencies_ns: list[int] = []

    def begin(self) -> None:
        self.begun += 1
        if self.begun == self.readers:
            self.all_begun.set()


async def _read(tokens: AsyncGenerator[str], tally: _Tally, *, watch: bool) -> None:
    async with aclosing(tokens):
        await anext(tokens)
        tally.begin()
        async for token in tokens:
            tally.delivered += 1
            if watch:
                tally.latencies_ns.append(time.monotonic_ns() - int(token))
                tally.flowing.set()


class _Bell:
    """The floor: nothing but the waking. Each reader waits for a future of its own, and all are woken at a steady rate."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[int]] = []

    async def read(self, tally: _Tally, *, watch: bool) -> None:
        loop = asyncio.get_running_loop()
        tally.begin()
        while True:
            rung: asyncio.Future[int] = loop.create_future()
            self._waiting.append(rung)
            sent_ns = await rung
            tally.delivered += 1
            if watch:
                tally.latencies_ns.append(time.monotonic_ns() - sent_ns)
                tally.flowing.set()

    async def ring(self, rate: float) -> None:
        while True:
            await asyncio.sleep(1 / rate)
            waiting, self._waiting = self._waiting, []
            now_ns = time.monotonic_ns()
            for rung in waiting:
                rung.set_result(now_ns)


async def naive_tokens(redis_url: str, key: str) -> AsyncGenerator[str]:
    """The way that most people write first: a connection that blocks, and JSON decoded, for each reader."""
    redis = cast("Any", Redis).from_url(redis_url, socket_timeout=None)
    last = "0"
    try:
        while True:
            for _, entries in await redis.xread({key: last}, block=60_000):
                for position, fields in entries:
                    last = position
                    yield json.loads(fields[b"data"])["content"]
    finally:
        await redis.aclose()


async def _measure(tally: _Tally, before_bytes: int, windows: int, window_s: float) -> None:
    pid = os.getpid()
    await tally.all_begun.wait()
    say("open", rss_bytes(pid) - before_bytes)
    await tally.flowing.wait()
    await asyncio.sleep(_SETTLE_S)
    for _ in range(windows):
        tally.latencies_ns.clear()
        used_ns, delivered = cpu_ns(pid), tally.delivered
        await asyncio.sleep(window_s)
        used_ns, delivered = cpu_ns(pid) - used_ns, tally.delivered - delivered
        step = max(1, len(tally.latencies_ns) // _SAMPLES)
        say(used_ns, delivered, *tally.latencies_ns[::step])


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    side, key, readers = configuration["side"], configuration["job_id"], configuration["readers"]
    redis_url = configuration["settings"]["redis_url"]
    tally = _Tally(readers)
    bell = _Bell()
    say("ready")
    async with AsyncTailrace(settings=Settings.model_validate(configuration["settings"])) as tailrace:
        if side == "tailrace":
            await tailrace.job(key).status()  # connected, so that the memory is the readers' alone
        before_bytes = rss_bytes(os.getpid())
        async with asyncio.TaskGroup() as tasks:
            every = max(1, readers // _WATCHES)
            for number in range(readers):
                watch = number % every == 0
                if side == "floor":
                    tasks.create_task(bell.read(tally, watch=watch))
                    continue
                tokens = tailrace.job(key).stream() if side == "tailrace" else naive_tokens(redis_url, key)
                tasks.create_task(_read(tokens, tally, watch=watch))
            if side == "floor":
                tasks.create_task(bell.ring(configuration["rate"]))
            tasks.create_task(_measure(tally, before_bytes, configuration["windows"], configuration["window_s"]))


if __name__ == "__main__":
    run_child(_main)
