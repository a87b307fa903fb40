"""What was measured, for a terminal, for a program, and for docs/performance.md. Pure but for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Bar, Figure, Measured
from benchmarks.machine import Machine
from benchmarks.rows import Row

_COLUMNS: Final = ("", "what", "p50", "p99", "p50 of rounds", "n", "bar; stretch", "reached", "ratio", "of floor")
BEGIN: Final = "<!-- benchmarks: begin (written by `./run bench --write`) -->"
END: Final = "<!-- benchmarks: end -->"


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    machine: Machine
    quick: bool
    rows: Sequence[tuple[Row, Measured]]

    def print(self, console: Console) -> None:
        for row, measured in self.rows:
            columns, *rows = _filled(measured.figures)
            table = Table(title=row.title, title_justify="left", box=box.SIMPLE_HEAD)
            for column in columns:
                table.add_column(column, no_wrap=column != "what")
            for cells in rows:
                table.add_row(*cells)
            console.print(table)
            for note in measured.notes:
                console.print(f"  {note}", style="dim")
        for line in self._lines():
            console.print(line, style="dim")

    def json(self) -> dict[str, Any]:
        return {
            "machine": asdict(self.machine),
            "quick": self.quick,
            "rows": {
                row.key: {
                    "title": row.title,
                    "figures": [asdict(figure) | {"reached": figure.reached} for figure in measured.figures],
                    "notes": list(measured.notes),
                    "curves": [asdict(curve) for curve in measured.curves],
                }
                for row, measured in self.rows
            },
        }

    def markdown(self, plots: Mapping[str, Sequence[str]] | None = None) -> str:
        """`plots`: by a row's key, the lines that show its plots."""
        parts = [BEGIN, "", *(f"{line}  " for line in self._lines()), ""]
        for row, measured in self.rows:
            parts += [f"### {row.title}", "", *_markdown_table(measured.figures), ""]
            parts += [*(f"- {note}" for note in measured.notes), ""]
            parts += [line for shown in (plots or {}).get(row.key, ()) for line in (shown, "")]
        return "\n".join([*parts, END])

    def _lines(self) -> list[str]:
        smoke = ["A smoke run: the figures say that it works, not how fast."] if self.quick else []
        return [*smoke, *self.machine.lines()]


def with_section(text: str, section: str) -> str:
    """The document with the section in the place of the old one, or at its end. Raises: ValueError for half a section."""
    begins, ends = text.count(BEGIN), text.count(END)
    if (begins, ends) == (0, 0):
        return f"{text.rstrip()}\n\n{section}\n".lstrip()
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if (begins, ends) != (1, 1) or not end:
        raise ValueError(f"the document must have the line {BEGIN!r}, then {END!r}, each once")
    return before + section + after


def _cells(figure: Figure) -> list[str]:
    low, high = figure.spread
    several = len(figure.round_p50s) > 1
    return [
        figure.subject,
        figure.what,
        _told(figure.p50, figure.unit),
        "" if figure.p99 is None else _told(figure.p99, figure.unit),
        f"{_number(low)} - {_number(high)}" if several else "",
        str(figure.samples),
        "; ".join(_told_bar(bar, figure.unit) for bar in (figure.bar, figure.stretch) if bar is not None),
        figure.reached or "",
        *("" if times is None else f"{_number(times)} x" for times in (figure.ratio, figure.of_floor)),
    ]


def _filled(figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    """The table, its head first, without the columns in which there would be nothing."""
    rows = [_cells(figure) for figure in figures]
    kept = [number for number in range(len(_COLUMNS)) if any(cells[number] for cells in rows)]
    return [tuple(cells[number] for number in kept) for cells in (_COLUMNS, *rows)]


def _markdown_table(figures: Iterable[Figure]) -> list[str]:
    columns, *rows = _filled(figures)
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ("---",) * len(columns), *rows)]


def _told_bar(bar: Bar, unit: str) -> str:
    return f"{bar.p50:,g} {unit}" if bar.p99 is None else f"{bar.p50:g} / {bar.p99:g} {unit}"


def _told(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """Three digits, of great numbers all before the point."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
