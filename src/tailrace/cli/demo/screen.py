"""The readers side by side: in place on a terminal, as plain lines elsewhere."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
#: Plain lines are folded here: a model may write a page without a line's end.
_FOLD: Final = 90


class Screen(Protocol):
    """Shows the readers while they read."""

    def showing(self, readers: Sequence[Reader]) -> AbstractContextManager[None]: ...
    def changed(self, reader: Reader, change: Change) -> None: ...


class LiveScreen:
    """Panels that are drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.readers: Sequence[Reader] = ()

    def changed(self, reader: Reader, change: Change) -> None:
        """Nothing: the panels are drawn from the readers as they are, at a pace of their own."""

    @contextmanager
    def showing(self, readers: Sequence[Reader]) -> Generator[None]:
        self.readers = readers
        with Live(get_renderable=self._panels, console=self._console, refresh_per_second=_REFRESH_HZ):
            yield

    def _panels(self) -> RenderableType:
        width, height = self._console.size
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

    def __init__(self, output: Output) -> None:
        self._output = output
        self._shown: dict[str, int] = {}
        self._width = 0

    @contextmanager
    def showing(self, readers: Sequence[Reader]) -> Generator[None]:
        self._width = max(len(reader.name) for reader in readers)
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

    def _line(self, reader: Reader, sign: str, text: str) -> None:
        self._output.line(f"{reader.name:<{self._width}} {sign} {printable(text)}".rstrip())


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
