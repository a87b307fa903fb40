"""The tree of a job's runs: what is folded from events, and the lines that show it."""

import unicodedata
from typing import Any

import pytest
from rich.cells import cell_len

from tailrace.cli.tree import RunTree, State
from tailrace.cli.tree_lines import Room, clock, lines, one_line
from tailrace.schemas import END, RETRY_EVENT, REWIND_EVENT, Position, StreamEvent

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202egnp.exe\u2028漢字" + "e" + "\u0301" * 40 + "\ud800[bold]x[/bold]"


class Told(RunTree):
    """A tree that is told of runs by their paths: `root/plan` is the run `plan` below `root`."""

    seq = 0

    def tell(self, event: str, path: str, ts: int = 0, *, name: str | None = None, **data: Any) -> Position:
        self.seq += 1
        *parents, own = path.split("/")
        said: StreamEvent = {
            "event": event,
            "name": name or own.partition("#")[0],
            "run_id": path,
            "parent_ids": ["/".join(parents[: number + 1]) for number in range(len(parents))],
            "tags": [],
            "metadata": {},
            "data": data,
            "position": Position(f"1-{self.seq}"),
            "job_id": "job",
            "attempt": 1,
            "ts": ts,
        }
        self.fold(said)
        return said["position"]

    def ran(self, path: str, *, failed: bool = False, kind: str = "chain", begun: int = 0, ended: int = 1000) -> None:
        self.tell(f"on_{kind}_start", path, begun)
        if failed:
            self.tell(f"on_{kind}_error", path, ended, error={"type": "step_error", "message": "no such file"})
        else:
            self.tell(f"on_{kind}_end", path, ended, output="went well")

    def says(self, path: str, *texts: str) -> None:
        for text in texts:
            self.tell("on_chat_model_stream", path, chunk={"type": "AIMessageChunk", "content": text})

    def drawn(self, width: int = 100, height: int = 50, now_ms: float = 0, encoding: str = "utf-8") -> list[str]:
        return [line.plain.rstrip() for line in lines(self, Room(width, height, encoding), now_ms)]


@pytest.fixture
def tree() -> Told:
    return Told()


def words(line: str) -> list[str]:
    """Without the columns' blanks."""
    return [part.strip() for part in line.split("  ") if part.strip()]


def test_each_run_is_a_line_under_its_parent_with_state_time_tokens_and_latest_words(tree: Told) -> None:
    tree.tell("on_chain_start", "root", 1000)
    tree.tell("on_chat_model_start", "root/plan", 1000)
    tree.says("root/plan", "a", " plan")
    tree.tell("on_chat_model_end", "root/plan", 1900, output={"content": "a plan"})
    for path, text in (("root/read#1", "first\nthe second line"), ("root/read#2", "another")):
        tree.tell("on_chat_model_start", path, 2000)
        tree.says(path, text)
    root, plan, one, two = tree.drawn(now_ms=3500)
    assert words(root) == ["⠴ root", "chain", "running", "2.5 s", "4 tok"]
    assert words(plan) == ["├─ ✓ plan", "chat_model", "done", "0.9 s", "2 tok", "a plan"]
    assert words(one) == ["├─ ⠴ read", "chat_model", "running", "1.5 s", "1 tok", "the second line"]
    assert words(two) == ["└─ ⠴ read", "chat_model", "running", "1.5 s", "1 tok", "another"]
    assert (
        len({line.index(state) for line, state in zip((root, plan, one), ("running", "done", "running"), strict=True)})
        == 1
    )


def test_a_run_that_failed_shows_its_error(tree: Told) -> None:
    tree.ran("load", failed=True)
    assert words(tree.drawn()[0]) == ["✗ load", "chain", "failed", "1.0 s", "step_error: no such file"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"words": 12}, '{"words": 12}'),
        ({"content": [{"type": "text", "text": "in "}, "blocks"]}, "in blocks"),
        ({"content": "", "tool_calls": [{"name": "look", "args": {"up": 1}}]}, 'look({"up": 1})'),
        ({"generations": [[{"text": "completed"}]]}, "completed"),
        ({"generations": []}, '{"generations": []}'),
        ([1, None], "[1, null]"),
    ],
)
def test_outputs_of_every_shape_are_told_in_a_line(tree: Told, output: Any, said: str) -> None:
    tree.tell("on_chain_start", "run")
    tree.tell("on_chain_end", "run", output=output)
    assert words(tree.drawn()[0])[-1] == said


