"""Commands as processes: signals, pipes, several workers, the shared server. Each test fails if anything is left over."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from cli_runs import PATIENCE_S, Cli, Start, environment

from tailrace.cli.exits import ExitCode
from tailrace.cli.supervisor import pause_after

SLOW = "rehearsal:tokens=120,pace=0.04"
ENDLESS = "rehearsal:fault=endless,pace=0.02"


def test_an_interrupted_tail_says_how_to_go_on_and_that_gives_the_rest(worked: Cli, start: Start) -> None:
    job_id = worked("submit", "hello", "--model", SLOW).out.strip()
    tail = start("tail", job_id, "--namespace", worked.namespace)
    tail.wait_for("token5")
    tail.signal(signal.SIGINT)
    ran = tail.ended()
    assert ran.code == ExitCode.INTERRUPTED
    assert "Traceback" not in ran.err
    advice = shlex.split(ran.err.partition("tailrace tail ")[2])
    assert worked("tail", *advice[: advice.index("--namespace")]).out == worked("tail", job_id).out[len(ran.out) :]


def test_an_interrupted_json_tail_keeps_both_channels_json(worked: Cli, start: Start) -> None:
    job_id = worked("submit", "hello", "--model", SLOW).out.strip()
    tail = start("tail", job_id, "--json", "--namespace", worked.namespace)
    tail.wait_for("token3")
    tail.signal(signal.SIGINT)
    ran = tail.ended()
    assert ran.code == ran.error["exit_code"] == ExitCode.INTERRUPTED
    assert all(one["kind"] == "chunk" for one in ran.objects)


def test_a_reader_that_leaves_ends_the_tail_quietly(worked: Cli) -> None:
    job_id = worked("submit", "hello", "--model", SLOW).out.strip()
    command = [sys.executable, "-m", "tailrace.cli", "tail", job_id]
    where = ["--redis-url", worked.url, "--namespace", worked.namespace]
    with Popen([*command, *where], stdout=PIPE, stderr=PIPE, env=environment({})) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(PATIENCE_S) == ExitCode.OUTPUT_CLOSED
        assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_one_line_and_an_exit_code(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:tokens=4")
    where = ["--redis-url", worked.url, "--namespace", worked.namespace]
    for arguments in (["tail", job_id], ["tail", job_id, "--json"], ["status", job_id]):
        command = [sys.executable, "-m", "tailrace.cli", *arguments, *where]
        with (
            Path("/dev/full").open("wb") as full,
            Popen(command, stdout=full, stderr=PIPE, env=environment({})) as process,
        ):
            assert process.stderr is not None
            errors = process.stderr.read().decode().splitlines()
            assert process.wait(PATIENCE_S) == ExitCode.FAILED
        assert len(errors) == 1
        assert "the output cannot be written: No space left on device" in errors[0]


def test_a_terminated_worker_lets_its_job_end(cli: Cli, start: Start) -> None:
    worker = start("worker", "--rehearsal", "--json", "--namespace", cli.namespace)
    worker.wait_for('"ready"')
    job_id = cli("submit", "hello", "--model", SLOW).out.strip()
    tail = start("tail", job_id, "--namespace", cli.namespace)
    tail.wait_for("token2")
    worker.signal(signal.SIGTERM)
    assert worker.ended().code == ExitCode.OK
    assert tail.ended().out.endswith("token119")
    assert "serves namespace" in worker.err


def test_a_second_signal_hands_the_job_back_at_once(cli: Cli, start: Start) -> None:
    worker = start("worker", "--rehearsal", "--json", "--namespace", cli.namespace)
    worker.wait_for('"ready"')
    job_id = cli("submit", "hello", "--model", ENDLESS).out.strip()
    tail = start("tail", job_id, "--namespace", cli.namespace)
    tail.wait_for("token2")
    worker.signal(signal.SIGINT)
    worker.wait_for("draining", on="err")
    worker.signal(signal.SIGINT)
    assert worker.ended().code == ExitCode.INTERRUPTED
    assert cli("status", job_id).out.startswith("in_progress")
    events = cli("cancel", job_id), tail.ended()
    assert [ran.code for ran in events] == [ExitCode.OK, ExitCode.CANCELLED]


def test_a_dead_worker_process_is_replaced_and_all_end_with_their_supervisor(cli: Cli, start: Start) -> None:
    supervisor = start("worker", "--processes", "2", "--rehearsal", "--json", "--namespace", cli.namespace)
    supervisor.wait_for('"ready"')
    pids = json.loads(supervisor.out)["pids"]
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    supervisor.wait_for("takes jobs", times=3, on="err")
    assert cli("submit", "hello", "--model", "rehearsal:text=done", "--tail").out == "done"
    supervisor.signal(signal.SIGTERM)
    assert supervisor.ended().code == ExitCode.OK


def test_the_job_of_a_dead_worker_process_goes_on_long_before_its_lease_ends(cli: Cli, start: Start) -> None:
    # Far above the test's patience: only a hand-back can bring the job to its end.
    env = {"TAILRACE_WORKER": '{"lease_s": 120}'}
    supervisor = start("worker", "--processes", "2", "--rehearsal", "--json", "--namespace", cli.namespace, **env)
    supervisor.wait_for('"ready"')
    job_id = cli("submit", "hello", "--model", SLOW).out.strip()
    tail = start("tail", job_id, "--records", "--json", "--namespace", cli.namespace)
    tail.wait_for("token5")
    records = [json.loads(line) for line in tail.out.splitlines() if line.endswith("}")]
    worker = next(record["worker"] for record in records if record["kind"] == "attempt")
    os.kill(int(worker.split("-")[-2]), signal.SIGKILL)
    ran = tail.ended()
    assert ran.code == ExitCode.OK
    assert [record["attempt"] for record in ran.objects if record["kind"] == "attempt"] == [1, 2]
    assert cli("tail", job_id).out == "".join(f" token{number}" for number in range(120))
    assert "handed back" in supervisor.err
    supervisor.signal(signal.SIGTERM)
    assert supervisor.ended().code == ExitCode.OK


def test_worker_processes_end_when_their_supervisor_is_killed(cli: Cli, start: Start) -> None:
    supervisor = start("worker", "--processes", "2", "--rehearsal", "--json", "--namespace", cli.namespace)
    supervisor.wait_for('"ready"')
    supervisor.signal(signal.SIGKILL)
    assert supervisor.process.wait(PATIENCE_S) < 0  # and the fixture sees to it that nothing is left


def test_the_pause_before_a_restart_doubles_up_to_half_a_minute() -> None:
    assert [pause_after(deaths) for deaths in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert pause_after(1000) == 30


def test_all_commands_find_the_same_embedded_server_until_it_is_stopped(start: Start, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        return start(*arguments, server=False, TAILRACE_DATA=str(tmp_path / "data")).ended().out

    job_id = said("submit", "hello").strip()
    assert said("status", job_id).startswith("queued\n")
    assert said("stop") == "stopped\n"
    assert said("stop") == "it was not running\n"
