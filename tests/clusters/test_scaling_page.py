"""docs/scaling.md does what it says: its commands and its program on real clusters, behind real sentinels."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cluster_servers import cluster
from documentation import ROOT, Block, blocks_of, commands_of
from sentinel_servers import sentinels
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.upstreams.rehearsal import Rehearsal

OURS: Final = "tests/clusters/test_scaling_page.py"
PATIENCE_S: Final = 50.0
LOGS: Final = "redis+cluster://logs-1:6379,logs-2:6379,logs-3:6379"
QUEUE: Final = "redis://queue:6379/0"
SENTINELS: Final = "redis+sentinel://sentinel-1:26379,sentinel-2:26379,sentinel-3:26379/mymaster/0"

blocks: Final = [block for block in blocks_of(ROOT / "docs" / "scaling.md") if block.run_by == OURS]


def the(language: str, words: str) -> Block:
    (found,) = [block for block in blocks if block.language == language and words in block.code]
    return found


def real(code: str, servers: Mapping[str, str]) -> str:
    """With addresses that exist in the place of the page's, each of which must be there."""
    for told, url in servers.items():
        assert told in code
        code = code.replace(told, url)
    return code


async def ran(script: str, folder: Path, upstream: str) -> str:
    """What a shell says; what it leaves in the background ends with it. Fails unless it ends well."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TAILRACE_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    bash = shutil.which("bash")
    assert bash is not None
    said = folder / "said"
    with said.open("wb") as output:
        shell = await asyncio.create_subprocess_exec(
            *(bash, "-e", "-c", script),
            env={**kept, "PATH": path, "OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "none"},
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = await asyncio.wait_for(shell.wait(), PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    answer = said.read_text(encoding="utf-8")
    assert status == 0, answer
    return answer


def console(block: Block) -> str:
    return "\n".join(command.line for command in commands_of(block.code))


async def test_the_commands_and_the_program_for_a_cluster_run_on_one(tmp_path: Path) -> None:
    commands, program = the("console", LOGS), the("python", LOGS)
    with EmbeddedServer(private=True) as queue:
        async with cluster() as three, Rehearsal() as upstream:
            servers = {LOGS: three.url, QUEUE: queue.tcp_url}
            (tmp_path / "program.py").write_text(real(program.code, servers), encoding="utf-8")
            script = f"{real(console(commands), servers)}\necho -----\npython program.py"
            told, printed = (await ran(script, tmp_path, upstream.base_url)).split("-----\n")
            assert "greeting\n" in told
            assert "job 'greeting': completed" in told
            # The worker's own lines stand between.
            assert printed.splitlines().count("completed") == 2
            # Logs are there and nowhere else.
            places = [[name async for name in server.redis.scan_iter("*:log")] for server in three.nodes]
            assert any(places)


async def test_the_commands_for_sentinels_run_behind_some_on_servers_as_the_page_sets_them(tmp_path: Path) -> None:
    commands, conf = the("console", SENTINELS), the("conf", "min-replicas-to-write")
    config = dict(line.split(" ", 1) for line in conf.code.splitlines())
    async with sentinels(config=config) as three, Rehearsal() as upstream:
        for server in three.servers:
            for name, value in config.items():
                assert await server.redis.config_get(name) == {name: value}
        told = await ran(real(console(commands), {SENTINELS: three.url}), tmp_path, upstream.base_url)
        assert "greeting\n" in told
        assert "job 'greeting': completed" in told


def test_every_block_that_is_said_to_run_here_does() -> None:
    run = [the("console", LOGS), the("python", LOGS), the("console", SENTINELS), the("conf", "min-replicas-to-write")]
    assert sorted(block.id for block in run) == sorted(block.id for block in blocks)
