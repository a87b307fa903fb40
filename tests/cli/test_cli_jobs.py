"""submit, tail, status, cancel, delete: what they print and how they end."""

import json
import subprocess
import sys
from typing import Any, cast

import pytest
import redis as blocking
from cli_runs import Cli, environment, run

from tailrace.cli.exits import ExitCode
from tailrace.schemas import END, Keys

NOBODY = "redis://127.0.0.1:1"
BROKEN = "rehearsal:tokens=20,fault=cut,at=10,times=1,seed_by=call,differ_at=5,key=rewinding"
"""A first attempt that breaks off after ten tokens, and a second one that goes another way after five."""


def test_submit_prints_the_id_and_nothing_else(cli: Cli) -> None:
    ran = cli("submit", "hello")
    assert ran.code == ExitCode.OK
    assert ran.err == ""
    assert cli("status", ran.out.strip()).out.startswith("queued\n")


def test_submit_as_json_gives_the_id(cli: Cli) -> None:
    (only,) = cli("submit", "hello", "--json").objects
    assert cli("status", only["job_id"], "--json").objects[0]["status"] == "queued"


@pytest.mark.parametrize("argument", [[], ["-"]])
def test_a_piped_prompt_is_read_without_its_last_line_end(cli: Cli, argument: list[str]) -> None:
    ran = cli("submit", *argument, "--job-id", "piped", stdin="two\nlines\n")
    assert ran.code == ExitCode.OK
    assert cli("submit", "two\nlines", "--job-id", "piped").code == ExitCode.OK


def test_a_prompt_that_is_not_utf_8_is_refused(cli: Cli) -> None:
    ran = cli("submit", "-", stdin=b"\xff\xfe")
    assert ran.code == ExitCode.USAGE
    assert "UTF-8" in ran.err


def test_options_reach_the_request(cli: Cli) -> None:
    job_id = cli(
        *("submit", "hello", "--model", "m", "--tag", "a", "--tag", "b", "--metadata", "who=me"),
        *("--deadline", "2m", "--param", "top_p=0.5", "--param", "user=x", "--max-tokens", "7"),
    ).out.strip()
    job = cli("status", job_id, "--json").objects[0]["job"]
    assert (job["model"], job["tags"], job["metadata"]) == ("m", ["a", "b"], {"who": "me"})
    assert job["deadline"] - job["ts"] == 120_000


@pytest.mark.parametrize(
    ("argument", "stored"),
    [('{"topic": "otters"}', {"topic": "otters"}), ("otters", "otters"), ("-", "piped"), ("", None)],
)
def test_a_task_gets_its_input_as_json_or_text(cli: Cli, argument: str, stored: object) -> None:
    job_id = cli("submit", argument, "--task", "research", "--then", "index", stdin="piped\n").out.strip()
    with cast("Any", blocking.Redis).from_url(cli.url) as redis:
        request = json.loads(redis.get(Keys(cli.namespace).request(job_id)))["request"]
    assert (request["api"], request["task"], request.get("input"), request["then"]) == (
        "task",
        "research",
        stored,
        "index",
    )


def test_the_same_id_and_request_is_the_same_job_and_another_request_a_conflict(cli: Cli) -> None:
    for _ in range(2):
        assert cli("submit", "hello", "--job-id", "mine").out == "mine\n"
    ran = cli("submit", "other", "--job-id", "mine")
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "taken" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", ""],
        ["submit", "x", "--metadata", "novalue"],
        ["submit", "x", "--param", "base_url=http://x"],
        ["submit", "x", "--param", "temperature=1", "--temperature", "0"],
        ["submit", "x", "--deadline", "soon"],
        ["submit", "x", "--api", "nonsense"],
        ["submit", "x", "--no-such-option"],
        ["submit", "x", "--job-id", "a b"],
        ["tail", "x", "--after", "nowhere"],
        ["tail", "x", "--events", "--records"],
        ["worker", "--rehearsal", "--local-model"],
        ["demo", "--rehearsal", "--local-model"],
    ],
)
def test_what_is_no_request_ends_with_usage_and_no_traceback(arguments: list[str]) -> None:
    # Nobody is there: it must not even be asked.
    where = [] if arguments[0] in ("demo", "worker") else ["--redis-url", NOBODY]
    ran = run(*arguments, *where) if arguments[0] != "worker" else run("worker", "--processes", "0")
    assert (ran.code, ran.out) == (ExitCode.USAGE, "")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", ["tail", "status", "cancel", "delete"])
def test_an_unknown_job_is_not_found(cli: Cli, command: str) -> None:
    ran = cli(command, "nobody")
    assert (ran.code, ran.out) == (ExitCode.NOT_FOUND, "")
    assert ran.err.count("\n") == 1
    assert "'nobody'" in ran.err


def test_an_error_as_json_is_one_object_on_standard_error(cli: Cli) -> None:
    ran = cli("status", "nobody", "--json")
    assert ran.out == ""
    assert ran.error["type"] == "JobNotFound"
    assert ran.error["exit_code"] == ran.code == ExitCode.NOT_FOUND


def test_no_server_ends_with_broker() -> None:
    ran = run("submit", "hello", "--redis-url", NOBODY)
    assert (ran.code, ran.out) == (ExitCode.BROKER, "")
    assert "Redis" in ran.err


