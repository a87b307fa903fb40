"""`python -m benchmarks.scale`: what many streams need, calculated from what one worker and one server were measured to need.

It reads docs/performance.md and benchmarks/traffic.json (`python -m benchmarks.traffic --json benchmarks/traffic.json`) and
prints the table of docs/scaling.md; `--write` puts it there. All of it is multiplication: nobody has run so many streams
here. Each line says what it is calculated from.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).parent.parent
_FIGURES: Final = _ROOT / "docs" / "performance.md"
_TRAFFIC: Final = _ROOT / "benchmarks" / "traffic.json"
_PAGE: Final = _ROOT / "docs" / "scaling.md"
BEGIN: Final = "<!-- scale: begin (written by `python -m benchmarks.scale --write`) -->"
END: Final = "<!-- scale: end -->"
STREAMS: Final = (10_000, 100_000, 1_000_000)

#: In the units that are calculated with: us, bytes.
_UNITS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2}
_ROW: Final = re.compile(r"^\| tailrace \| (?P<what>[^|]+?) \| (?P<number>[\d,.]+) (?P<unit>us|ms|s|B|KiB|MiB) \|")


@dataclass(frozen=True, slots=True)
class Needs:
    """What was measured: CPU time in us, memory and traffic in bytes."""

    worker_token_us: float
    worker_open_us: float
    worker_stream_bytes: float
    log_token_us: float
    log_job_us: float
    live_job_bytes: float
    live_token_bytes: float
    ended_job_bytes: float
    ended_token_bytes: float
    reader_token_us: float
    gateway_delivery_us: float
    gateway_connection_bytes: float
    queue_job_us: float
    queue_stream_s_us: float
    append_bytes: float
    """From worker to logs, per token."""
    delivery_bytes: float
    """From logs to a reader, per token."""
    job_bytes: float
    """From clients to logs, for a job without its tokens."""


_NAMES: Final = tuple(field.name for field in fields(Needs))


@dataclass(frozen=True)
class Load:
    """What is to be carried."""

    streams: int
    rate: float = 10.0
    """Tokens a second of each."""
    tokens: int = 300
    """Of a job."""
    readers: float = 1.0
    """Of each job, through gateways."""
    retention_s: float = 3600.0
    """How long an ended job is kept."""
    full: float = 0.5
    """How much of a core may be used: the rest is for what comes unevenly, and for who takes over."""

    @property
    def tokens_s(self) -> float:
        return self.streams * self.rate

    @property
    def jobs_s(self) -> float:
        return self.tokens_s / self.tokens


@dataclass(frozen=True, slots=True)
class Bill:
    """What a load needs."""

    load: Load
    needs: Needs

    @property
    def workers(self) -> int:
        """Processes. A process uses one core."""
        return self._processes(
            self.load.tokens_s * self.needs.worker_token_us + self.load.jobs_s * self.needs.worker_open_us
        )

    @property
    def worker_bytes(self) -> float:
        return self.load.streams * self.needs.worker_stream_bytes

    @property
    def primaries(self) -> int:
        """Servers with logs, without their replicas. One uses one core for commands."""
        return self._processes(self.load.tokens_s * self.needs.log_token_us + self.load.jobs_s * self.needs.log_job_us)

    @property
    def live_bytes(self) -> float:
        """Of jobs that run: on average they have half of their tokens."""
        each = self.needs.live_job_bytes + self.needs.live_token_bytes * self.load.tokens / 2
        return self.load.streams * each

    @property
    def ended_bytes(self) -> float:
        each = self.needs.ended_job_bytes + self.needs.ended_token_bytes * self.load.tokens
        return self.load.jobs_s * self.load.retention_s * each

    @property
    def memory_a_primary(self) -> float:
        return (self.live_bytes + self.ended_bytes) / self.primaries

    @property
    def queue_cores(self) -> float:
        return (self.load.jobs_s * self.needs.queue_job_us + self.load.streams * self.needs.queue_stream_s_us) / 1e6

    @property
    def queues(self) -> int:
        """How many deployments, each with a queue of its own, so that no queue's core is fuller than it may be."""
        return self._processes(self.queue_cores * 1e6)

    @property
    def gateways(self) -> int:
        us = self.needs.reader_token_us + self.needs.gateway_delivery_us
        return self._processes(self.load.tokens_s * self.load.readers * us)

    @property
    def gateway_bytes(self) -> float:
        return self.load.streams * self.load.readers * self.needs.gateway_connection_bytes

    @property
    def written_s(self) -> float:
        """Bytes a second into the logs."""
        return self.load.tokens_s * self.needs.append_bytes + self.load.jobs_s * self.needs.job_bytes

    @property
    def read_s(self) -> float:
        return self.load.tokens_s * self.load.readers * self.needs.delivery_bytes

    @property
    def cores(self) -> int:
        """Of all processes, with a replica for each primary of the logs and two for each queue."""
        return self.workers + self.gateways + 2 * self.primaries + 3 * self.queues

    def price(self, core_hour: float) -> float:
        """Of a million tokens, in the unit of the price."""
        return self.cores * core_hour / (self.load.tokens_s * 3600 / 1e6)

    def _processes(self, us_a_second: float) -> int:
        return max(1, math.ceil(us_a_second / 1e6 / self.load.full))


