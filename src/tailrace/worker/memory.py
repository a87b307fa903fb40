"""What a writer knows to stand in its job's log, so that it can say it again to a server that lost it. Pure: no I/O."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from tailrace.schemas import ROOT, Entry, Position, chunk_field, chunk_run, parse_position


@dataclass(eq=False, slots=True)
class Line:
    """A record as its writer knows it. Its position changes when the server lost it and it is written again; so a rewind
    names the line it goes back to, and the position is looked up when it is sent."""

    field: str
    text: str
    position: Position | None = None
    target: Self | None = None
    """Of a rewind: the last line that stands."""

    @property
    def value(self) -> str:
        """What goes into the log."""
        if self.target is None:
            return self.text
        return json.dumps({"run": self.run, "to": self.target.position})

    @property
    def run(self) -> int:
        run = chunk_run(self.field)
        return int(json.loads(self.text).get("run", ROOT)) if run is None else run


def chunk(text: str, run: int = ROOT) -> Line:
    """Output text of a run."""
    return Line(chunk_field(run), text)


def rewind(target: Line, run: int = ROOT) -> Line:
    """The record that voids what the run has written after a line."""
    return Line("rewind", json.dumps({"run": run}), target=target)


class Memory:
    """The lines of one log in order, from its beginning, as this writer has read or written them."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.lines: list[Line] = []
        self.know(entries)

    def know(self, entries: Iterable[Entry]) -> None:
        """These records, and no others."""
        self.lines.clear()
        known: dict[str, Line] = {}
        for entry in entries:
            line = Line(entry.field, entry.value, entry.position)
            if entry.field == "rewind":
                line.target = known[json.loads(entry.value)["to"]]
            known[entry.position] = line
            self.lines.append(line)

    @property
    def epoch(self) -> int:
        """The epoch of the last line."""
        position = self.lines[-1].position if self.lines else None
        return 0 if position is None else parse_position(position)[0]

    def add(self, *lines: Line) -> None:
        self.lines += lines

    def output(self, run: int = ROOT) -> list[Line]:
        """The chunks and deltas of a run that stand, in order."""
        output: list[Line] = []
        for line in self.lines:
            if line.field == "rewind" and line.run == run:
                output = output[: _standing_until(output, self.lines, line)]
            elif chunk_run(line.field) == run or (line.field == "delta" and line.run == run):
                output.append(line)
        return output

    def go_back(self, after: Position) -> list[Line] | None:
        """Forget what the server lost behind `after`, and return what of it stands, for writing again.

        None: there is no line at `after`, somebody else wrote it. A rewind to a line that is lost itself is not said
        again: what it voided is left out instead.
        """
        for number in range(len(self.lines) - 1, -1, -1):
            if self.lines[number].position == after:
                lost = self.lines[number + 1 :]
                del self.lines[number + 1 :]
                return _again(lost)
        return None


def _again(lost: list[Line]) -> list[Line]:
    kept: list[Line] = []
    for line in lost:
        if line.field == "attempt":
            continue
        if line.field == "rewind":
            edge = next((number for number, known in enumerate(lost) if known is line.target), -1)
            void = {id(known) for known in lost[edge + 1 :] if known.field != "rewind" and known.run == line.run}
            kept = [known for known in kept if id(known) not in void]
            if edge >= 0:
                continue
        kept.append(line)
    return kept


def _standing_until(output: list[Line], lines: list[Line], rewound: Line) -> int:
    """How many of `output` stand after a rewind: those that come no later than its target."""
    order = {id(line): number for number, line in enumerate(lines)}
    edge = order[id(rewound.target)]
    return sum(order[id(line)] <= edge for line in output)
