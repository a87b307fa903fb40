"""What the commands print: results on standard output, everything else on standard error."""

import json
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

import typer
from rich.console import Console

from tailrace.cli.exits import ExitCode, exit_code
from tailrace.schemas import JobError, JobFailed, StreamRewound, TailraceError

#: Control characters but for newline and tab: a model's answer must not steer the terminal that shows it.
_CONTROLS: Final = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

_LATE_CONTROLS: Final = re.compile("[\x7f-\x9f]")


def printable(text: str) -> str:
    """Text that is safe to show on a terminal."""
    return text.translate(_CONTROLS)


def compact(value: object) -> str:
    """A value as one line of JSON."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    text = json.dumps(value, ensure_ascii=encoding != "utf8", separators=(",", ":"), default=str)
    # JSON itself escapes the first 32 only; a terminal takes these for commands too.
    return _LATE_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_terminal(stream: TextIO) -> bool:
    """Whether people look at it."""
    return not stream.closed and stream.isatty()


class Output:
    """A command's two channels. With `json`, standard output has one JSON object a line and nothing else."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    @property
    def on_terminal(self) -> bool:
        return is_terminal(sys.stdout)

    def text(self, text: str) -> None:
        """Text as it is, at once."""
        try:
            sys.stdout.write(printable(text) if self.on_terminal else text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            _discard_the_rest()
            raise OutputFailed(f"the output cannot be written: {error.strerror}") from error

    def line(self, text: str) -> None:
        self.text(f"{text}\n")

    def object(self, fields: Mapping[str, Any]) -> None:
        """One line of JSON."""
        self.text(f"{compact(fields)}\n")

    def note(self, text: str) -> None:
        """A word for people, on standard error."""
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()

    def error(self, error: TailraceError) -> None:
        """One line on standard error."""
        if self.json:
            sys.stderr.write(f"{compact({'error': error_fields(error)})}\n")
            sys.stderr.flush()
        else:
            self.note(f"error: {' '.join(str(error).split())}")

    def console(self) -> Console:
        """For progress, on standard error."""
        return Console(stderr=True, highlight=False)


class OutputFailed(TailraceError):
    """Where the output goes, nothing can be written: a disk that is full."""


def _discard_the_rest() -> None:
    """Or the interpreter complains when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def error_fields(error: TailraceError) -> dict[str, Any]:
    """An error as JSON."""
    fields: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code(error).value}
    if isinstance(error, JobError):
        fields["job_id"] = error.job_id
    if isinstance(error, JobFailed):
        fields["reason"] = error.error.model_dump(mode="json", exclude_none=True)
    if isinstance(error, StreamRewound):
        fields |= {"position": error.position, "text_before": error.text_before}
    return fields


@contextmanager
def reporting(output: Output, *, interrupted: Callable[[], str | None] = lambda: None) -> Generator[None]:
    """Errors of ours leave this block as one line and an exit code, never as a traceback.

    `interrupted` says what to do after Ctrl-C, if there is something to say.
    """
    try:
        yield
    except TailraceError as error:
        output.error(error)
        raise typer.Exit(exit_code(error)) from None
    except BrokenPipeError:
        _discard_the_rest()
        raise typer.Exit(ExitCode.OUTPUT_CLOSED) from None
    except KeyboardInterrupt:
        advice = interrupted()
        if output.json:
            fields = {"type": "Interrupted", "message": advice or "", "exit_code": ExitCode.INTERRUPTED.value}
            sys.stderr.write(f"{compact({'error': fields})}\n")
            sys.stderr.flush()
        elif advice:
            output.note(("\n" if is_terminal(sys.stderr) else "") + advice)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