def read_figures(page: str) -> dict[tuple[str, str], float]:
    """tailrace's figures of docs/performance.md, by the table's title and what they are of, in us and bytes."""
    found: dict[tuple[str, str], float] = {}
    title = ""
    for line in page.splitlines():
        if line.startswith("### "):
            title = line.removeprefix("### ")
        elif row := _ROW.match(line):
            found[title, row["what"]] = float(row["number"].replace(",", "")) * _UNITS[row["unit"]]
    return found


def needs_of(figures: Mapping[tuple[str, str], float], traffic: Mapping[str, Any]) -> Needs:
    """Raises: KeyError with what is missing."""

    def of(table: str, what: str) -> float:
        for (title, measured), value in figures.items():
            if title.startswith(table) and measured == what:
                return value
        raise KeyError(f"{table}: {what}")

    delivery = "1,000 streams x 30 tok/s"
    memory = "the server's memory per token"
    token, read = traffic["token"], traffic["token_read"]
    return Needs(
        worker_token_us=of("worker CPU per relayed token", "worker CPU per token (uvloop)"),
        worker_open_us=of("worker CPU per relayed token", "CPU per stream opened (uvloop)"),
        worker_stream_bytes=of("worker CPU per relayed token", "memory per open stream (uvloop)"),
        log_token_us=of(delivery, "Redis CPU per token, 10 tokens/s"),
        log_job_us=traffic["job"]["cpu_us"],
        live_job_bytes=of(memory, "live, job of 1"),
        live_token_bytes=of(memory, "live, per token"),
        ended_job_bytes=of(memory, "ended, job of 1"),
        ended_token_bytes=of(memory, "ended, per token"),
        reader_token_us=of(delivery, "consumer CPU per token, 10 tokens/s"),
        gateway_delivery_us=of("gateway SSE", "gateway CPU per delivery, 40 appends/s"),
        gateway_connection_bytes=of("gateway SSE", "memory per idle connection"),
        queue_job_us=traffic["queue_job"]["cpu_us"],
        queue_stream_s_us=traffic["queue_stream_s"]["cpu_us"],
        append_bytes=token["taken"],
        delivery_bytes=read["given"] - token["given"],
        job_bytes=traffic["job"]["taken"],
    )


