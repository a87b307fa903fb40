"""A pseudo-terminal: a command on it, and what stands on its screen."""

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from subprocess import Popen
from typing import Final

from cli_runs import PATIENCE_S, environment

_WORD: Final = re.compile(r"\x1b\[(?P<number>\??[\d;]*)(?P<command>[A-Za-z])|[^\x1b]|\x1b", re.DOTALL)


class Terminal:
    """What a command says, and to whom it listens."""

    def __init__(self, process: "Popen[bytes]", controller: int) -> None:
        self.process, self._controller = process, controller
        self._said = bytearray()
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._gather)
        self._thread.start()

    @property
    def said(self) -> str:
        """Every byte that was written."""
        return self._said.decode(errors="replace")

    @property
    def screen(self) -> str:
        """What a person sees, had the screen no upper end."""
        return shown(self.said)

    def wait_for(self, text: str, *, lines: int | None = None) -> str:
        """Return the screen when this stands on it, in so many lines altogether. Fails after a while."""
        give_up = time.monotonic() + PATIENCE_S
        with self._moved:
            while text not in (screen := self.screen) or (lines is not None and len(screen.splitlines()) != lines):
                assert time.monotonic() < give_up, f"never showed {text!r} in {lines or 'any'} lines: {screen}"
                self._moved.wait(0.2)
            return screen

    def wait_for_frame(self, description: str, fits: Callable[[list[str]], bool]) -> list[str]:
        """Return the lines of the frame that is so, of those drawn on a screen of its own. Fails after a while."""
        give_up = time.monotonic() + PATIENCE_S
        with self._moved:
            while True:
                # The last one may be under way.
                frames = [shown(drawn).splitlines() for drawn in self.said.split("\x1b[H")[-1:-3:-1]]
                for frame in frames:
                    if frame and fits(frame):
                        return frame
                assert time.monotonic() < give_up, f"never {description}: {frames}"
                self._moved.wait(0.1)

    def press(self, keys: bytes) -> None:
        os.write(self._controller, keys)

    def resize(self, *, columns: int, rows: int) -> None:
        fcntl.ioctl(self._controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # The kernel tells only the terminal's own foreground group, which this process is not in.
        self.process.send_signal(signal.SIGWINCH)

    @property
    def modes(self) -> list[object]:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self._controller)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """Wait for its end: the exit code."""
        code = self.process.wait(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.ended()
        os.close(self._controller)

    def _gather(self) -> None:
        while True:
            try:
                piece = os.read(self._controller, 65536)
            except OSError:  # nobody holds the other end any more
                return
            with self._moved:
                self._said += piece
                self._moved.notify_all()


@contextmanager
def on_terminal(*arguments: str, columns: int = 100, rows: int = 24, **env: str) -> Generator[Terminal]:
    """A command of ours on a terminal of its own."""
    controller, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command = [sys.executable, "-m", "tailrace.cli", *arguments]
    variables = environment({"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **env})
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        variables.pop(name, None)
    with Popen(command, stdin=end, stdout=end, stderr=end, env=variables) as process:
        os.close(end)
        terminal = Terminal(process, controller)
        try:
            yield terminal
        finally:
            terminal.close()


def shown(said: str) -> str:
    """Carry out what moves the cursor and what erases; colours are left out."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for word in _WORD.finditer(said):
        number, command = word["number"], word["command"]
        if command == "A":
            row = max(row - int(number or 1), 0)
        elif command == "K":
            del lines[row][0 if number == "2" else column :]
        elif command is not None:
            continue
        elif word[0] == "\r":
            column = 0
        elif word[0] == "\n":
            row += 1
            if row == len(lines):
                lines.append([])
        else:
            line = lines[row]
            line.extend(" " * (column + 1 - len(line)))
            line[column] = word[0]
            column += 1
    return "\n".join("".join(line).rstrip() for line in lines).rstrip("\n")
