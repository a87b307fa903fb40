"""Many streams at once through one process: what its streams cost to open, and a token of them in steady state.

A side (tailrace, or what it is compared with) is a process that reads the streams of the fast upstream. In steady state,
all streams open and flowing, CPU time of the processes is taken between two moments, over the tokens that the side says it
is through with: that it parsed, or whose append was acknowledged.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from redis.asyncio import Redis

from benchmarks.cpu import Cores, cpu_ns, pinned, rss_bytes
from benchmarks.harness import Bench
from benchmarks.upstream import FastUpstream, fast_upstream

#: Time for a thousand streams of a side to open. A side that cannot open them under this load is measured as it is then.
OPEN_S: Final = 20.0
_LOOK_S: Final = 0.02
#: Time for the last tokens to come, once all streams have ended.
_ARRIVE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a side is asked to carry."""

    bench: Bench
    upstream: FastUpstream
    cores: Cores
    streams: int
    rate: float
    """Tokens a second of each stream."""
    namespace: str
    """For the keys of this side alone."""


@dataclass(frozen=True, slots=True)
class Running:
    """A side at work: its process, how it opens its streams, how many tokens it is through with."""

    pid: int
    open: Callable[[], Awaitable[None]]
    through: Callable[[], Awaitable[int]]
    reads: bool = True
    """Whether it reads the upstream's streams at all."""
    beside: tuple[int, ...] = ()
    """More processes that the side is made of."""
    consumer: "Consumer | None" = None

    def cpu_ns(self) -> int:
        return sum(cpu_ns(pid) for pid in (self.pid, *self.beside))

    def rss_bytes(self) -> int:
        return sum(rss_bytes(pid) for pid in (self.pid, *self.beside))


@dataclass(frozen=True, slots=True)
class Consumer:
    """The process that the tokens come to in the end; its side's `through` counts them there."""

    pid: int
    ages_us: Callable[[], Awaitable[list[list[float]]]]
    """How old the tokens were when they came, between each two counts."""


