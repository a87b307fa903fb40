"""`python -m tests.simulation SEEDS [--from SEED] [--jobs N] [--trace]`: play many seeds, or one with a trace."""

import argparse
import concurrent.futures
import itertools
import sys
import time
import traceback
from collections.abc import Iterator

from .seeds import Tally, play, play_all

_AT_ONCE = 100


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=2000, help="how many (default: 2000)")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="the first (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--apart", action="store_true", help="worlds with two servers: one for the logs, one for the queue"
    )
    parser.add_argument("--trace", action="store_true", help="tell everything that happens")
    options = parser.parse_args()
    if options.trace:
        for seed in range(options.first, options.first + options.seeds):
            world = play(seed, apart=options.apart, trace=print)
            print(f"{world.plan}\n{world.loop.steps} steps, over after {world.loop.now:.1f} s")
        return 0
    return many(options.first, options.seeds, options.jobs, apart=options.apart)


def many(first: int, seeds: int, jobs: int, *, apart: bool = False) -> int:
    """Play all of them, whatever the bad ones find; those are printed as they come."""
    began, total, bad = time.monotonic(), Tally(), 0
    batches = [range(start, min(start + _AT_ONCE, first + seeds)) for start in range(first, first + seeds, _AT_ONCE)]
    for tally, found in _played(batches, jobs, apart):
        total.seeds += tally.seeds
        total.steps += tally.steps
        total.happened += tally.happened
        bad += len(found)
        for report in found:
            print(f"\n{report}", flush=True)
        done = total.seeds + bad
        pace = done / (time.monotonic() - began)
        left = (seeds - done) / pace / 60
        print(f"\r{done:,} of {seeds:,} seeds, {bad} bad, {pace:.0f}/s, {left:.0f} min left ", end="", flush=True)
    print(f"\n{total.steps:,} steps")
    for name, count in sorted(total.happened.items()):
        print(f"{count:>12,}  {name}")
    return 1 if bad else 0


def _played(batches: list[range], jobs: int, apart: bool) -> Iterator[tuple[Tally, list[str]]]:
    if jobs <= 1:
        yield from map(_batch, batches, itertools.repeat(apart))
        return
    with concurrent.futures.ProcessPoolExecutor(jobs, max_tasks_per_child=50) as pool:
        yield from pool.map(_batch, batches, itertools.repeat(apart))


def _batch(seeds: range, apart: bool) -> tuple[Tally, list[str]]:
    tally, found = Tally(), list[str]()
    rest = iter(seeds)
    while True:
        try:
            return play_all(rest, tally, apart=apart), found
        except Exception as error:  # the other seeds count as well
            found.append("".join(traceback.format_exception(error)))


if __name__ == "__main__":
    sys.exit(main())
