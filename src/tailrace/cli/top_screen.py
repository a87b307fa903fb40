"""A look at the fleet as lines of a terminal of some size. Pure: no clock, no server, no keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tailrace.cli.fleet import Fleet, Running
from tailrace.cli.listing import ago
from tailrace.cli.output import printable

_STYLES: Final = {"completed": "green", "incomplete": "green", "failed": "red", "expired": "red", "cancelled": "yellow"}
#: A queue that has waited for so long is worth a look.
_LATE_MS: Final = 10_000
_FEW: Final = 3
#: Headline, queue, a heading for each of three tables, the keys.
_CHROME: Final = 6


@dataclass(slots=True)
class Watch:
    """What one look does not tell and two do: rates, and when the first text came."""

    _at_ms: int = 0
    _records: dict[str, int] = field(default_factory=dict[str, int])
    _silent: set[str] = field(default_factory=set[str])
    _first_ms: dict[str, int] = field(default_factory=dict[str, int])
    rates: dict[str, float] = field(default_factory=dict[str, float])

    def saw(self, fleet: Fleet) -> None:
        """Take in the next look."""
        passed_ms = fleet.now_ms - self._at_ms
        before, self._records = self._records, {each.job_id: each.records for each in fleet.running}
        self.rates = {
            each.job_id: 1000 * max(0, each.records - before[each.job_id]) / passed_ms
            if each.job_id in before and passed_ms > 0
            else each.mean_rate
            for each in fleet.running
        }
        self._first_ms = {job_id: ms for job_id, ms in self._first_ms.items() if job_id in self._records}
        for each in fleet.running:
            if each.writes and each.job_id in self._silent:
                self._first_ms[each.job_id] = each.attempt_ms
        self._silent = {each.job_id for each in fleet.running if not each.writes}
        self._at_ms = fleet.now_ms

    def first(self, each: Running) -> str:
        """How long its first text took, or has taken so far; "-" if it had begun before anybody looked."""
        if not each.writes:
            return f"{each.attempt_ms / 1000:.1f}s…"
        seen = self._first_ms.get(each.job_id)
        return "-" if seen is None else f"{seen / 1000:.1f}s"


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn."""

    fleet: Fleet
    watch: Watch
    namespace: str
    scrolled: int = 0
    note: str = ""
    """Shown instead of the keys: that the server does not answer, that it is paused."""

    def lines(self, height: int) -> RenderableType:
        """At most so many lines; the streams have what the others leave."""
        crew = self.fleet.workers
        left = max(0, height - _CHROME)
        workers = min(len(crew), max(1, left // 4), left)
        ended = min(len(self.fleet.last), max(_FEW, left // 4), max(0, left - workers))
        streams = max(0, left - workers - ended)
        parts: list[RenderableType] = [self._headline(), self._queue()]
        if height > _CHROME:
            parts += [self._workers(workers), self._streams(streams), self._ended(ended)]
        parts.append(Text(self.note or "q quit   ↑↓ scroll   space pause", style="bold red" if self.note else "dim"))
        return Group(*parts)

    def _headline(self) -> Text:
        fleet = self.fleet
        memory = ""
        if fleet.memory is not None:
            limit = f" of {fleet.memory_limit / 2**20:.0f}" if fleet.memory_limit else ""
            memory = f"   server {fleet.memory / 2**20:.1f}{limit} MB"
        counts = [f"{count} {status}" for status, count in sorted(fleet.ended.items()) if count]
        more = "" if fleet.ended_all else " or more"
        ends = f"{', '.join(counts)}{more} in the last minute" if counts else "none ended in the last minute"
        crew = f"{len(fleet.alive)} worker{'' if len(fleet.alive) == 1 else 's'}, {fleet.busy} running"
        records = f"{sum(self.watch.rates.values()):.0f} records/s"
        return _line(f"tailrace {self.namespace}   {crew}   {records}   {ends}{memory}", "bold")

    def _queue(self) -> Text:
        fleet = self.fleet
        text = f"queue  {fleet.due} waiting"
        style = ""
        if fleet.oldest_due_ms is not None and fleet.due:
            text += f", the first for {ago(fleet.oldest_due_ms)}"
            style = "yellow" if fleet.oldest_due_ms > _LATE_MS else ""
        text += f"; {fleet.queued - fleet.due} running or for later; {fleet.open} open"
        waiting = {name: queue.due for name, queue in fleet.queues.items() if queue.due}
        if len(fleet.queues) > 1 and waiting:
            text += f"; {', '.join(f'{count} in {name}' for name, count in waiting.items())}"
        if fleet.due and not fleet.alive:
            text, style = f"{text}; no worker is there", "red"
        elif unserved := sorted(waiting.keys() - {name for card in fleet.alive for name in card.queues}):
            text, style = f"{text}; no worker serves {', '.join(unserved)}", "red"
        return _line(text, style)

    def _workers(self, rows: int) -> Table:
        table = _table("WORKER", "JOBS", "QUEUES", "VERSION", "HOST", "SEEN")
        for card in sorted(self.fleet.workers, key=lambda card: (card.alive, card.name))[:rows]:
            seen = ago(self.fleet.now_ms - card.seen_ms)
            if not card.alive:
                _row(table, [card.name, "", "", "", "", f"silent for {seen}"], "red")
                continue
            place = f"{card.host}:{card.pid}"
            jobs, queues = f"{card.jobs}/{card.max_jobs}", ", ".join(card.queues)
            _row(table, [card.name, jobs, queues, card.version, place, f"{seen} ago"], "")
        return table

    def _streams(self, rows: int) -> Table:
        table = _table("RUNNING", "MODEL", "AGE", "FIRST", "RECORDS", "PER S")
        begin = min(self.scrolled, max(0, len(self.fleet.running) - rows))
        for each in self.fleet.running[begin : begin + rows]:
            rate = self.watch.rates.get(each.job_id, 0.0)
            _row(
                table,
                [each.job_id, each.model, ago(each.age_ms), self.watch.first(each), str(each.records), f"{rate:.1f}"],
                "" if each.writes else "yellow",
            )
        return table

    def _ended(self, rows: int) -> Table:
        table = _table("ENDED", "STATUS", "MODEL", "AGO", "FIRST", "TOTAL", "TOKENS/S")
        for each in self.fleet.last[:rows]:
            _row(
                table,
                [
                    each.job_id,
                    each.status,
                    each.model,
                    ago(each.ago_ms),
                    _seconds(each.first_ms),
                    _seconds(each.total_ms),
                    "" if each.rate is None else f"{each.rate:.0f}",
                ],
                _STYLES.get(each.status, ""),
            )
        return table


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold reverse", expand=True, show_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, no_wrap=True, overflow="crop", ratio=3 if number == 0 else None)
    return table


def _row(table: Table, cells: Sequence[str], style: str) -> None:
    # Text, not markup: a model's name is whatever its submitter wrote.
    table.add_row(*(Text(printable(" ".join(cell.split())), no_wrap=True) for cell in cells), style=style)


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _seconds(ms: int | None) -> str:
    return "" if ms is None else f"{ms / 1000:.1f}s"
