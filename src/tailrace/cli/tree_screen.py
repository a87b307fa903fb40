"""The tree of a job's runs on a terminal: drawn anew in place while it grows, and left standing in the end."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tailrace.cli.output import Output
from tailrace.cli.tree import RunTree
from tailrace.cli.tree_lines import Room, lines
from tailrace.joblog.tasks import running

_PAUSE_S: Final = 1 / 12
#: A tree of ten thousand runs takes a while to draw: no more than this share of the time, or nothing is read meanwhile.
_SHARE: Final = 0.2
#: What stays is scrolled by the terminal, so it may be longer than the screen; but not as long as a job may be.
_LEFT_STANDING: Final = 200


def screen_of(output: Output) -> Console | None:
    """Standard output, if it is a terminal that can be drawn over, and nobody asked for JSON."""
    if output.json or not output.on_terminal:
        return None
    console = Console(file=sys.stdout, highlight=False, force_terminal=True)
    return None if console.is_dumb_terminal else console


class TreeScreen:
    """Shows a tree that somebody else folds."""

    def __init__(self, tree: RunTree, console: Console, *, now_ms: float, waiting: str = "") -> None:
        """`now_ms`: the server's clock, now. `waiting`: what is shown before any run begins."""
        self._tree, self._console, self._waiting = tree, console, waiting
        self._ahead_ms = now_ms - monotonic() * 1000

    @asynccontextmanager
    async def showing(self) -> AsyncGenerator[None]:
        """Draw while the block runs; however it ends, what there is then stays on the screen."""
        try:
            with Live(
                get_renderable=self._drawn,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
            ) as live:
                async with running(self._refreshing(live)):
                    yield
        finally:
            width, height = self._console.size
            for line in self._lines(width, max(height - 1, _LEFT_STANDING)):
                self._console.print(line, no_wrap=True, crop=True, soft_wrap=True)

    async def _refreshing(self, live: Live) -> None:
        while True:
            began = monotonic()
            live.refresh()
            await asyncio.sleep(max(_PAUSE_S, (monotonic() - began) / _SHARE))

    def _drawn(self) -> Group:
        width, height = self._console.size
        drawn = self._lines(width, max(height - 1, 1))
        if not self._tree.roots and self._waiting:
            drawn = [Text(self._waiting, style="dim", no_wrap=True, overflow="ellipsis")]
        return Group(*drawn)

    def _lines(self, width: int, height: int) -> list[Text]:
        found = lines(self._tree, Room(width, height, self._console.encoding), monotonic() * 1000 + self._ahead_ms)
        for line in found:
            line.no_wrap, line.overflow = True, "crop"
        return found