@pytest.mark.parametrize(
    ("chunk", "said"),
    [
        ("text", "text"),
        ({"content": "", "additional_kwargs": {"reasoning_content": "hm"}}, "hm"),
        ({"content": "", "additional_kwargs": {"refusal": "no"}}, "no"),
        ({"content": "", "tool_call_chunks": [{"name": "look", "args": "{"}]}, "look{"),
        ({"content": "", "response_metadata": {"finish_reason": "stop"}}, "before"),
        (None, "before"),
    ],
)
def test_what_is_not_text_does_not_mix_with_it(tree: Told, chunk: Any, said: str) -> None:
    tree.tell("on_chat_model_start", "run")
    if said == "before":
        tree.says("run", said)
    tree.tell("on_chat_model_stream", "run", chunk=chunk)
    assert words(tree.drawn()[0])[-1] == said


def test_an_answer_does_not_go_on_where_the_reasoning_ended(tree: Told) -> None:
    tree.tell("on_chat_model_start", "run")
    tree.tell("on_chat_model_stream", "run", chunk={"content": "", "additional_kwargs": {"reasoning_content": "hm"}})
    tree.says("run", "yes")
    assert words(tree.drawn()[0])[-1] == "yes"


def test_of_long_text_the_end_is_shown_while_it_grows_and_the_beginning_when_it_is_done(tree: Told) -> None:
    text = " ".join(f"word{number}" for number in range(100))
    tree.tell("on_chat_model_start", "run")
    tree.says("run", text)
    growing = words(tree.drawn()[0])[-1]
    assert growing[0] == "…"
    assert text.endswith(growing[1:])
    tree.tell("on_chat_model_end", "run", output={"content": text})
    done = words(tree.drawn()[0])[-1]
    assert done[-1] == "…"
    assert text.startswith(done[:-1])
    assert len(growing) > 40
    assert len(done) > 40


def test_of_however_deep_a_run_the_name_is_shown(tree: Told) -> None:
    path = "/".join(f"r{depth}" for depth in range(1500))
    tree.tell("on_chain_start", path)
    drawn = tree.drawn(80, 2000)
    assert len(drawn) == 1500
    assert " r1499 " in drawn[-1]


def test_other_choices_count_but_are_not_shown(tree: Told) -> None:
    tree.tell("on_llm_start", "run")
    tree.tell("on_llm_stream", "run", chunk="first")
    tree.tell("on_llm_stream", "run", chunk="second", choice=1)
    assert words(tree.drawn()[0])[-2:] == ["2 tok", "first"]


def test_tokens_are_as_the_upstream_counted_them_and_not_counted_again_by_who_passes_them_on(tree: Told) -> None:
    tree.tell("on_chain_start", "root")
    tree.tell("on_chat_model_start", "root/ask")
    tree.says("root/ask", "two tokens")
    tree.tell("on_chain_stream", "root", chunk="two tokens")
    assert tree.roots[0].tokens == 1
    tree.tell("on_chat_model_end", "root/ask", output={"content": "x", "usage_metadata": {"output_tokens": 2}})
    assert tree.roots[0].tokens == 2


