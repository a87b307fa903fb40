"""The examples of docs/wire.md as processes: the Node client and the redis-cli scripts, one face for both."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
NODE: Final = ROOT / "examples" / "node"
REDIS_CLI: Final = ROOT / "examples" / "redis-cli"
PATIENCE_S: Final = 20.0

CLIENTS: Final = ("node", "redis-cli")
#: One prompt to one model: what is submitted twice is the same request.
PROMPT: Final = 'Write me a 1 verse song about "sparkling" water.\n\tMit Umlaut: ü 💧'

#: What anybody may publish on a live channel.
NO_PUBLICATIONS: Final = [
    b"", b"\n", b"hello", b"5-1\n", b"5-1\n5-2 chunk", b"5-1\n5-2 chunk 1", b"5-1\n5-2 chunk 99\nx\n", b"5-1\n5-2 chunk -1\n\n",
    b"5-1\n5-2 chunk 1\nxyz\n", b"5-1\n5-2 chunk x\nx\n", b"5-1\n5-2 chunk 1\nx\n5-3 chunk",
]  # fmt: skip


@dataclass(frozen=True)
class WireClient:
    """Commands of a client, run in an environment that says where the server is."""

    command: Callable[[str], list[str]]
    """The command line that a command's arguments are put behind."""
    environment: dict[str, str]

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command(name), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def ok(self, name: str, *arguments: str) -> str:
        """What a command prints. It must end well and say nothing on standard error."""
        done = self.run(name, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def submit(self, model: str, prompt: str, *job_id: str) -> str:
        return self.ok("submit", model, prompt, *job_id).strip()

    @asynccontextmanager
    async def following(self, *arguments: str) -> "AsyncGenerator[Following]":
        """A follower that runs beside the test."""
        process = await asyncio.create_subprocess_exec(
            *self.command("follow"),
            *arguments,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield Following(process)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()


class Following:
    """A follower's output as it comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.shown = b""

    async def until(self, text: str) -> None:
        """Read until exactly this has been shown."""
        assert self._process.stdout is not None
        expected = text.encode()
        while self.shown != expected:
            assert expected.startswith(self.shown), self.shown.decode()
            self.shown += await self._more(len(expected) - len(self.shown))

    async def end(self) -> tuple[int, str, str]:
        """Exit code, what was shown in all, and what was said on standard error."""
        rest, said = await asyncio.wait_for(self._process.communicate(), PATIENCE_S)
        assert self._process.returncode is not None
        return self._process.returncode, (self.shown + rest).decode(), said.decode()

    async def _more(self, count: int) -> bytes:
        assert self._process.stdout is not None
        more = await asyncio.wait_for(self._process.stdout.read(count), PATIENCE_S)
        assert more, f"the follower left after {self.shown.decode()!r}"
        return more


def node(packages: Path, folder: Path, environment: dict[str, str]) -> WireClient:
    """The Node example, put into a folder as the repository has it, with the packages that it asks for."""
    example = folder / "examples" / "node"
    shutil.copytree(NODE, example, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "docs" / "wire", folder / "docs" / "wire")
    (example / "node_modules").symlink_to(packages, target_is_directory=True)
    return WireClient(lambda name: ["node", str(example / "jobs.js"), name], environment)


def redis_cli(environment: dict[str, str]) -> WireClient:
    """The redis-cli scripts where they are. Skips where a program that they need is missing."""
    missing = [program for program in ("bash", "redis-cli", "jq", "gzip") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return WireClient(lambda name: [str(REDIS_CLI / f"{name}.sh")], environment)


def client_of(kind: str, request: pytest.FixtureRequest, environment: dict[str, str]) -> WireClient:
    """One of CLIENTS, for the test that asks."""
    if kind == "node":
        return node(request.getfixturevalue("node_packages"), request.getfixturevalue("tmp_path"), environment)
    return redis_cli(environment)


def plain_environment() -> dict[str, str]:
    """This process's environment without settings of the machine's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
