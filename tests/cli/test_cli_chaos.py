"""The demo under blows: end to end on the rehearsal, interrupted, killed, and its parts."""

import json
import signal
from collections.abc import Sequence
from io import StringIO

import pytest
from cli_runs import Ran, Start
from rich.console import Console

from tailrace.cli.demo.aftermath import show_chaos
from tailrace.cli.demo.blows import Blow, Check, Victim, break_in, checks, silence
from tailrace.cli.demo.chaos import ChaosPerformance
from tailrace.cli.demo.programme import CHAOS_MAX_TOKENS, expected_chunks
from tailrace.cli.demo.readers import Came, Reader
from tailrace.cli.demo.report import Node
from tailrace.cli.demo.screen import LiveScreen, PlainScreen
from tailrace.cli.exits import ExitCode
from tailrace.cli.output import Output
from tailrace.schemas import (
    END,
    FIRST,
    AttemptRecord,
    Chunk,
    ChunkRecord,
    EndRecord,
    JobRecord,
    Position,
    Record,
    Status,
    UnknownRecord,
)

#: The long answer, faster than for people.
FAST = "rehearsal:pace=0.008"


def test_readers_outlive_two_workers_and_the_server_and_each_blow_is_shown(start: Start) -> None:
    # At the same time, because most of it is waiting.
    plain = start("demo", "--chaos", "--rehearsal", "--model", FAST, server=False)
    told = start("demo", "--chaos", "--rehearsal", "--json", "--model", FAST, server=False)
    for number in (1, 2, 3):  # so that each blow has its time, also on a busy machine
        plain.wait_for(f"# blow {number}")
        told.wait_for(f"# blow {number}", on="err")
    _check_told(told.ended())
    _check_shown(plain.ended())


def _check_told(ran: Ran) -> None:
    assert ran.code == ExitCode.OK, ran.err
    (shown,) = ran.objects
    assert [blow["victim"] for blow in shown["blows"]] == ["worker", "server", "worker"]
    for blow in shown["blows"]:
        assert set(blow["gaps_ms"]) == {"start", "late", "cut"}
        assert blow["gap_ms"] == max(blow["gaps_ms"].values()) > 0
        assert blow["back_ms"] > 0
    assert shown["attempts"] >= 3
    assert len(shown["checks"]) == 5
    assert [check for check in shown["checks"] if not check["kept"]] == []
    assert shown["text"].startswith("Verse 1:\nThey dammed up the river")
    assert shown["text"].endswith("there was missing not one.\n")
    readers = {reader["name"]: reader for reader in shown["readers"]}
    assert all(reader["same_text"] for reader in readers.values())
    # Of the blows the readers' own clients notice nothing that they would have to do something about.
    assert {name: reader["connections"] for name, reader in readers.items()} == {"start": 1, "late": 1, "cut": 2}


def _check_shown(ran: Ran) -> None:
    assert (ran.code, ran.err) == (ExitCode.OK, "")
    lines = ran.out.splitlines()
    kills = [line for line in lines if "KILL -9 of process" in line]
    assert len(kills) == 3
    times = [float(line.split()[0]) for line in kills]
    assert times == sorted(times)
    assert all(line.split()[1] == "s" for line in kills)
    for number in (1, 2, 3):
        assert sum(f"blow {number}: gap " in line for line in lines) == 1
        assert sum(line.startswith(f"  {number}  gap ") for line in lines) == 1
    assert ran.out.count("jobs are handed back (1)") == 2
    assert sum("kept: " in line for line in lines) == 5
    assert "BROKEN" not in ran.out
    assert "attempt 3 by worker" in ran.out


def test_a_text_that_is_over_too_soon_is_said_to_be(start: Start) -> None:
    model = f"rehearsal:pace=0.01,text={'drop%20' * 70}"
    ran = start("demo", "--chaos", "--rehearsal", "--json", "--model", model, server=False).ended()
    assert ran.code == ExitCode.OK, ran.err
    (shown,) = ran.objects
    assert (len(shown["blows"]), shown["missed_blows"]) == (1, 2)
    assert all(check["kept"] for check in shown["checks"])