def test_a_configuration_that_cannot_be_read_ends_with_usage(cli: Cli) -> None:
    assert cli("submit", "hello", "--config", "/nowhere/tailrace.toml").code == ExitCode.USAGE


def test_tail_gives_the_text_and_only_the_text(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:text=one two three")
    ran = worked("tail", job_id)
    assert (ran.code, ran.out, ran.err) == (ExitCode.OK, "one two three", "")


def test_submit_with_tail_keeps_the_id_out_of_the_text(worked: Cli) -> None:
    ran = worked("submit", "hello", "--model", "rehearsal:text=one two three", "--tail")
    assert (ran.code, ran.out) == (ExitCode.OK, "one two three")
    assert worked("status", ran.err.split()[-1]).out.startswith("completed\n")


def test_a_json_tail_resumed_at_any_position_gives_the_rest(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:tokens=6")
    *chunks, end = worked("tail", job_id, "--json").objects
    assert (end["kind"], end["status"], end["position"]) == ("end", "completed", END)
    assert "".join(chunk["text"] for chunk in chunks) == worked("tail", job_id).out
    for number, chunk in enumerate(chunks):
        assert worked("tail", job_id, "--json", "--after", chunk["position"]).objects == [*chunks[number + 1 :], end]


def test_a_tail_from_the_end_gives_nothing_and_succeeds(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:tokens=3")
    ran = worked("tail", job_id, "--after", END)
    assert (ran.code, ran.out) == (ExitCode.OK, "")


def test_events_come_one_a_line_with_positions(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:tokens=3")
    events = worked("tail", job_id, "--events", "--json").objects
    names = [event["event"] for event in events]
    assert names == [
        "on_chat_model_start",
        *["on_chat_model_stream"] * 4,
        "on_chat_model_end",
    ]  # the last one has the finish reason
    lines = worked("tail", job_id, "--events").out.splitlines()
    assert [line.split()[:2] for line in lines] == [[event["position"], event["event"]] for event in events]


def test_records_come_one_a_line_from_the_job_to_the_end(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:tokens=2")
    kinds = [record["kind"] for record in worked("tail", job_id, "--records", "--json").objects]
    assert kinds == ["job", "attempt", "event", "chunk", "chunk", "delta", "end"]
    assert [line.split()[1] for line in worked("tail", job_id, "--records").out.splitlines()] == kinds


def test_a_failed_job_ends_the_tail_with_failed_after_what_came(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:tokens=9,fault=error_data,at=4", "--max-attempts", "1")
    ran = worked("tail", job_id)
    assert ran.code == ExitCode.FAILED
    assert ran.out == " token0 token1 token2 token3"
    assert ran.err.startswith("error: ")
    *_, end = worked("tail", job_id, "--json").objects
    assert (end["status"], end["error"]["type"]) == ("failed", "JobFailed")
    assert "reason" in worked("status", job_id).out


def test_a_cancelled_job_ends_the_tail_with_cancelled(cli: Cli) -> None:
    job_id = cli("submit", "hello").out.strip()
    ran = cli("cancel", job_id)
    assert (ran.code, ran.out) == (ExitCode.OK, "cancelled\n")
    assert cli("tail", job_id).code == ExitCode.CANCELLED


def test_cancelling_what_has_ended_says_how_it_ended(worked: Cli) -> None:
    job_id = worked.finished("rehearsal:tokens=1")
    ran = worked("cancel", job_id)
    assert (ran.code, ran.out) == (ExitCode.OK, "completed\n")
    assert "ended before" in ran.err


def test_a_deleted_job_is_not_found(cli: Cli) -> None:
    job_id = cli("submit", "hello").out.strip()
    assert cli("delete", job_id).code == ExitCode.OK
    assert cli("tail", job_id).code == ExitCode.NOT_FOUND


def test_a_rewind_ends_a_piped_tail_and_is_told_in_json(worked: Cli) -> None:
    job_id = worked.finished(BROKEN)
    records = worked("tail", job_id, "--records", "--json").objects
    at = next(number for number, record in enumerate(records) if record["kind"] == "rewind")
    void = next(record["position"] for record in reversed(records[:at]) if record["kind"] == "chunk")
    whole = worked("tail", job_id).out

    plain = worked("tail", job_id, "--after", void)
    assert (plain.code, plain.out) == (ExitCode.FAILED, "")
    assert "rewound" in plain.err

    first, *rest, end = worked("tail", job_id, "--after", void, "--json").objects
    assert (first["kind"], end["status"]) == ("rewind", "completed")
    assert first["text_before"] + "".join(chunk["text"] for chunk in rest) == whole


def test_the_help_lists_every_exit_code() -> None:
    epilog = " ".join(run("--help").out.split())
    for code in ExitCode:
        assert f" {code.value} " in epilog


def test_the_version_is_shown() -> None:
    assert run("--version").out.startswith("tailrace 0.")


@pytest.mark.parametrize("command", ["submit", "tail"])
def test_submitting_and_following_load_neither_openai_nor_arq(command: str) -> None:
    code = (
        "import sys; from tailrace.cli import app\n"
        f"try: app(['{command}', 'x', '--redis-url', '{NOBODY}'])\n"
        "except SystemExit as ended: print(ended.code)\n"
        "import json; print(json.dumps(sorted({'openai', 'arq', 'aiohttp', 'httpx2'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment({}))
    ended, loaded = done.stdout.splitlines()
    assert (int(ended), json.loads(loaded)) == (ExitCode.BROKER, [])
