"""The tree of a job's runs as lines of text, no more of them than there is room for. Pure."""

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from itertools import groupby
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from tailrace.cli.tree import Note, Progress, Run, RunTree, Sign, State

_NOTES_SHOWN: Final = 3
_BAR_CELLS: Final = 24
#: On narrower screens the kind of a run is left out.
_WIDE: Final = 72
_LEAST_TEXT: Final = 8
_LEAST_NAME: Final = 16
_STYLES: Final = {State.RUNNING: "blue", State.DONE: "green", State.FAILED: "bold red", State.VOID: "dim"}
_NOTE_STYLES: Final = {Sign.EVENT: "cyan", Sign.RETRY: "yellow", Sign.REWIND: "magenta"}
_JOINER: Final = "\u200d"
_MARKS: Final = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
#: More marks on one letter than any language puts there: they would reach into the lines around.
_PILE: Final = re.compile(f"([{_MARKS}]{{3}})[{_MARKS}]+")


class Signs(NamedTuple):
    """What the tree is drawn with."""

    branch: str
    last: str
    beside: str
    running: str
    """Turns while a run is going."""
    marks: dict[State, str]
    notes: dict[Sign, str]
    bar: str
    rest: str
    more: str


UNICODE: Final = Signs(
    branch="├─ ",
    last="└─ ",
    beside="│  ",
    running="⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏",
    marks={State.DONE: "✓", State.FAILED: "✗", State.VOID: "∅"},
    notes={Sign.EVENT: "•", Sign.RETRY: "↻", Sign.REWIND: "↶"},
    bar="━",
    rest="─",
    more="…",
)
ASCII: Final = Signs(
    branch="|- ",
    last="`- ",
    beside="|  ",
    running="|/-\\",
    marks={State.DONE: "+", State.FAILED: "x", State.VOID: "0"},
    notes={Sign.EVENT: "*", Sign.RETRY: "r", Sign.REWIND: "<"},
    bar="#",
    rest="-",
    more="...",
)


class Room(NamedTuple):
    """What there is to draw on."""

    width: int
    height: int
    encoding: str = "utf-8"

    @property
    def breadth(self) -> int:
        """What a line may fill. The last column stays free: some terminals begin the next line when it is written to."""
        return max(self.width - 1, 1)

    @property
    def signs(self) -> Signs:
        return UNICODE if self.encoding.lower().startswith("utf") else ASCII

    def clean(self, text: str) -> str:
        """Text of anybody's as one harmless line."""
        text = one_line(text)
        return text.encode(self.encoding, "replace").decode(self.encoding) if self.signs is ASCII else text


class _Fold(IntEnum):
    """What is left out when there are more lines than room; each includes those before it."""

    NOTHING = 0
    OLD_NOTES = 1
    """Notes of runs that are over."""
    SUBTREES = 2
    """Runs below one that is over."""
    SIBLINGS = 3
    """Neighbours that went well make one line."""
    NOTES = 4
    """All notes, and neighbours that failed make one line too."""


class _Row(NamedTuple):
    """A line: of a run (or several neighbours), or of something that happened in one."""

    lead: str
    runs: Sequence[Run] = ()
    folded: bool = False
    """Whether it stands for what is below it too."""
    note: str = ""
    style: str = ""


@lru_cache(maxsize=2048)
def one_line(text: str) -> str:
    """Text that can neither steer a terminal nor leave its line, nor turn around what stands beside it."""
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() or sign == _JOINER else "\ufffd" for sign in text)
    return _PILE.sub(r"\1", text)


def lines(tree: RunTree, room: Room, now_ms: float) -> list[Text]:
    """`now_ms`: the server's clock."""
    rows, hidden = _fitting(tree, room), list[_Row]()
    if len(rows) > room.height:
        rows, hidden = rows[: room.height - 1], rows[room.height - 1 :]
    drawn = _Drawing(tree, rows, room, now_ms).lines()
    if hidden:
        drawn.append(Text(f"{room.signs.more} {sum(len(row.runs) for row in hidden)} more runs", style="dim"))
    for line in drawn:
        line.truncate(room.breadth)
    return drawn


