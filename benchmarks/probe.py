"""`python -m benchmarks.probe`: one side of the row `relay` by itself, for whoever tunes or profiles it.

It says the process id of the side when all streams flow (for a profiler: see --windows), and then what was found, window by
window.
"""

import argparse
import asyncio
import statistics

from benchmarks.__main__ import forget_environment
from benchmarks.figures import quantile
from benchmarks.harness import Bench
from benchmarks.loops import raise_file_limit
from benchmarks.rows.relay import sides
from benchmarks.streams import Timing, ground, steady
from tailrace.joblog.embedded import EmbeddedServer


async def _probe(redis_url: str, options: argparse.Namespace) -> None:
    async with ground(Bench(redis_url=redis_url, upstream_url="", quick=False)) as here:
        load = here.load(options.streams, options.rate, "probe")
        timing = Timing(options.settle, options.window, options.windows)
        found = await steady(
            sides()[options.side], load, timing, redis_pid=here.redis_pid, flowing=lambda pid: print(f"pid {pid}")
        )
    for name, unit, values in (
        ("CPU per token", "us", found.side_us),
        ("Redis per token", "us", found.redis_us),
        ("upstream per token", "us", found.upstream_us),
        ("share got through", "", found.share),
        ("busy", "cores", found.busy),
        ("consumer per token", "us", found.consumer_us),
        ("age when it comes p50", "us", [quantile(ages, 0.5) for ages in found.ages_us]),
        ("age when it comes p99", "us", [quantile(ages, 0.99) for ages in found.ages_us]),
    ):
        if not values:
            continue
        print(f"{name:22} {statistics.median(values):8.2f} {unit:6}", " ".join(f"{value:.2f}" for value in values))
    print(f"{'opening':22} {found.opened_ms:8.2f} ms CPU a stream; {found.open} open after {found.all_open_s:.2f} s")
    print(f"{'memory':22} {found.rss_kib:8.1f} KiB a stream")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description=__doc__)
    parser.add_argument("side", nargs="?", default="tailrace", choices=sorted(sides()))
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10.0, help="tokens a second of each stream")
    parser.add_argument("--settle", type=float, default=1.0, help="seconds from the last opening to the first window")
    parser.add_argument("--window", type=float, default=1.5, help="seconds")
    parser.add_argument("--windows", type=int, default=4)
    options = parser.parse_args()
    forget_environment()
    raise_file_limit()
    with EmbeddedServer(private=True) as server:
        asyncio.run(_probe(server.tcp_url, options))


if __name__ == "__main__":
    main()
