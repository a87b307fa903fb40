"""`python -m tests.fuzz CASES [--from NUMBER]`: try many cases; the bad ones are told with their numbers."""

import argparse
import sys
import time
import traceback

from .targets import Fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=100_000, help="how many (default: 100000)")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="NUMBER", help="the first (default: 0)")
    options = parser.parse_args()
    fuzz, began, bad = Fuzz(), time.monotonic(), 0
    for number in range(options.first, options.first + options.cases):
        try:
            fuzz.case(number)
        except Exception:  # the other cases count as well
            bad += 1
            print(f"case {number}:\n{traceback.format_exc()}", flush=True)
    for what, count in sorted(fuzz.counted.items()):
        print(f"{count:>10,}  {what}")
    print(f"{options.cases:,} cases in {time.monotonic() - began:.0f} s, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