def _fitting(tree: RunTree, room: Room) -> list[_Row]:
    rows: list[_Row] = []
    for fold in _Fold:
        rows = [row for run in tree.roots for row in _rows([run], "", "", fold, room)]
        if len(rows) <= room.height:
            break
    return rows


def _rows(runs: Sequence[Run], lead: str, below: str, fold: _Fold, room: Room) -> Iterator[_Row]:
    """One run, or neighbours that share a line, and what is below."""
    signs = room.signs
    first = runs[0]
    # A root is never folded: then nothing would be left.
    folded = len(runs) > 1 or (
        fold >= _Fold.SUBTREES and first.parent is not None and bool(first.children) and first.settled
    )
    yield _Row(lead, runs, folded=folded)
    if folded:
        return
    groups = _grouped(first.children, fold)
    notes = _notes(first, fold, room)
    for note, style in notes:
        yield _Row(below + (signs.beside if groups else "   "), note=note, style=style)
    for number, group in enumerate(groups, start=1):
        last = number == len(groups)
        yield from _rows(
            group,
            below + (signs.last if last else signs.branch),
            below + ("   " if last else signs.beside),
            fold,
            room,
        )


def _grouped(runs: Sequence[Run], fold: _Fold) -> list[list[Run]]:
    if fold < _Fold.SIBLINGS:
        return [[run] for run in runs]
    states = {State.DONE} if fold < _Fold.NOTES else {State.DONE, State.FAILED, State.VOID}
    groups: list[list[Run]] = []
    for together, group in groupby(runs, lambda run: run.settled and run.state in states):
        found = list(group)
        groups += [found] if together else [[run] for run in found]
    return groups


def _notes(run: Run, fold: _Fold, room: Room) -> list[tuple[str, str]]:
    """The lines of what happened in a run, and their styles."""
    if fold >= _Fold.NOTES or (fold >= _Fold.OLD_NOTES and run.over):
        return []
    signs = room.signs
    shown = [(_note(note, room), _NOTE_STYLES[note.sign]) for note in run.notes[-_NOTES_SHOWN:]]
    earlier = len(run.notes) - len(shown) + run.notes_dropped
    if earlier:
        shown.insert(0, (f"{signs.more} {earlier} earlier", "dim"))
    if run.progress is not None and not (run.over and run.progress.done == run.progress.total):
        shown.append((_bar(run.progress, signs), "blue"))
    return shown


def _note(note: Note, room: Room) -> str:
    return f"{room.signs.notes[note.sign]} {room.clean(note.text)}"


def _bar(progress: Progress, signs: Signs) -> str:
    done, total = progress.done, progress.total
    if total is None or total <= 0:
        return f"{done:,g} done"
    full = round(_BAR_CELLS * min(max(done / total, 0.0), 1.0))
    return f"{signs.bar * full}{signs.rest * (_BAR_CELLS - full)} {done:,g} of {total:,g}"


