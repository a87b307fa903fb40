"""A server as a child process that never outlives its parent, not even one that is killed.

The child holds the reading end of a pipe as its standard input. The kernel closes the other end when the parent dies,
however it dies, and the child ends: no process id is remembered, nothing is left to clean up.
"""

import asyncio
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Final, Self

from tailrace.schemas.errors import TailraceError

_LISTENING: Final = "listening "
#: Time for a child to end by itself before it is killed.
_GRACE_S: Final = 5.0


class UpstreamNotStarted(TailraceError):
    """A server of this room did not come up; the message has the last lines of what it said."""


def watch_parent(gone: Callable[[], object]) -> None:
    """Call `gone` (in a thread) when the process that started this one closes the pipe or dies."""

    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        gone()

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


class ChildServer:
    """`python -m <module> <arguments>`, which prints `listening <base_url>` when it is ready.

    A context manager, blocking or async. Raises on entry: UpstreamNotStarted.
    """

    def __init__(self, module: str, arguments: Sequence[str], *, start_timeout: float = 60.0) -> None:
        self._module = module
        self._arguments = list(arguments)
        self._start_timeout = start_timeout
        self._given_up = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._base_url: str | None = None

    @property
    def base_url(self) -> str:
        """What the openai package takes as `base_url`. Only between entry and exit."""
        if self._base_url is None:
            raise RuntimeError(f"{type(self).__name__} is not running: use it inside `with` or `async with`")
        return self._base_url

    @property
    def pid(self) -> int:
        """The child's process id. Only between entry and exit."""
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} is not running: use it inside `with` or `async with`")
        return self._process.pid

    def __enter__(self) -> Self:
        self._given_up.clear()
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def __aenter__(self) -> Self:
        self._given_up.clear()
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be cancelled: tell it, wait until it has cleaned up, and stop what it may have started.
            self._given_up.set()
            await asyncio.wait([starting])
            starting.exception()
            await asyncio.to_thread(self._stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._stop)

    def _prepare(self) -> list[str]:
        """What must be there first (blocking); returns further arguments."""
        return []

    def _start(self) -> None:
        arguments = [*self._arguments, *self._prepare()]
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(  # noqa: S603  # our own module, by our own interpreter
                [sys.executable, "-m", self._module, "--until-stdin-closes", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                # Ctrl-C in the terminal is for the parent, which stops its child when it is done with it.
                start_new_session=True,
            )
            try:
                self._base_url = self._await_listening(self._process, said)
            except BaseException:
                self._stop()
                raise

    def _await_listening(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> str:
        assert process.stdout is not None  # noqa: S101  # opened as a pipe
        ends = time.monotonic() + self._start_timeout
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not self._given_up.is_set() and time.monotonic() < ends:
                if not selector.select(timeout=0.1):
                    continue
                piece = os.read(process.stdout.fileno(), 4096)
                line += piece
                if line.endswith(b"\n") and line.decode().startswith(_LISTENING):
                    return line.decode().removeprefix(_LISTENING).strip()
                if not piece:
                    break
        said.seek(0)
        last = said.read().decode(errors="replace").strip()[-2000:]
        raise UpstreamNotStarted(f"{self._module} did not come up: {last or line.decode(errors='replace')!r}")

    def _stop(self) -> None:
        process, self._process, self._base_url = self._process, None, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
