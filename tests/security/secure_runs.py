"""Commands as processes, with everything they write kept; on a pipe or on a terminal."""

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

PATIENCE_S: Final = 20.0


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's, without settings of ours and keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TAILRACE_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


class Command:
    """A command that runs; its two channels are one."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._said = bytearray()
        self._thread = threading.Thread(target=self._gather)
        self._thread.start()

    @property
    def said(self) -> str:
        return self._said.decode(errors="replace")

    def wait_for(self, text: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert self._thread.is_alive(), f"ended without {text!r}: {self.said}"
            assert time.monotonic() < give_up, f"never said {text!r}: {self.said}"
            self._thread.join(0.01)

    def ended(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        return code

    def _gather(self) -> None:
        assert self.process.stdout is not None
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self._said += piece


@contextmanager
def command(*arguments: str, env: Mapping[str, str]) -> Generator[Command]:
    """`tailrace ARGUMENTS` while the block runs."""
    words = [sys.executable, "-m", "tailrace.cli", *arguments]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(env)
    ) as process:
        started = Command(process)
        try:
            yield started
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    started.ended()
                except subprocess.TimeoutExpired:
                    process.kill()
            started.ended()


def run(*arguments: str, env: Mapping[str, str]) -> Command:
    """`tailrace ARGUMENTS` to its end."""
    with command(*arguments, env=env) as started:
        started.ended()
    return started


def on_terminal(*arguments: str, env: Mapping[str, str]) -> bytes:
    """What `tailrace ARGUMENTS` writes to a terminal, on both channels."""
    ours, its = pty.openpty()
    said = bytearray()
    words = [sys.executable, "-m", "tailrace.cli", *arguments]
    try:
        with subprocess.Popen(words, stdin=its, stdout=its, stderr=its, env=environment(env)) as process:
            os.close(its)
            with suppress(OSError):  # the other end is closed: it has ended
                while piece := os.read(ours, 65536):
                    said += piece
            process.wait(PATIENCE_S)
    finally:
        os.close(ours)
    return bytes(said)