class _Drawing:
    """Rows as lines, their columns aligned."""

    def __init__(self, tree: RunTree, rows: Sequence[_Row], room: Room, now_ms: float) -> None:
        self._tree, self._rows, self._room, self._now_ms = tree, rows, room, now_ms
        self._width = room.breadth
        of_runs = [row for row in rows if row.runs]
        widest = max((cell_len(row.lead) + 2 + cell_len(self._name(row)) for row in of_runs), default=0)
        deepest = max((cell_len(row.lead) + 2 for row in of_runs), default=0)
        self._name_cells = min(widest, max(self._width * 2 // 5, deepest + _LEAST_NAME))
        kinds = {run.kind for row in rows for run in row.runs} if room.width >= _WIDE else set[str]()
        self._kind_cells = min(max((cell_len(room.clean(kind)) for kind in kinds), default=0), 12)

    def lines(self) -> list[Text]:
        return [self._run(row) if row.runs else self._happened(row) for row in self._rows]

    def _happened(self, row: _Row) -> Text:
        return Text.assemble((row.lead, "dim"), (self._fit(row.note, self._width - cell_len(row.lead)), row.style))

    def _name(self, row: _Row) -> str:
        names = {run.name for run in row.runs}
        name = self._room.clean(names.pop()) if len(names) == 1 else "runs"
        name = name or self._room.signs.more
        many = f" x{len(row.runs)}" if len(row.runs) > 1 else ""
        attempt = f" (attempt {self._tree.attempt})" if self._tree.attempt > 1 and row.runs[0].parent is None else ""
        return f"{name}{many}{attempt}"

    def _run(self, row: _Row) -> Text:
        states = [run.state for run in row.runs]
        state = State.FAILED if State.FAILED in states else states[0]
        signs, style = self._room.signs, _STYLES[state]
        mark = signs.marks.get(state) or signs.running[int(self._now_ms / 100) % len(signs.running)]
        name = self._fit(self._name(row), self._name_cells - cell_len(row.lead) - 2)
        line = Text.assemble((row.lead, "dim"), (f"{mark} ", style), (name, "bold"))
        line.append(" " * max(self._name_cells - line.cell_len, 0))
        if self._kind_cells:
            kinds = {run.kind for run in row.runs}
            kind = self._room.clean(kinds.pop()) if len(kinds) == 1 else ""
            line.append(f"  {set_cell_size(kind, self._kind_cells)}", "dim")
        line.append(f"  {state.value:<7}", style)
        line.append(f" {self._elapsed(row):>7}")
        tokens = sum(run.tokens for run in row.runs)
        line.append(f" {f'{tokens:,} tok' if tokens else '':>9}", "dim")
        rest = self._width - line.cell_len - 2
        if rest >= _LEAST_TEXT:
            line.append("  ")
            self._says(line, row, rest)
        return line

    def _elapsed(self, row: _Row) -> str:
        known = [(run.started_ms, took) for run in row.runs if (took := run.elapsed_ms(self._now_ms)) is not None]
        spans = [(started, started + took) for started, took in known if started is not None]
        if not spans:
            return ""
        return clock(max(end for _, end in spans) - min(begin for begin, _ in spans))

    def _says(self, line: Text, row: _Row, cells: int) -> None:
        """What a run says: where it is going on its latest words, else what it ended with, from the beginning."""
        if row.folded:
            below = [run for top in row.runs for run in top.below()]
            failed = sum(run.state is State.FAILED for run in (*below, *(row.runs if len(row.runs) > 1 else ())))
            said = f"{len(below)} run{'' if len(below) == 1 else 's'} below" if below else ""
            said += f"{', ' if said and failed else ''}{failed} failed" if failed else ""
            said += "  " if said else ""
            line.append(self._fit(said, cells), "red" if failed else "dim")
            cells -= cell_len(said)
        if len(row.runs) > 1 or cells < _LEAST_TEXT:
            return
        run = row.runs[0]
        if run.over and run.output:
            line.append(self._fit(self._room.clean(run.output), cells), "red" if run.state is State.FAILED else "")
            return
        # The last line that has anything in it.
        said = self._room.clean(next((part for part in reversed(run.text.splitlines()) if part.strip()), ""))
        line.append(self._fit_end(said, cells), "italic dim" if run.part == "reasoning_content" else "")

    def _fit(self, text: str, cells: int) -> str:
        if cell_len(text) <= cells:
            return text
        more = self._room.signs.more
        return set_cell_size(text, max(cells - len(more), 0)).rstrip() + more[: max(cells, 0)]

    def _fit_end(self, text: str, cells: int) -> str:
        if cell_len(text) <= cells:
            return text
        more = self._room.signs.more
        text = text[-cells:]
        while text and cell_len(text) > cells - len(more):
            text = text[1:]
        return more + text


def clock(ms: float) -> str:
    """A duration in a few signs."""
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02} m" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"