def test_a_rewind_is_shown_and_the_readers_still_hold_one_text(start: Start) -> None:
    model = f"{FAST},seed_by=call,differ_at=30"
    ran = start("demo", "--chaos", "--rehearsal", "--json", "--model", model, server=False).ended()
    assert ran.code == ExitCode.OK, ran.err
    (shown,) = ran.objects
    assert shown["rewinds"] >= 1
    assert all(check["kept"] for check in shown["checks"])
    assert "# rewind: what stands after" in ran.err
    assert "start ! rewound" in ran.err


@pytest.mark.parametrize("after", ["start *", "the Redis server"])
def test_an_interrupted_chaos_leaves_nothing_running(start: Start, after: str) -> None:
    demo = start("demo", "--chaos", "--rehearsal", "--model", FAST, server=False)
    demo.wait_for(after)
    demo.signal(signal.SIGINT)
    ran = demo.ended()
    assert ran.code == ExitCode.INTERRUPTED
    assert ran.err == "interrupted; everything that the demo started is stopped\n"


def test_a_chaos_that_is_killed_itself_leaves_nothing_running(start: Start) -> None:
    demo = start("demo", "--chaos", "--rehearsal", "--model", FAST, server=False)
    demo.wait_for("start *")
    demo.signal(signal.SIGKILL)
    assert demo.ended().code == -signal.SIGKILL


def test_a_chaos_whose_job_fails_says_why(start: Start) -> None:
    ran = start("demo", "--chaos", "--rehearsal", "--model", "rehearsal:fault=status,code=401", server=False).ended()
    assert ran.code == ExitCode.FAILED
    assert "upstream_auth" in ran.err
    assert "end: failed" in ran.out


def _log(*rest: Record | UnknownRecord) -> list[Record | UnknownRecord]:
    job = JobRecord(position=FIRST, digest="d", incarnation="i", retention_ms=1, api="completions")
    return [job, *rest]


def _attempt(epoch: int, after: str) -> AttemptRecord:
    position = Position(f"{epoch}-0")
    return AttemptRecord(
        position=position, attempt=1, worker="w", nonce="n", incarnation="i", ts=1, after=Position(after)
    )


def _chunk(position: str) -> ChunkRecord:
    return ChunkRecord(position=Position(position), text="x")


def _end(last: str) -> EndRecord:
    return EndRecord(status=Status.COMPLETED, last=Position(last), ts=1)


WHOLE = _log(_attempt(5, "0-1"), _chunk("5-1"), _chunk("5-2"), _attempt(7, "5-2"), _chunk("7-1"), _end("7-1"))


@pytest.mark.parametrize(
    ("records", "broken"),
    [
        (WHOLE, None),
        (_log(_attempt(5, "0-1"), UnknownRecord(position=Position("5-1"), kind="new", raw=""), _end("5-1")), None),
        (_log(_attempt(5, "0-1"), _chunk("5-2")), "chunk record 5-2 does not follow 5-0"),
        (_log(_attempt(5, "0-1"), _chunk("5-1"), _chunk("5-1")), "chunk record 5-1 does not follow 5-1"),
        (_log(_attempt(5, "0-1"), _chunk("6-1")), "chunk record 6-1 does not follow 5-0"),
        (_log(_attempt(5, "0-1"), _chunk("5-1"), _attempt(7, "5-0")), "attempt record 7-0 does not follow 5-1"),
        (_log(_attempt(5, "0-1"), _attempt(4, "5-0")), "attempt record 4-0 does not follow 5-0"),
        (_log(_attempt(5, "0-1"), _chunk("5-1"), _end("5-0")), f"end record {END} does not follow 5-1"),
    ],
)
def test_a_hole_a_repeat_and_an_end_too_soon_break_the_log(
    records: Sequence[Record | UnknownRecord], broken: str | None
) -> None:
    assert break_in(records) == broken


def _readers(*texts: str) -> list[Reader]:
    readers: list[Reader] = []
    for number, text in enumerate(texts):
        reader = Reader(f"r{number}", "reader", lambda _reader, _change: None)
        reader.take(Chunk(text, Position("5-1")), Came.LIVE)
        readers.append(reader)
    return readers