def table(bills: Sequence[Bill], price: float = 1.0) -> list[str]:
    """The page's table, in Markdown."""
    needs = bills[0].needs
    rows: Sequence[tuple[str, Callable[[Bill], str], str]] = (
        ("tokens a second", lambda bill: f"{bill.load.tokens_s:,.0f}", "streams x rate"),
        ("jobs a second", lambda bill: f"{bill.load.jobs_s:,.0f}", "tokens a second / tokens of a job"),
        (
            "worker processes",
            lambda bill: f"{bill.workers:,}",
            f"{needs.worker_token_us:.1f} us a token, {needs.worker_open_us / 1000:.2f} ms a job",
        ),
        (
            "memory of all workers' streams",
            lambda bill: _bytes(bill.worker_bytes),
            f"{needs.worker_stream_bytes / 1024:.1f} KiB a stream",
        ),
        (
            "primaries for logs",
            lambda bill: f"{bill.primaries:,}",
            f"{needs.log_token_us:.1f} us a token, {needs.log_job_us:.0f} us a job",
        ),
        (
            "memory of running jobs",
            lambda bill: _bytes(bill.live_bytes),
            f"{needs.live_job_bytes:,.0f} B a job, {needs.live_token_bytes:.1f} B a token",
        ),
        (
            "memory of ended jobs",
            lambda bill: _bytes(bill.ended_bytes),
            f"{needs.ended_job_bytes:,.0f} B a job, {needs.ended_token_bytes:.2f} B a token, for the retention",
        ),
        ("memory of a primary", lambda bill: _bytes(bill.memory_a_primary), "both, over the primaries"),
        (
            "network, workers to logs",
            lambda bill: f"{_bytes(bill.written_s)}/s",
            f"{needs.append_bytes:.0f} B a token, {needs.job_bytes:,.0f} B a job",
        ),
        (
            "network, logs to readers",
            lambda bill: f"{_bytes(bill.read_s)}/s",
            f"{needs.delivery_bytes:.0f} B a delivery",
        ),
        (
            "gateway processes",
            lambda bill: f"{bill.gateways:,}",
            f"{needs.reader_token_us:.1f} us a token to follow, {needs.gateway_delivery_us:.1f} us to write it",
        ),
        (
            "memory of the gateways' connections",
            lambda bill: _bytes(bill.gateway_bytes),
            f"{needs.gateway_connection_bytes / 1024:.1f} KiB a connection",
        ),
        (
            "CPU of the queue's server",
            lambda bill: f"{_number(bill.queue_cores)} cores",
            f"{needs.queue_job_us:.0f} us a job, {needs.queue_stream_s_us:.1f} us a second of a stream",
        ),
        ("deployments, each with a queue", lambda bill: f"{bill.queues:,}", "a queue has one core"),
        ("cores", lambda bill: f"{bill.cores:,}", "a replica a primary, two a queue"),
        (
            "price of a million tokens",
            lambda bill: f"{bill.price(price):.4f}",
            f"cores x {price:g} a core and hour / tokens an hour",
        ),
    )
    head = ["", *(f"{bill.load.streams:,} streams" for bill in bills), "calculated from"]
    lines = [head, ["---"] * len(head), *([name, *map(shown, bills), source] for name, shown, source in rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def section(bills: Sequence[Bill], price: float = 1.0) -> str:
    load = bills[0].load
    told = (
        f"{load.rate:g} tokens a second and stream, {load.tokens} tokens a job, each read by {load.readers:g} through gateways, "
        f"kept for {load.retention_s:g} s, cores {load.full:.0%} full:"
    )
    return "\n".join([BEGIN, "", told, "", *table(bills, price), "", END])


def with_section(page: str, new: str) -> str:
    """The page with the section in the place of the old one. Raises: ValueError if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must have the line {BEGIN!r}, then {END!r}")
    return before + new + after


def _bytes(value: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{_number(value)} {unit}"
        value /= 1000
    return f"{_number(value)} TB"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def measured(figures: Path, traffic: Path) -> Needs:
    """What the page and the file say. Raises: KeyError with what is missing."""
    return needs_of(read_figures(figures.read_text(encoding="utf-8")), json.loads(traffic.read_text(encoding="utf-8")))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, metavar="N")
    parser.add_argument("--rate", type=float, default=Load.rate, help="tokens a second of each stream")
    parser.add_argument("--tokens", type=int, default=Load.tokens, help="of a job")
    parser.add_argument("--readers", type=float, default=Load.readers, help="of each job")
    parser.add_argument("--retention", type=float, default=Load.retention_s, help="seconds")
    parser.add_argument("--full", type=float, default=Load.full, help="how much of a core may be used, 0 to 1")
    parser.add_argument("--price", type=float, default=1.0, help="of a core for an hour")
    parser.add_argument("--figures", type=Path, default=_FIGURES, help="a page with the benchmarks' tables")
    parser.add_argument("--traffic", type=Path, default=_TRAFFIC, help="what benchmarks.traffic --json wrote")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help=f"your own figures: {', '.join(_NAMES)}"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/scaling.md")
    options = parser.parse_args(arguments)
    given: dict[str, float] = {}
    for each in options.set:
        name, _, value = each.partition("=")
        if name not in _NAMES:
            parser.error(f"--set {each}: there are {', '.join(_NAMES)}")
        given[name] = float(value)
    needs = replace(measured(options.figures, options.traffic), **given)
    bills = [
        Bill(Load(streams, options.rate, options.tokens, options.readers, options.retention, options.full), needs)
        for streams in options.streams
    ]
    print("\n".join(table(bills, options.price)))
    if options.write:
        _PAGE.write_text(
            with_section(_PAGE.read_text(encoding="utf-8"), section(bills, options.price)), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