def test_what_happened_in_a_run_stands_below_it_the_latest_of_it(tree: Told) -> None:
    tree.tell("on_chain_start", "index")
    for number in range(30):
        tree.tell("on_custom_event", "index", name="found", value=f"paper {number}")
    tree.tell("on_custom_event", "index", name=RETRY_EVENT, reason="failed", error={"type": "cut", "message": "off"})
    tree.tell("on_custom_event", "index", name="tailrace.progress", done=9, total=12)
    tree.tell("on_custom_event", "index", name="tailrace.progress", done=10, total=12)
    below = [line.strip() for line in tree.drawn()[1:]]
    assert below == [
        "… 28 earlier",
        "• found paper 28",
        "• found paper 29",
        "↻ tried again: cut: off",
        f"{'━' * 20}──── 10 of 12",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"done": 5}, "5 done"),
        ({"done": 5, "total": 0}, "5 done"),
        ({"done": 50, "total": 5}, f"{'━' * 24} 50 of 5"),
        ({"done": -1, "total": 5}, f"{'─' * 24} -1 of 5"),
        ({"done": float("nan")}, '• tailrace.progress {"done": NaN}'),
        ({"done": "all"}, '• tailrace.progress {"done": "all"}'),
    ],
)
def test_progress_of_any_sort_is_shown(tree: Told, fields: dict[str, Any], said: str) -> None:
    tree.tell("on_chain_start", "run")
    tree.tell("on_custom_event", "run", name="tailrace.progress", **fields)
    assert tree.drawn()[1].strip() == said


def test_a_bar_that_is_full_goes_with_its_run(tree: Told) -> None:
    tree.tell("on_chain_start", "run")
    tree.tell("on_custom_event", "run", name="tailrace.progress", done=5, total=5)
    tree.tell("on_chain_end", "run")
    assert len(tree.drawn()) == 1


def test_a_rewind_takes_back_text_tokens_events_and_the_end(tree: Told) -> None:
    tree.tell("on_chat_model_start", "run", 0)
    tree.says("run", "stands")
    stands = Position(f"1-{tree.seq}")
    tree.says("run", " void", " too")
    tree.tell("on_custom_event", "run", name="noticed")
    tree.tell("on_custom_event", "run", name="tailrace.progress", done=1)
    tree.tell("on_chat_model_end", "run", 1000, output={"content": "stands void too"})
    assert tree.roots[0].state is State.DONE
    tree.tell("on_custom_event", "run", name=REWIND_EVENT, position=stands, text="stands")
    run, note = tree.drawn(now_ms=2000)
    assert words(run)[2:] == ["running", "2.0 s", "1 tok", "stands"]
    assert note.strip() == "↶ taken back: 2 tokens; a restarted attempt went another way"
    tree.says("run", " still")
    assert words(tree.drawn()[0])[-1] == "stands still"


def test_a_run_whose_start_is_void_may_begin_again(tree: Told) -> None:
    before = tree.tell("on_chain_start", "root")
    tree.ran("root/step")
    tree.tell("on_custom_event", "root/step", name=REWIND_EVENT, position=before, text="")
    assert words(tree.drawn()[1])[:3] == ["└─ ∅ step", "chain", "void"]
    tree.tell("on_chain_start", "root/step")
    assert words(tree.drawn()[1])[:3] == ["└─ ⠋ step", "chain", "running"]


def test_who_comes_late_sees_runs_whose_start_it_missed(tree: Told) -> None:
    tree.tell("on_chat_model_stream", "root/read/ask", chunk={"content": "late"})
    tree.tell("on_chain_end", "root/read", output="read")
    root, read, ask = tree.drawn(now_ms=5000)
    assert words(root) == ["⠋ …", "running", "1 tok"]
    assert words(read)[:3] == ["└─ ✓ read", "chain", "done"]
    assert words(ask) == ["└─ ⠋ ask", "chat_model", "running", "1 tok", "late"]


def test_an_end_at_the_logs_end_is_an_end(tree: Told) -> None:
    tree.tell("on_chain_start", "root")
    tree.fold({**_an_event(), "event": "on_chain_end", "position": END})
    assert tree.roots[0].settled


def _an_event() -> StreamEvent:
    told: list[StreamEvent] = []

    class Keeping(Told):
        def fold(self, event: StreamEvent) -> None:
            told.append(event)

    Keeping().tell("on_chain_start", "root")
    return told[0]


def test_a_run_that_is_its_own_parent_is_shown_once(tree: Told) -> None:
    tree.fold({**_an_event(), "parent_ids": ["root", "other", "root"]})
    tree.fold({**_an_event(), "run_id": "other", "parent_ids": ["root"]})
    assert len(tree.drawn()) == 2


