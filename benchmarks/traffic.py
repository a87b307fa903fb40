"""`python -m benchmarks.traffic`: what a token and a job put on the wire and on the servers, where logs and queue are apart.

By the servers' own counters (INFO). Three phases: streams that nobody reads, the same streams with a reader each, jobs of
one token. docs/scaling.md calculates with what `--json` writes.

The servers are two of its own, on the loopback, unless --redis-url and --queue-url name others (a cluster, say): then they
should do nothing else meanwhile.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.__main__ import forget_environment
from benchmarks.cpu import cpu_ns
from benchmarks.loops import FASTEST, raise_file_limit
from benchmarks.processes import child
from benchmarks.upstream import FastUpstream, fast_upstream, model
from tailrace import AsyncTailrace, Settings
from tailrace.joblog import Broker, connected
from tailrace.joblog.embedded import EmbeddedServer

_PROMPT: Final = "Write me a 1 verse song about sparkling water."
_OPEN_S: Final = 30.0
_SETTLE_S: Final = 1.5
_LOOK_S: Final = 0.02
_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Count:
    """What servers have done so far, or between two moments."""

    cpu_us: float = 0.0
    taken: float = 0.0
    """Bytes that came in from clients."""
    given: float = 0.0
    """Bytes that went out to clients."""
    replicated: float = 0.0
    """Bytes that went out to replicas."""

    def since(self, before: "Count") -> "Count":
        return Count(
            self.cpu_us - before.cpu_us,
            self.taken - before.taken,
            self.given - before.given,
            self.replicated - before.replicated,
        )

    def each(self, number: float) -> "Count":
        """A share of it."""
        return Count(*(value / number for value in (self.cpu_us, self.taken, self.given, self.replicated)))


def count_of(infos: Sequence[dict[str, Any]]) -> Count:
    """The counters of several servers together."""
    cpu_us = sum(1e6 * (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])) for info in infos)
    replicated = sum(float(info.get("total_net_repl_output_bytes", 0)) for info in infos)
    given = sum(float(info["total_net_output_bytes"]) for info in infos)
    return Count(cpu_us, sum(float(info["total_net_input_bytes"]) for info in infos), given, replicated)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was found."""

    streams: int
    rate: float
    primaries: int
    """Servers that had logs."""
    token: Count
    """The logs' servers, per token that nobody reads."""
    token_read: Count
    """The same with one reader each."""
    worker_us: float
    """CPU time of the worker per token."""
    queue_stream_s: Count
    """The queue's server, per second of a stream that runs: renewals, mostly."""
    job: Count
    """The logs' servers, for a job of one token: submit, run, result."""
    queue_job: Count
    """The queue's server for the same."""

    def lines(self) -> Sequence[str]:
        return (
            f"{self.streams} streams of {self.rate:g} tokens/s, logs on {self.primaries}",
            f"worker, a token: {self.worker_us:.1f} us",
            *(
                f"{name}: {count.cpu_us:.2f} us, {count.taken:.1f} B in, {count.given:.1f} B out, "
                f"{count.replicated:.1f} B to replicas"
                for name, count in (
                    ("logs, a token", self.token),
                    ("logs, a token with a reader", self.token_read),
                    ("queue, a second of a stream", self.queue_stream_s),
                    ("logs, a job", self.job),
                    ("queue, a job", self.queue_job),
                )
            ),
        )


