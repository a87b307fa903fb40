"""`tail --events` on a terminal: the tree while the job runs, and what is left of it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from cli_runs import Cli
from redis.asyncio import Redis
from terminals import on_terminal, shown

from job_logs import Job, Pen, sealed, submitted
from tailrace.cli.exits import ExitCode
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import EventRecord, Position, Status

ENDLESS = "rehearsal:fault=endless,pace=0.02"


@pytest.fixture
async def redis(cli_server: EmbeddedServer) -> AsyncIterator[Redis]:
    client = Redis.from_url(cli_server.url)  # pyright: ignore[reportUnknownMemberType]  # redis-py's **kwargs
    yield client
    await client.aclose()


def tailing(cli: Cli, job_id: str, *arguments: str, **options: Any) -> Any:
    where = ["--redis-url", cli.url, "--namespace", cli.namespace]
    return on_terminal("tail", job_id, "--events", *arguments, *where, **options)


def event(
    word: str, run: int, name: str | None, *, ts: int, parents: list[int] | None = None, **fields: Any
) -> list[str]:
    record = EventRecord(
        position=Position(""), run=run, event=word, name=name, run_id=f"run-{run}", parents=parents, ts=ts, **fields
    )
    return ["event", record.value()]


async def started(pen: Pen) -> None:
    """A pipeline in its parallel pair."""
    await pen.append(
        [
            *event("on_chain_start", 0, "research", parents=[], ts=1000),
            *event("on_chat_model_start", 1, "plan", parents=[0], ts=1000),
            *("chunk:1", "a "),
            *("chunk:1", "plan"),
            *event("on_chat_model_end", 1, "plan", ts=1500),
            *event("on_chat_model_start", 2, "read", parents=[0], ts=1500),
            *event("on_chain_start", 3, "load \x1b]0;owned\x07", parents=[0], ts=1500),
            *("chunk:2", "so it \x1b[2Jgoes"),
            *event("on_custom_event", 3, "tailrace.progress", data={"done": 3, "total": 4}, ts=1500),
        ]
    )


async def finished(pen: Pen, job: Job) -> None:
    await pen.append(
        [
            *event("on_chain_end", 3, None, data={"output": {"files": 4}}, ts=2000),
            *event("on_chat_model_end", 2, "read", ts=2500),
        ]
    )
    await sealed(job)


async def test_the_tree_grows_while_the_job_runs_and_stays_in_the_end(cli: Cli, redis: Redis) -> None:
    job = await submitted(redis, cli.namespace)
    with tailing(cli, job.job_id) as terminal:
        terminal.wait_for("waiting for a worker")
        pen = await job.claim()
        await started(pen)
        running = terminal.wait_for("3 of 4")
        assert "waiting" not in running
        assert running.index("✓ plan") < running.index(" read ") < running.index(" load ") < running.index("3 of 4")
        assert running.count("running") == 3
        await finished(pen, job)
        assert terminal.ended() == ExitCode.OK
        left = terminal.screen.splitlines()
    assert [line.split("  ")[0] for line in left[:4]] == [
        "✓ research",
        "├─ ✓ plan",
        "├─ ✓ read",
        "└─ ✓ load �]0;owned�",
    ]
    assert left[1].split("chat_model")[1].split() == ["done", "0.5", "s", "2", "tok", "a", "plan"]
    assert left[2].endswith("so it �[2Jgoes")
    assert left[3].endswith('{"files": 4}')
    assert left[4].endswith("3 of 4")  # it never said that it had come to the end
    for forbidden in ("\x1b]", "\x1b[2J", "\x07"):
        assert forbidden not in terminal.said


async def test_of_a_job_that_failed_the_tree_stays_and_the_error_follows(cli: Cli, redis: Redis) -> None:
    job = await submitted(redis, cli.namespace)
    await started(await job.claim())
    await sealed(job, Status.FAILED)
    with tailing(cli, job.job_id) as terminal:
        assert terminal.ended() == ExitCode.FAILED
        *tree, error = terminal.screen.splitlines()
    assert [line.split()[0] for line in tree[:1]] == ["✗"]
    assert sum("failed" in line.split() for line in tree) == 3
    assert error.startswith("error: ")


async def test_a_job_that_never_began_leaves_nothing_but_its_error(cli: Cli, redis: Redis) -> None:
    job = await submitted(redis, cli.namespace)
    await sealed(job, Status.CANCELLED)
    with tailing(cli, job.job_id) as terminal:
        assert terminal.ended() == ExitCode.CANCELLED
        (only,) = terminal.screen.splitlines()
    assert only.startswith("error: ")


async def test_more_runs_than_lines_never_leave_the_screen(cli: Cli, redis: Redis) -> None:
    job = await submitted(redis, cli.namespace)
    with tailing(cli, job.job_id, rows=8) as terminal:
        pen = await job.claim()
        await pen.append(event("on_chain_start", 0, "research", parents=[], ts=1000))
        for run in range(1, 30):
            await pen.append(event("on_chain_start", run, f"step {run}", parents=[0], ts=1000))
        terminal.wait_for("… 24 more runs", lines=7)
        for run in range(1, 29):
            await pen.append(event("on_chain_end", run, f"step {run}", ts=1000))
        terminal.wait_for("runs x28", lines=3)
        await sealed(job)
        assert terminal.ended() == ExitCode.OK
        assert len(terminal.screen.splitlines()) == 30


def test_an_interrupted_tree_stays_and_says_how_to_go_on(worked: Cli) -> None:
    job_id = worked("submit", "hello", "--model", ENDLESS).out.strip()
    with tailing(worked, job_id) as terminal:
        terminal.wait_for(" tok ")
        terminal.interrupt()
        assert terminal.ended() == ExitCode.INTERRUPTED
        said = terminal.screen
    worked("cancel", job_id)
    assert "chat_model  running" in said
    assert f"tailrace tail {job_id} --after " in said
    assert "--events" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("arguments", "env"), [([], {"TERM": "dumb"}), (["--json"], {})])
def test_where_nothing_can_be_drawn_or_json_was_asked_for_lines_stay_lines(
    worked: Cli, arguments: list[str], env: dict[str, str]
) -> None:
    job_id = worked.finished("rehearsal:tokens=3")
    piped = worked("tail", job_id, "--events", *arguments)
    with tailing(worked, job_id, *arguments, columns=1000, **env) as terminal:
        assert terminal.ended() == ExitCode.OK
        assert terminal.said.replace("\r\n", "\n") == piped.out


def test_the_screen_of_these_tests_moves_as_a_terminal_does() -> None:
    assert shown("one\r\ntwo\x1b[1A\r\x1b[2Kthree\r\n\x1b[31mTWO\x1b[0m\x1b[K") == "three\nTWO"