def test_a_second_attempt_is_told_at_the_root(tree: Told) -> None:
    tree.fold({**_an_event(), "attempt": 2})
    assert words(tree.drawn()[0])[0] == "⠋ root (attempt 2)"


def a_wide_one(tree: Told) -> None:
    """Ten steps that are over, with two runs below each; the fifth failed below; and one that goes on."""
    tree.tell("on_chain_start", "root")
    for number in range(10):
        path = f"root/step#{number}"
        tree.tell("on_chain_start", path)
        tree.ran(f"{path}/ask", kind="chat_model")
        tree.ran(f"{path}/load", failed=number == 4)
        tree.tell("on_custom_event", path, name="found")
        tree.tell("on_chain_error" if number == 4 else "on_chain_end", path, 2000, output="went well")
    tree.tell("on_chain_start", "root/last")
    tree.tell("on_custom_event", "root/last", name="noticed")


def test_with_less_room_notes_of_what_is_over_go_first_then_its_runs_then_neighbours_share_a_line(tree: Told) -> None:
    a_wide_one(tree)
    assert len(tree.drawn(height=50)) == 43
    without_notes = tree.drawn(height=42)
    assert (len(without_notes), "found" in str(without_notes), "noticed" in str(without_notes)) == (33, False, True)
    folded = tree.drawn(height=32)
    assert len(folded) == 13
    assert words(folded[1])[-2:] == ["2 runs below", "went well"]
    together = tree.drawn(height=12)
    assert [words(line)[0] for line in together] == [
        "⠋ root",
        "├─ ✓ step x4",
        "├─ ✗ step",
        "├─ ✓ step x5",
        "└─ ⠋ last",
        "• noticed",
    ]
    assert words(together[2])[-1] == "2 runs below, 1 failed"
    assert len(tree.drawn(height=5)) == 3
    assert tree.drawn(height=2)[1] == "… 11 more runs"


def test_a_root_that_is_over_is_never_folded_away(tree: Told) -> None:
    a_wide_one(tree)
    tree.tell("on_chain_end", "root/last")
    tree.tell("on_chain_end", "root", output="all of it")
    assert len(tree.drawn(height=6)) > 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso8859-1"])
@pytest.mark.parametrize("height", [1, 2, 7, 40])
@pytest.mark.parametrize("width", [1, 2, 20, 45, 71, 72, 200])
def test_whatever_it_is_told_the_tree_stays_in_its_room_and_steers_nothing(
    tree: Told, width: int, height: int, encoding: str
) -> None:
    path = HOSTILE.replace("/", "")
    for depth in range(60):
        tree.tell(f"on_{HOSTILE}_start", "/".join([path] * (depth + 1)))
    for _ in range(3):
        tree.says(path, HOSTILE * 40)
        tree.tell("on_custom_event", path, name=HOSTILE, value={HOSTILE: HOSTILE})
    tree.tell("on_custom_event", path, name=RETRY_EVENT, error={"type": HOSTILE, "message": 1})
    tree.tell("on_chain_error", f"{path}/x", error=HOSTILE)
    drawn = tree.drawn(width, height, encoding=encoding)
    assert 0 < len(drawn) <= height
    for line in drawn:
        assert cell_len(line) <= max(width - 1, 1)
        assert line.encode(encoding)
        assert not [sign for sign in line if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_no_name_of_a_run_is_taken_for_markup(tree: Told) -> None:
    tree.tell("on_chain_start", "[bold]x[end]")
    assert "[bold]x[end]" in tree.drawn()[0]


def test_one_line_keeps_what_people_write_and_no_towers_of_accents() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert one_line("e" + "\u0301" * 99 + "!") == "e\u0301\u0301\u0301!"
    assert one_line(f"naïve\ttext\n 漢字 {family} हिन्दी") == f"naïve text 漢字 {family} हिन्दी"


def test_a_duration_is_told_in_a_few_signs() -> None:
    assert [clock(ms) for ms in (40, 59_900, 61_000, 3_660_000)] == ["0.0 s", "59.9 s", "1:01 m", "1:01 h"]
