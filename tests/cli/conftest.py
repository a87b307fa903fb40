"""A server and a worker (on the rehearsal upstream) for the tests of the commands, and the commands themselves."""

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from cli_runs import LEAK_PATIENCE_S, PATIENCE_S, Cli, Start, Started, environment

from tailrace.joblog.embedded import EmbeddedServer


@pytest.fixture(scope="package")
def cli_server() -> Iterator[EmbeddedServer]:
    """Not the session's server: tests elsewhere empty that one."""
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "TAILRACE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def cli(cli_server: EmbeddedServer, namespace: str) -> Cli:
    """Commands on the server, in a namespace that has no worker."""
    return Cli(cli_server.url, namespace)


@pytest.fixture(scope="package")
def rehearsing(cli_server: EmbeddedServer) -> Iterator[dict[str, Any]]:
    """A worker on the rehearsal: what it said when it was ready, its namespace among it."""
    arguments = ["--redis-url", cli_server.url, "--namespace", f"cli-{uuid.uuid4().hex[:8]}"]
    command = [sys.executable, "-m", "tailrace.cli", "worker", "--rehearsal", "--json", *arguments]
    with Popen(command, stdout=PIPE, env=environment({})) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


@pytest.fixture
def worked(cli_server: EmbeddedServer, rehearsing: dict[str, Any]) -> Cli:
    """Commands in a namespace that has a worker."""
    return Cli(cli_server.url, rehearsing["namespace"])


@pytest.fixture
def start(cli_server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Start a command as a process; fails the test if one of them, or a process of theirs, outlives it."""
    started: list[Started] = []

    def start(*arguments: str, server: bool = True, **env: str) -> Started:
        where = ["--redis-url", cli_server.url] if server else []
        # Every descendant inherits it, whatever session it makes for itself.
        command = Started([*arguments, *where], {"TAILRACE_TEST_MARK": str(tmp_path), "TMPDIR": str(tmp_path), **env})
        started.append(command)
        return command

    yield start
    for command in started:
        command.kill()
    left = _left_over(f"TAILRACE_TEST_MARK={tmp_path}".encode())
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    # Last: whatever still ran held the pipes.
    for command in started:
        command.close()
    assert not left, f"processes outlive their command: {left}"
    assert not list(tmp_path.glob("tailrace-*")), "a private server's folder is left"


def _left_over(mark: bytes) -> list[int]:
    """Processes with this in their environment that do not end."""
    give_up = time.monotonic() + LEAK_PATIENCE_S
    while (left := _processes_with(mark)) and time.monotonic() < give_up:
        time.sleep(0.01)
    return left


def _processes_with(mark: bytes) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended, or it is somebody else's
    return found