async def measure(redis_url: str, queue_url: str, *, streams: int, rate: float, seconds: float, jobs: int) -> Traffic:
    """Raises: TimeoutError if the streams do not open."""
    async with fast_upstream() as upstream:
        table: dict[str, Any] = {
            "redis_url": redis_url,
            "queue_url": queue_url,
            "namespace": "bench-traffic",
            "upstreams": {"default": {"base_url": upstream.base_url, "api_key_env": "", "default_model": "x"}},
            "worker": {"max_jobs": max(streams, _AT_ONCE)},
        }
        configuration: dict[str, Any] = {"settings": table, "loop": FASTEST, "cores": []}
        settings = Settings.model_validate(table)
        async with (
            connected(redis_url, queue_url) as broker,
            child("benchmarks.relay_worker", configuration) as worker,
            AsyncTailrace(settings=settings) as client,
        ):

            async def look() -> tuple[Count, Count, float, int]:
                _, sent = await upstream.count()
                logs: list[Any] = [each.redis for each in broker.parts.values()]
                queue: Any = broker.queue.redis
                infos = await asyncio.gather(*(redis.info() for redis in logs))
                return count_of(infos), count_of([await queue.info()]), cpu_ns(worker.pid) / 1000, sent

            async def window() -> tuple[Count, Count, float, int, float]:
                """Counts of logs and queue, CPU time of the worker, tokens, seconds."""
                await asyncio.sleep(_SETTLE_S)
                began, (logs, queue, us, sent) = time.monotonic(), await look()
                await asyncio.sleep(seconds)
                took, (logs_after, queue_after, us_after, sent_after) = time.monotonic() - began, await look()
                return logs_after.since(logs), queue_after.since(queue), us_after - us, sent_after - sent, took

            # The first job finds cold caches, and tells a cluster's map.
            await (await client.submit(_PROMPT, model=model(100, tokens=1))).result()
            opened = [
                await client.submit(_PROMPT, model=model(rate), deadline=3600.0, job_id=f"stream-{number}")
                for number in range(streams)
            ]
            await _until_open(upstream, streams)
            logs, queue, us, tokens, took = await window()
            async with _readers([job.stream for job in opened]):
                logs_read, _, _, tokens_read, _ = await window()
                await upstream.finish()
            await _until_settled(broker, settings)
            before = await look()
            await _run_jobs(client, jobs)
            await _until_settled(broker, settings)
            after = await look()
            return Traffic(
                streams,
                rate,
                len(broker.parts),
                logs.each(tokens),
                logs_read.each(tokens_read),
                us / tokens,
                queue.each(took * streams),
                after[0].since(before[0]).each(jobs),
                after[1].since(before[1]).each(jobs),
            )


async def _until_open(upstream: FastUpstream, streams: int) -> None:
    async with asyncio.timeout(_OPEN_S):
        while (await upstream.count())[0] < streams:  # noqa: ASYNC110  # another process
            await asyncio.sleep(_LOOK_S)


async def _until_settled(broker: Broker, settings: Settings) -> None:
    """Until all ends are followed by what comes after them: snapshots, the hand-off."""
    async with asyncio.timeout(_OPEN_S):
        while await broker.queue.call("ZCARD", settings.keys.open):  # noqa: ASYNC110  # other processes
            await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def _readers(streams: Sequence[Callable[[], Any]]) -> AsyncGenerator[None]:
    """Each is read meanwhile; at the end of the block all of them have ended."""

    async def read(stream: Callable[[], Any]) -> None:
        async for _ in stream():
            pass

    async with asyncio.TaskGroup() as tasks:
        for stream in streams:
            tasks.create_task(read(stream))
        yield


async def _run_jobs(client: AsyncTailrace, jobs: int) -> None:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        async with turns:
            await (await client.submit(_PROMPT, model=model(1000, tokens=1))).result()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(jobs):
            tasks.create_task(one())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.traffic", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redis-url", help="the logs' server or cluster")
    parser.add_argument("--queue-url", help="the queue's")
    parser.add_argument("--streams", type=int, default=300)
    parser.add_argument("--rate", type=float, default=10.0, help="tokens a second of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of the two windows")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    options = parser.parse_args()
    if (options.redis_url is None) != (options.queue_url is None):
        parser.error("name both servers or none")
    forget_environment()
    raise_file_limit()
    with EmbeddedServer(private=True) as logs, EmbeddedServer(private=True) as queue:
        found = asyncio.run(
            measure(
                options.redis_url or logs.tcp_url,
                options.queue_url or queue.tcp_url,
                streams=options.streams,
                rate=options.rate,
                seconds=options.seconds,
                jobs=options.jobs,
            )
        )
    print("\n".join(found.lines()))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(found), indent=2) + "\n")


if __name__ == "__main__":
    main()