@pytest.mark.parametrize(
    ("texts", "late", "result", "records", "refused", "broken"),
    [
        (("ab", "ab"), "ab", "ab", WHOLE, True, []),
        (("ab", "abb"), "ab", "ab", WHOLE, True, [0]),
        (("ab", "ab"), "a", "ab", WHOLE, True, [1]),
        (("ab", "ab"), "ab", None, WHOLE, True, [2]),
        (("ab", "ab"), "ab", "ab", [*WHOLE[:-2], WHOLE[-1]], True, [3]),
        (("ab", "ab"), "ab", "ab", WHOLE[:-1], True, [4]),
        (("ab", "ab"), "ab", "ab", WHOLE, False, [4]),
    ],
)
def test_each_check_finds_its_promise_broken(
    texts: tuple[str, ...],
    late: str,
    result: str | None,
    records: Sequence[Record | UnknownRecord],
    refused: bool,
    broken: list[int],
) -> None:
    found = checks(_readers(*texts), late=late, result=result, records=records, refused=refused)
    assert [number for number, check in enumerate(found) if not check.kept] == broken


def test_the_gap_is_the_longest_silence_around_the_blow() -> None:
    arrivals = {Position(f"5-{number}"): at for number, at in enumerate((1.0, 4.0, 4.1, 4.2, 6.2, 6.3, 9.0), 1)}
    # The chunk at 4.2 was on its way when the blow fell; the silences of 3 s before and after belong to others.
    assert silence(arrivals, since=4.15, until=Position("5-5")) == pytest.approx(2.0)


def test_a_reader_is_past_a_dead_worker_with_the_next_attempts_first_chunk() -> None:
    blow = Blow(Victim.WORKER, "worker w killed", 2, at=10.0, epoch=5)
    (reader,) = _readers("a")
    reader.arrivals = {Position("5-1"): 9.9, Position("5-2"): 10.1}
    assert not blow.measure([reader])
    assert blow.gap_ms is None
    reader.arrivals[Position("7-1")] = 11.1
    assert blow.measure([reader])
    assert blow.gap_ms == pytest.approx(1000)
    blow.back_at = 10.5
    assert blow.told().startswith("gap 1,000 ms: worker w killed after 2 chunks; next attempt after 500 ms")


def test_a_reader_is_past_a_dead_server_with_the_first_chunk_of_the_next() -> None:
    blow = Blow(Victim.SERVER, "server killed", 2, at=10.0, epoch=5)
    (reader,) = _readers("a")
    reader.arrivals = {Position("5-1"): 9.9, Position("5-2"): 10.3}
    assert not blow.measure([reader])
    blow.back_at = 10.2
    assert blow.measure([reader])
    assert blow.gap_ms == pytest.approx(400)


def test_a_broken_promise_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    first, late, cut = _readers("ab", "ab", "ab")
    performance = ChaosPerformance(
        job_id="j",
        text="ab",
        readers=(first, late, cut),
        tree=Node("job j"),
        blows=[],
        missed=3,
        attempt_count=1,
        rewinds=0,
        checks=[Check("this holds", kept=True, seen="yes"), Check("that holds", kept=False, seen="no")],
        ended=None,
    )
    assert not show_chaos(Output(json=False), performance, "upstream")
    out = capsys.readouterr().out
    assert "BROKEN: no" in out
    assert "before 3 more could fall" in out
    assert not show_chaos(Output(json=True), performance, "upstream")
    shown = json.loads(capsys.readouterr().out)
    assert [check["kept"] for check in shown["checks"]] == [True, False]


def test_blows_are_due_within_the_text_that_can_be_expected() -> None:
    assert expected_chunks(40, rehearsed=False) == expected_chunks(40, rehearsed=True) == 40
    assert expected_chunks(4000, rehearsed=False) == CHAOS_MAX_TOKENS
    assert 120 <= expected_chunks(4000, rehearsed=True) < CHAOS_MAX_TOKENS


def test_notes_stand_among_the_plain_lines_and_below_the_panels(capsys: pytest.CaptureFixture[str]) -> None:
    (reader,) = _readers("a")
    plain = PlainScreen(Output(json=False), timed=True)
    with plain.showing([reader]):
        plain.note("KILL\x1b[2J")
    assert capsys.readouterr().out == "  0.00 s     # KILL\ufffd[2J\n"
    console = Console(width=100, height=30, force_terminal=True, file=StringIO())
    live = LiveScreen(console)
    with live.showing([reader]):
        for number in range(12):
            live.note(f"note {number}\x1b[2J")
    shown = console.file.getvalue() if isinstance(console.file, StringIO) else ""
    assert "note 11\ufffd[2J" in shown
    assert "note 1\ufffd" not in shown
