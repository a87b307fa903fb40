"""The readers side by side: in place on a terminal, as plain lines elsewhere."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tailrace.cli.demo.readers import Came, Change, Reader
from tailrace.cli.output import Output, printable

_STYLES: Final = {Came.LIVE: "", Came.CAUGHT_UP: "cyan"}
#: Below this width three columns are too narrow to read: the panels are stacked.
_SIDE_BY_SIDE: Final = 72
_REFRESH_HZ: Final = 15
_STATE_ROWS: Final = 2
#: Of what happened to the machinery, the last so many lines are shown below the panels.
_NOTE_ROWS: Final = 10
#: What a note of violence begins with.
LOUD: Final = "KILL"
#: Plain lines are folded here: a model may write a page without a line's end.
_FOLD: Final = 90


class Screen(Protocol):
    """Shows the readers while they read."""

    def showing(self, readers: Sequence[Reader]) -> AbstractContextManager[None]: ...
    def changed(self, reader: Reader, change: Change) -> None: ...
    def note(self, text: str) -> None:
        """Something that happened to the machinery, in one line. Only while `showing`."""
        ...


class _Clock:
    """Seconds since the curtain rose, as a column."""

    def __init__(self) -> None:
        self._began = monotonic()

    def __str__(self) -> str:
        return f"{monotonic() - self._began:6.2f} s"


class LiveScreen:
    """Panels that are drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.readers: Sequence[Reader] = ()
        self._clock = _Clock()
        self._notes: list[Text] = []

    def changed(self, reader: Reader, change: Change) -> None:
        """Nothing: the panels are drawn from the readers as they are, at a pace of their own."""

    @contextmanager
    def showing(self, readers: Sequence[Reader]) -> Generator[None]:
        self.readers = readers
        self._clock = _Clock()
        with Live(get_renderable=self._drawn, console=self._console, refresh_per_second=_REFRESH_HZ):
            yield

    def note(self, text: str) -> None:
        style = "bold red" if text.startswith(LOUD) else ""
        self._notes.append(Text(f"{self._clock}  {printable(text)}", style=style, no_wrap=True, overflow="ellipsis"))

    def _drawn(self) -> RenderableType:
        notes = self._notes[-_NOTE_ROWS:]
        return Group(self._panels(len(notes)), *notes)

    def _panels(self, rows_below: int) -> RenderableType:
        width, height = self._console.size
        height -= rows_below
        beside = width >= _SIDE_BY_SIDE
        inner = width // len(self.readers) - 4 if beside else width - 4
        room = (height - 3 if beside else height // len(self.readers)) - 2 - _STATE_ROWS
        texts = [self._lines(reader, inner) for reader in self.readers]
        # One height for all, so that they grow together.
        rows = min(max(len(lines) for lines in texts), max(room, 3))
        panels = [
            self._panel(reader, lines[-rows:], rows, inner) for reader, lines in zip(self.readers, texts, strict=True)
        ]
        if not beside:
            return Group(*panels)
        table = Table.grid(expand=True)
        for _ in panels:
            table.add_column(ratio=1)
        table.add_row(*panels)
        return table

    def _lines(self, reader: Reader, width: int) -> list[Text]:
        text = Text()
        for piece, came in list(reader.pieces):
            text.append(printable(piece), style=_STYLES[came])
        return list(text.wrap(self._console, width))

    def _panel(self, reader: Reader, lines: list[Text], rows: int, width: int) -> Panel:
        """The end of a long answer, not its beginning: that is where something happens."""
        colour = "green" if reader.over else "red" if reader.away else "blue"
        state = Text(reader.state, style=f"bold {colour}").wrap(self._console, width)[:_STATE_ROWS]
        shown = Text("\n").join([*lines, *[Text()] * (rows - len(lines)), *state])
        return Panel(shown, title=reader.title, border_style=colour, height=rows + _STATE_ROWS + 2)


class PlainScreen:
    """A line for each line that a reader has complete, and for each thing that happens to it."""

    def __init__(self, output: Output, *, timed: bool = False) -> None:
        """`timed`: each line begins with the seconds since the curtain rose."""
        self._output = output
        self._timed = timed
        self._clock = _Clock()
        self._shown: dict[str, int] = {}
        self._width = 0

    @contextmanager
    def showing(self, readers: Sequence[Reader]) -> Generator[None]:
        self._width = max(len(reader.name) for reader in readers)
        self._clock = _Clock()
        yield

    def changed(self, reader: Reader, change: Change) -> None:
        text = reader.text
        shown = min(self._shown.get(reader.name, 0), len(text))
        if change is Change.REWOUND:
            self._line(reader, "!", "rewound: a restarted attempt went another way; the text from its beginning:")
            shown = 0
        # What stood before something happened is shown before it, also in the middle of a line.
        lines, taken = complete_lines(text[shown:], rest=change in (Change.STATE, Change.OVER))
        for line in lines:
            self._line(reader, "|", line)
        self._shown[reader.name] = shown + taken
        if change in (Change.STATE, Change.OVER):
            self._line(reader, "*", reader.state)

    def note(self, text: str) -> None:
        self._show("", "#", text)

    def _line(self, reader: Reader, sign: str, text: str) -> None:
        self._show(reader.name, sign, text)

    def _show(self, name: str, sign: str, text: str) -> None:
        clock = f"{self._clock}  " if self._timed else ""
        self._output.line(f"{clock}{name:<{self._width}} {sign} {printable(text)}".rstrip())


def complete_lines(text: str, *, rest: bool) -> tuple[list[str], int]:
    """The lines that are complete, long ones folded, and how many characters they took; with `rest` all of the text."""
    lines: list[str] = []
    taken = 0
    while taken < len(text):
        end = text.find("\n", taken, taken + _FOLD + 1)
        if end >= 0:
            lines.append(text[taken:end])
            taken = end + 1
        elif len(text) - taken > _FOLD:
            space = text.rfind(" ", taken + 1, taken + _FOLD)
            end = space if space > 0 else taken + _FOLD
            lines.append(text[taken:end])
            taken = end
        elif rest:
            lines.append(text[taken:])
            taken = len(text)
        else:
            break
    return lines, taken
