"""Running commands: in this process (`Cli`) or as processes of their own (`Started`)."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import Any, Final

from typer.testing import CliRunner

from tailrace.cli import app

PATIENCE_S: Final = 20.0
LEAK_PATIENCE_S: Final = 10.0


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output as JSON, a line each."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The last line of standard error as JSON."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return found


class Cli:
    """Commands on one server and namespace, run in this process. Standard output is no terminal."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Ran:
        where = ["--redis-url", self.url, "--namespace", self.namespace]
        return run(*arguments, *where, stdin=stdin)

    def finished(self, model: str, *options: str) -> str:
        """The id of a job for the rehearsal that has ended, well or not."""
        job_id = self("submit", "hello", "--model", model, *options).out.strip()
        self("tail", job_id)
        return job_id


def run(*arguments: str, stdin: str | bytes | None = None) -> Ran:
    """A command in this process."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
    return Ran(result.exit_code, result.stdout, result.stderr)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's, without settings of ours and keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TAILRACE_"))}
    return {**kept, **extra}


class Started:
    """A command as a process, whose output is gathered as it comes."""

    def __init__(self, arguments: list[str], env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "tailrace.cli", *arguments]
        self.process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment(env))
        self._out, self._err = bytearray(), bytearray()
        self._moved = threading.Condition()
        self._threads = [
            threading.Thread(target=self._gather, args=(pipe, kept))
            for pipe, kept in ((self.process.stdout, self._out), (self.process.stderr, self._err))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def out(self) -> str:
        return self._out.decode(errors="replace")

    @property
    def err(self) -> str:
        return self._err.decode(errors="replace")

    def wait_for(self, text: str, *, times: int = 1, on: str = "out") -> None:
        """Return when it has said so. Fails after a while, or when it has ended without."""
        give_up = time.monotonic() + PATIENCE_S
        with self._moved:
            while getattr(self, on).count(text) < times:
                left = give_up - time.monotonic()
                alive = any(thread.is_alive() for thread in self._threads)
                assert left > 0, f"never said {text!r} {times} times: {self.out!r} {self.err!r}"
                assert alive, f"ended without {text!r}: {self.out!r} {self.err!r}"
                self._moved.wait(min(left, 0.2))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> Ran:
        """Wait for its end."""
        code = self.process.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        return Ran(code, self.out, self.err)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """After `kill`, and after whatever it started is gone."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def _gather(self, pipe: Any, kept: bytearray) -> None:
        with suppress(OSError, ValueError):  # closed, because whoever holds the other end does not end
            while piece := os.read(pipe.fileno(), 65536):
                with self._moved:
                    kept += piece
                    self._moved.notify_all()


Start = Callable[..., Started]
"""Starts a command: its arguments, `server=False` to leave the server's URL out, and environment variables."""
