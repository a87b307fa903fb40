"""`python -m benchmarks`: measure rows of the table side by side with what they are compared to.

Two commands of their own: `soak` (does memory grow over many jobs?) and `trend` (CPU time of the hot paths over commits).
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import soak, trend
from benchmarks.figures import Measured
from benchmarks.harness import Bench
from benchmarks.machine import Machine
from benchmarks.report import Report, with_section
from benchmarks.rows import ROWS, Row
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.upstreams.rehearsal import RehearsalProcess

_PAGE: Final = Path(__file__).parent.parent / "docs" / "performance.md"
#: Beside the page.
_PLOTS: Final = "plots"
_WIDTH: Final = 140


async def _measure(bench: Bench, rows: Sequence[Row], console: Console) -> list[tuple[Row, Measured]]:
    done: list[tuple[Row, Measured]] = []
    if bench.quick:  # side by side: they would disturb each other if the figures meant anything
        console.print(f"measuring: {', '.join(row.key for row in rows)} ...", style="dim")
        async with asyncio.TaskGroup() as tasks:
            measuring = [(row, tasks.create_task(_measure_row(row, bench))) for row in rows]
        return [(row, task.result()) for row, task in measuring]
    for row in rows:
        console.print(f"measuring: {row.title} ...", style="dim")
        done.append((row, await row.measure(bench)))
    return done


async def _measure_row(row: Row, bench: Bench) -> Measured:
    return await row.measure(bench)


def forget_environment() -> None:
    """Of this process and its children: a proxy, a key or a setting of the user's must not steer a run on loopback."""
    for name in list(os.environ):
        if name.upper().startswith(("TAILRACE_", "OPENAI_")) or name.upper().endswith("_PROXY"):
            del os.environ[name]


def _write(page: Path, report: Report) -> None:
    # Only who writes a page needs matplotlib.
    from benchmarks.plots import draw

    text = page.read_text() if page.exists() else "# Performance\n"
    page.write_text(with_section(text, report.markdown(draw(report.rows, page.parent / _PLOTS, _PLOTS))))


def main() -> None:
    match sys.argv[1:]:
        case ["soak", *arguments]:
            forget_environment()
            soak.main(arguments)
        case ["trend", *arguments]:
            trend.main(arguments)
        case arguments:
            _rows(arguments)


def _rows(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    keys = [row.key for row in ROWS]
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which rows: {', '.join(keys)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds: the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=_PAGE, metavar="FILE", help="put the tables into docs/performance.md"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.rows) - set(keys))
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(keys)}")
    rows = [row for row in ROWS if not options.rows or row.key in options.rows]
    if options.write == _PAGE and (options.quick or len(rows) < len(ROWS)):
        parser.error("--write takes a whole run: leave out --quick and the rows, or name another file")
    forget_environment()
    console = Console()
    if not console.is_terminal:  # a file has no width
        console = Console(width=_WIDTH)
    with EmbeddedServer(private=True) as server, RehearsalProcess() as upstream:
        bench = Bench(redis_url=server.tcp_url, upstream_url=upstream.base_url, quick=options.quick)
        machine = Machine.here(bench.redis_url)
        report = Report(machine, bench.quick, asyncio.run(_measure(bench, rows, console)))
    report.print(console)
    if options.json is not None:
        options.json.write_text(json.dumps(report.json(), indent=2) + "\n")
    if options.write is not None:
        _write(options.write, report)


if __name__ == "__main__":
    main()
