"""Processes that a benchmark starts, and can kill. None outlives it: each ends when its standard input closes."""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO, Any, Final

#: Time for a child to come up, or to say the next line: generous, the machine may be busy.
ANSWER_S: Final = 60.0
#: Time for a child to end by itself before it is killed.
END_S: Final = 10.0


class Child:
    """A running child, seen from the benchmark."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    async def tell(self, *words: object) -> None:
        """One line to the child."""
        if self._process.stdin is None:
            raise RuntimeError("the child was started with pipes")
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        await self._process.stdin.drain()

    async def line(self, timeout_s: float = ANSWER_S) -> list[str]:
        """The words of the next line that it says. Raises: RuntimeError if it has ended, TimeoutError."""
        output = self._process.stdout
        if output is None:
            raise RuntimeError("the child was started with pipes")
        async with asyncio.timeout(timeout_s):
            line = await output.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended: exit code {await self._process.wait()}")
        return line.decode().split()

    async def stamp(self, job_id: str) -> int:
        """When the handler of this job began, in nanoseconds of the monotonic clock."""
        while True:
            said, *rest = await self.line()
            if said == job_id:
                return int(rest[0])


@asynccontextmanager
async def child(
    module: str, configuration: Mapping[str, Any], *, errors: IO[bytes] | None = None
) -> AsyncGenerator[Child]:
    """`python -m <module>`, which reads its configuration as a line of JSON, and says `ready` first; `errors` as `started`."""
    command = [sys.executable, "-m", module]
    async with started(command, first_line=json.dumps(configuration), errors=errors) as running:
        said = await running.line()
        if said[0] != "ready":
            raise RuntimeError(f"{module} said {said!r} instead of being ready")
        yield running


@asynccontextmanager
async def started(
    command: Sequence[str],
    *,
    first_line: str | None = None,
    errors: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Child]:
    """Any command with pipes; `errors` takes its standard error; `environment`: variables beside this process's.

    At the end of the block it is told to end by SIGTERM and the end of its input, and gets time for it.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=errors,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        if first_line is not None and process.stdin is not None:
            process.stdin.write(first_line.encode() + b"\n")
            await process.stdin.drain()
        yield Child(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.communicate(), END_S)
        except TimeoutError:
            process.kill()
            await process.communicate()


# The child's side.


async def configured() -> tuple[dict[str, Any], asyncio.StreamReader]:
    """The configuration that the benchmark wrote, and the standard input behind it: it ends when the benchmark does."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return json.loads(await reader.readline()), reader


def say(*words: object) -> None:
    """One line to the benchmark, in one write."""
    os.write(sys.stdout.fileno(), " ".join(map(str, words)).encode() + b"\n")


def say_started(job_id: str) -> None:
    """The handler of this job begins now."""
    say(job_id, time.monotonic_ns())