Side = Callable[[Load], AbstractAsyncContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Timing:
    """When is measured."""

    settle_s: float
    window_s: float
    windows: int


@dataclass(frozen=True, slots=True)
class Steady:
    """What was found; lists have an entry a window."""

    side_us: list[float]
    """CPU time of the side's process (or processes) per token."""
    redis_us: list[float]
    consumer_us: list[float]
    """Empty without a consumer, as is `ages_us`."""
    ages_us: list[list[float]]
    behind: int
    """Of a side with a consumer: tokens that had not come there when all streams had ended, and some time had passed."""
    upstream_us: list[float]
    share: list[float]
    """Tokens that the side got through with, of those that were due meanwhile: had all streams opened, at their rate."""
    through_s: list[float]
    """Tokens a second that the side got through with."""
    busy: list[float]
    """CPU time of the side over the window's."""
    busy_beside: dict[str, list[float]]
    """The same of the others: `Redis`, `upstream`, `consumer`."""
    open: int
    """How many streams did open."""
    opened_ms: float
    """CPU time of the side's process per stream opened."""
    all_open_s: float
    rss_kib: float
    """Memory of the side's process per open stream."""


@dataclass(frozen=True, slots=True)
class _Moment:
    at_ns: int
    through: int
    sent: int
    side_ns: int
    redis_ns: int
    upstream_ns: int
    consumer_ns: int


@dataclass(frozen=True, slots=True)
class Ground:
    """What stands while side after side is measured: the fast upstream, and everything but the worker on the other cores."""

    bench: Bench
    upstream: FastUpstream
    cores: Cores
    redis_pid: int

    def load(self, streams: int, rate: float, namespace: str) -> Load:
        return Load(self.bench, self.upstream, self.cores, streams, rate, namespace)


@asynccontextmanager
async def ground(bench: Bench, cores: Cores | None = None) -> AsyncGenerator[Ground]:
    """`cores`: by default the worker is alone on one."""
    async with kept_apart(bench, cores) as (cores, redis_pid), fast_upstream(cores.upstream) as upstream:
        yield Ground(replace(bench, upstream_url=upstream.base_url), upstream, cores, redis_pid)


@asynccontextmanager
async def kept_apart(bench: Bench, cores: Cores | None = None) -> AsyncGenerator[tuple[Cores, int]]:
    """The benchmark and Redis stay away from the worker's core; which cores are whose, and Redis' process id."""
    cores = cores or Cores.here()
    redis_pid = await _redis_pid(bench.redis_url)
    with pinned(0, cores.consumer), pinned(redis_pid, cores.redis):
        yield cores, redis_pid


async def _redis_pid(url: str) -> int:
    make = cast("Any", Redis)
    async with make.from_url(url) as client:
        return int((await client.info("server"))["process_id"])


async def steady(
    side: Side, load: Load, timing: Timing, *, redis_pid: int, flowing: Callable[[int], object] = abs
) -> Steady:
    """Open the streams, let them flow, measure in windows, end them. `flowing` is told the side's process id in between."""
    upstream = load.upstream
    async with side(load) as running:
        resting_ns, resting_bytes, began = running.cpu_ns(), running.rss_bytes(), time.monotonic()
        _, sent_before = await upstream.count()
        await running.open()
        if running.reads:
            await _until_streaming(upstream, load.streams)
        all_open_s = time.monotonic() - began
        streaming, _ = await upstream.count()
        opened_ns = running.cpu_ns() - resting_ns
        await asyncio.sleep(timing.settle_s)
        rss = running.rss_bytes() - resting_bytes
        flowing(running.pid)
        moments = [await _moment(running, upstream, redis_pid)]
        for _ in range(timing.windows):
            await asyncio.sleep(timing.window_s)
            moments.append(await _moment(running, upstream, redis_pid))
        consumer = running.consumer
        ages = await consumer.ages_us() if consumer else []
        await upstream.finish()
        behind = await _behind(running, upstream, sent_before) if consumer else 0
    due_a_ns = load.streams * load.rate / 1e9
    pairs = list(itertools.pairwise(moments))
    return Steady(
        side_us=[(b.side_ns - a.side_ns) / 1000 / max(1, b.through - a.through) for a, b in pairs],
        redis_us=[(b.redis_ns - a.redis_ns) / 1000 / max(1, b.through - a.through) for a, b in pairs],
        consumer_us=[(b.consumer_ns - a.consumer_ns) / 1000 / max(1, b.through - a.through) for a, b in pairs]
        if consumer
        else [],
        ages_us=ages,
        behind=behind,
        upstream_us=[(b.upstream_ns - a.upstream_ns) / 1000 / max(1, b.sent - a.sent) for a, b in pairs],
        share=[(b.through - a.through) / (due_a_ns * (b.at_ns - a.at_ns)) for a, b in pairs],
        through_s=[(b.through - a.through) * 1e9 / (b.at_ns - a.at_ns) for a, b in pairs],
        busy=[(b.side_ns - a.side_ns) / (b.at_ns - a.at_ns) for a, b in pairs],
        busy_beside={
            "Redis": [(b.redis_ns - a.redis_ns) / (b.at_ns - a.at_ns) for a, b in pairs],
            "upstream": [(b.upstream_ns - a.upstream_ns) / (b.at_ns - a.at_ns) for a, b in pairs],
            "consumer": [(b.consumer_ns - a.consumer_ns) / (b.at_ns - a.at_ns) for a, b in pairs],
        },
        open=streaming,
        opened_ms=opened_ns / 1e6 / max(1, streaming),
        all_open_s=all_open_s,
        rss_kib=rss / 1024 / max(1, streaming),
    )


async def _until_streaming(upstream: FastUpstream, streams: int) -> None:
    """Wait until so many streams are open at the upstream, or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(OPEN_S * max(1.0, streams / 1000)):
            while (await upstream.count())[0] < streams:  # noqa: ASYNC110  # another process
                await asyncio.sleep(_LOOK_S)


async def _behind(running: Running, upstream: FastUpstream, sent_before: int) -> int:
    """How many tokens have not arrived when there was time for it."""
    until = time.monotonic() + _ARRIVE_S
    while True:
        through = await running.through()
        _, sent = await upstream.count()
        behind = sent - sent_before - through
        if behind <= 0 or time.monotonic() > until:
            return max(0, behind)
        await asyncio.sleep(_LOOK_S)


async def _moment(running: Running, upstream: FastUpstream, redis_pid: int) -> _Moment:
    # The clocks close to the counts; to count takes some time itself, the same at both ends of a window.
    through = await running.through()
    _, sent = await upstream.count()
    return _Moment(
        at_ns=time.monotonic_ns(),
        through=through,
        sent=sent,
        side_ns=running.cpu_ns(),
        redis_ns=cpu_ns(redis_pid),
        upstream_ns=cpu_ns(upstream.pid),
        consumer_ns=cpu_ns(running.consumer.pid) if running.consumer else 0,
    )
