"""`python -m benchmarks soak`: many short jobs through one worker. Does its memory, or the server's, grow?

Jobs of a few tokens are kept coming, so many at a time, and kept on the server for seconds only: after a while as many go as
come. What grows from then on is a leak. Growth is the slope of the line through the samples of the second half.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.cpu import rss_bytes
from benchmarks.harness import Bench
from benchmarks.loops import FASTEST, raise_file_limit
from benchmarks.processes import child
from tailrace import AsyncTailrace
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.upstreams.rehearsal import RehearsalProcess

_AT_ONCE: Final = 200
_RETENTION_S: Final = 10.0
_SAMPLES: Final = 20
_MODEL: Final = "rehearsal:tokens=5"
#: No job for so long: something hangs.
_PATIENCE_S: Final = 60.0
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """What was in use when so many jobs were through."""

    jobs: int
    seconds: float
    worker_bytes: int
    """Resident, of the worker's process."""
    server_bytes: int
    """Resident, of the server's process."""
    used_bytes: int
    """What the server says that its data takes."""


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line through the points by least squares; 0 for a single one."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Bytes a job, over the second half of the samples: of the worker, of the server, of its data."""
    half = samples[len(samples) // 2 :]
    return {
        what: slope([(sample.jobs, getattr(sample, what)) for sample in half])
        for what in ("worker_bytes", "server_bytes", "used_bytes")
    }


def show(samples: Sequence[Sample], console: Console) -> None:
    """The samples as a table, and what grew."""
    table = Table("jobs", "s", "worker RSS", "server RSS", "server used", box=box.SIMPLE_HEAD)
    for sample in samples:
        sizes = (sample.worker_bytes, sample.server_bytes, sample.used_bytes)
        table.add_row(f"{sample.jobs:,}", f"{sample.seconds:.0f}", *(f"{size / _MIB:.1f} MiB" for size in sizes))
    console.print(table)
    worker, server, used = growth(samples).values()
    console.print(f"in the second half, bytes a job: worker {worker:+.0f}, server {server:+.0f}, its data {used:+.0f}")


async def run(jobs: int, redis_url: str, server_pid: int, upstream_url: str) -> list[Sample]:
    """Put so many jobs through a worker. Raises: RuntimeError if they stop coming out."""
    raise_file_limit()
    bench = Bench(redis_url=redis_url, upstream_url=upstream_url, quick=False)
    configuration = {"settings": bench.settings_table("soak", max_jobs=_AT_ONCE), "loop": FASTEST}
    samples: list[Sample] = []
    async with (
        child("benchmarks.relay_worker", configuration) as worker,
        AsyncTailrace(settings=bench.settings("soak")) as tailrace,
    ):
        broker, keys = tailrace.broker, tailrace.settings.keys
        began = moved = time.monotonic()
        submitted = through = 0
        while through < jobs:
            waiting = int(await broker.call("ZCARD", keys.open))
            if submitted - waiting > through:
                through, moved = submitted - waiting, time.monotonic()
            elif time.monotonic() - moved > _PATIENCE_S:
                raise RuntimeError(f"{waiting} jobs do not end")
            if through >= jobs * (len(samples) + 1) / _SAMPLES:
                memory: Any = await broker.call("INFO", "memory")
                sizes = (rss_bytes(worker.pid), rss_bytes(server_pid), int(memory["used_memory"]))
                samples.append(Sample(through, time.monotonic() - began, *sizes))
            more = min(_AT_ONCE - waiting, jobs - submitted)
            if more > 0:
                requests = [
                    {"prompt": f"soak {submitted + number}", "model": _MODEL, "retention": _RETENTION_S}
                    for number in range(more)
                ]
                await tailrace.submit_many(requests)
                submitted += more
            await asyncio.sleep(0.02)
    return samples


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, metavar="N", help="how many (default: 100,000)")
    options = parser.parse_args(arguments)
    with EmbeddedServer(private=True) as server, RehearsalProcess() as upstream:
        samples = asyncio.run(run(options.jobs, server.tcp_url, server.pid, upstream.base_url))
    show(samples, Console())
