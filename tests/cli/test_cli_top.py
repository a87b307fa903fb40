"""top: what it shows, on terminals of any size, and where nobody looks."""

import signal
import time
from typing import Any, Final

import pytest
from cli_runs import PATIENCE_S, Cli, Ran, run
from rich.console import Console
from terminals import on_terminal

from tailrace.cli.exits import ExitCode
from tailrace.cli.fleet import EndedLast, Fleet, Running
from tailrace.cli.top_screen import Frame, Watch
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.worker.registry import WorkerCard

SLOW: Final = "rehearsal:tokens=2000,pace=0.02"


def look(ran: Ran) -> dict[str, Any]:
    assert ran.code == ExitCode.OK, ran.err
    (found,) = ran.objects
    return found


def running_job(worked: Cli, model: str = SLOW) -> str:
    job_id = worked("submit", "a secret prompt", "--model", model).out.strip()
    give_up = time.monotonic() + PATIENCE_S
    while not any(
        each["job_id"] == job_id and each["records"] > 3 for each in look(worked("top", "--json"))["running"]
    ):
        assert time.monotonic() < give_up, "it never ran"
    return job_id


def test_a_look_tells_what_runs_what_waits_and_what_ended(worked: Cli) -> None:
    done = worked.finished("rehearsal")
    later = worked("submit", "hello", "--delay", "1h").out.strip()
    job_id = running_job(worked)
    found = look(worked("top", "--json"))
    (running,) = [each for each in found["running"] if each["job_id"] == job_id]
    assert running["model"] == SLOW
    assert running["records_per_second"] == pytest.approx(1000 * running["records"] / running["attempt_ms"], abs=0.06)
    assert running["age_ms"] >= running["attempt_ms"] > 0
    assert later not in str(found["running"])
    assert [worker["alive"] for worker in found["workers"]] == [True]
    assert found["workers"][0]["version"]
    assert (found["queue"]["due"], found["queue"]["oldest_due_ms"]) == (0, None)
    (ended,) = [each for each in found["last_ended"] if each["job_id"] == done]
    assert (ended["status"], ended["total_ms"] >= ended["first_ms"] >= 0) == ("completed", True)
    assert found["ended_last_minute"]["completed"] >= 1
    assert found["memory"]["used"] > 0
    shown = worked("top").out
    assert job_id in shown
    assert "secret" not in shown + str(found)
    for each in (job_id, later):
        worked("cancel", each)


def test_jobs_that_wait_without_a_worker_are_told_with_how_long(cli: Cli) -> None:
    cli("submit", "hello")
    cli("submit", "hello", "--delay", "1h")
    found = look(cli("top", "--json"))
    assert (found["queue"]["jobs"], found["queue"]["due"]) == (2, 1)
    assert 0 <= found["queue"]["oldest_due_ms"] < 60_000
    assert "1 waiting, the first for" in (shown := cli("top").out)
    assert "no worker is there" in shown


def test_without_a_server_it_says_so() -> None:
    ran = run("top", "--json", "--redis-url", "redis://127.0.0.1:1")
    assert (ran.code, ran.out) == (ExitCode.BROKER, "")


def test_on_a_terminal_it_draws_anew_scrolls_pauses_resizes_and_leaves_it_as_it_was(worked: Cli) -> None:
    job_id = running_job(worked)
    where = ("--redis-url", worked.url, "--namespace", worked.namespace, "--interval", "0.1")
    with on_terminal("top", *where, columns=110, rows=20) as terminal:
        before = terminal.modes
        frame = terminal.wait_for_frame("shows the job", lambda lines: any(job_id in line for line in lines))
        assert len(frame) <= 20

        def records(lines: list[str]) -> str:
            return next((line for line in lines if line.startswith(job_id)), "")

        terminal.wait_for_frame("moves on", lambda lines: records(lines) not in ("", records(frame)))
        terminal.press(b" ")
        terminal.wait_for_frame("is paused", lambda lines: "paused" in lines[-1])
        terminal.press(b" ")
        terminal.wait_for_frame("goes on", lambda lines: "q quit" in lines[-1])
        terminal.press(b"\x1b[B\x1b[A")
        terminal.resize(columns=50, rows=9)
        small = terminal.wait_for_frame(
            "fits a small terminal", lambda lines: len(lines) <= 9 and all(len(line) <= 50 for line in lines)
        )
        assert "tailrace" in small[0]
        terminal.press(b"q")
        assert terminal.ended() == ExitCode.OK
        assert terminal.modes == before
        assert "\x1b[?1049l" in terminal.said
        assert "Traceback" not in terminal.said
    worked("cancel", job_id)


def test_ctrl_c_and_a_server_that_goes_away_leave_the_terminal_as_it_was() -> None:
    with (
        EmbeddedServer(private=True) as server,
        on_terminal("top", "--redis-url", server.url, "--interval", "0.1") as terminal,
    ):
        before = terminal.modes
        terminal.wait_for_frame("shows something", lambda lines: "q quit" in "".join(lines))
        server.kill()
        terminal.wait_for_frame("says so", lambda lines: "does not answer" in "".join(lines))
        server.start()
        terminal.wait_for_frame("goes on", lambda lines: "q quit" in "".join(lines))
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == ExitCode.INTERRUPTED
        assert terminal.modes == before
        assert "Traceback" not in terminal.said


def fleet(streams: int, now_ms: int = 100_000, records: int = 10, *, writes: bool = True) -> Fleet:
    return Fleet(
        now_ms=now_ms,
        workers=[WorkerCard(f"w{number}", "h", 1, 2, 9, now_ms, number > 0) for number in range(3)],
        running=[Running(f"job-{number}", "m", 9000, 1000, records, writes) for number in range(streams)],
        last=[EndedLast(f"ended-{number}", "failed", 1, "\x1b[2J[bold]m", None, 5, None) for number in range(20)],
    )


@pytest.mark.parametrize("height", [3, 6, 8, 12, 24, 60])
@pytest.mark.parametrize("streams", [0, 5, 200])
def test_a_frame_never_has_more_lines_than_the_terminal(height: int, streams: int) -> None:
    console = Console(width=100, file=None, record=True, force_terminal=False)
    with console.capture() as captured:
        console.print(Frame(fleet(streams), Watch(), "n").lines(height))
    lines = captured.get().splitlines()
    assert len(lines) <= max(height, 3)
    assert "\x1b[2J" not in captured.get()
    if height >= 12:
        assert any(line.startswith("w0") for line in lines), "the silent worker comes first"


def test_rates_and_first_text_are_told_from_one_look_to_the_next() -> None:
    watch = Watch()
    watch.saw(fleet(1, 100_000, 2, writes=False))
    (each,) = fleet(1, writes=False).running
    assert watch.first(each) == "1.0s…"
    watch.saw(fleet(1, 102_000, 42))
    assert watch.rates == {"job-0": 20.0}
    assert watch.first(fleet(1).running[0]) == "1.0s"
    watch.saw(fleet(0, 103_000))
    assert watch.rates == {}
