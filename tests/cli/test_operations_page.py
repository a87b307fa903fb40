"""docs/operations.md: every command on it is one that works, and every command of the server too."""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cli_runs import PATIENCE_S, Cli, run
from redis import Redis

from tailrace.cli.exits import ExitCode
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import Keys

PAGE: Final = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS: Final = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
SERVER: Final = [
    line for block in re.findall(r"^```redis\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def own() -> Iterator[Any]:
    with EmbeddedServer(private=True) as server:
        client: Any = Redis.from_url(server.url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
        with client:
            yield client


def test_every_command_on_the_page_works(worked: Cli, cli_server: EmbeddedServer) -> None:
    keys = Keys(worked.namespace)
    failed = worked.finished("rehearsal:fault=status,code=401")
    assert len(COMMANDS) >= 15
    client: Any = Redis.from_url(cli_server.url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
    with client:
        give_up = time.monotonic() + PATIENCE_S
        while not client.exists(keys.ended):
            assert time.monotonic() < give_up, "it is handed off"
            time.sleep(0.01)
        client.xgroup_create(keys.ended, "indexer")
    for command in COMMANDS:
        program, *arguments = shlex.split(command.replace("GROUP", "indexer").replace("JOB", failed))
        assert program == "tailrace"
        ran = worked(*arguments)
        assert ran.code == ExitCode.OK, (command, ran.out, ran.err)


@pytest.mark.parametrize("command", SERVER)
def test_every_command_of_the_server_on_the_page_works(command: str, own: Any) -> None:
    answer = own.execute_command(*shlex.split(command))
    assert answer
    if command == "INFO persistence":
        assert {"aof_rewrite_in_progress", "rdb_bgsave_in_progress"} <= answer.keys()


def test_every_command_that_the_page_names_exists() -> None:
    for name in set(re.findall(r"`tailrace ([a-z]+)", PAGE)):
        assert run(name, "--help").code == ExitCode.OK, name
