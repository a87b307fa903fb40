"""What holds for all logs: random ones, with rewinds and with servers that lose their last records."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from view_logs import Log, answer_by_models, shown_text, what_stands

from tailrace.schemas import REWIND_EVENT, Entry, Finish, OpenPart, Position, StreamEvent, parse_position
from tailrace.views import EventsView, ResultView, Rewound, TextView

RUNS = (0, 1, 2)
PARTS = ("text", "reasoning", "refusal", "tool_call")

runs = st.sampled_from((0, 0, 0, 1, 2))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("chunk"), runs),
        st.tuples(st.just("chunk"), runs),
        st.tuples(st.just("open"), runs, st.sampled_from(PARTS), st.integers(0, 1)),
        st.tuples(st.just("start"), runs),
        st.tuples(st.just("custom"), runs),
        st.tuples(st.just("finish"), runs),
        st.tuples(st.just("rewind"), runs, st.integers(0, 3)),
        st.tuples(st.just("rewind"), runs, st.integers(0, 12)),
        st.tuples(st.just("stop"), runs),
        st.tuples(st.just("lose"), st.integers(0, 3)),
        st.tuples(st.just("attempt")),
        st.tuples(st.just("strange"), st.integers(0, 3)),
    ),
    min_size=4,
    max_size=40,
)
STRANGE = (
    ("telemetry", "{}"),
    ("delta", '{"delta": {"type": "video", "frames": 1}}'),
    ("event", '{"event": "on_thought", "run_id": "run-0", "name": "x", "ts": 5}'),
    ("event", "no JSON"),
)
#: How many of a log's first entries never become void: the starts of all runs among them, or not.
STARTED = 5
FIRST_ATTEMPT = 2


def written(steps_: Sequence[tuple[Any, ...]], *, floor: int = STARTED) -> Log:
    log = Log()
    log.attempt()
    for run in RUNS:
        log.start("llm", run, parents=[0] if run else [])
    for number, step in enumerate(steps_):
        match step:
            case ("chunk", run):
                log.chunk(f"<{number}>", run)
            case ("open", run, part, choice):
                log.delta(OpenPart(part=part, choice=choice, id=f"c{number}", name="tool"), run)
            case ("start", run):
                log.start("chat_model", run)
            case ("custom", run):
                log.event("on_custom_event", run, name="note", data={"n": number})
            case ("finish", run):
                log.delta(Finish(reason=f"r{number}"), run)
            case ("rewind", run, n):
                log.rewind(_back(log, n, floor), run)
            case ("stop", run):
                log.event("on_llm_end", run, data={"output": f"{number}"})
            case ("lose", n):
                log.lose(_back(log, n, floor))
                log.attempt(replay=True)
            case ("attempt",):
                log.attempt()
            case ("strange", n):
                field, value = STRANGE[int(n)]
                log.raw(field, value)
            case _:
                raise AssertionError(step)
    return log


def _back(log: Log, n: int, floor: int) -> Position:
    """The position n entries before the top."""
    return log.entries[max(floor - 1, len(log.entries) - 1 - n)].position


def batches(entries: Sequence[Entry], sizes: Sequence[int]) -> list[Sequence[Entry]]:
    cut: list[Sequence[Entry]] = []
    at = 0
    for size in sizes:
        cut.append(entries[at : at + size])
        at += size
    return [*cut, entries[at:]]


def untimed(events: Sequence[StreamEvent]) -> list[dict[str, object]]:
    """Void records tell the time too: without them the clock of what follows may differ."""
    return [{**event, "ts": 0} for event in events]


sizes = st.lists(st.integers(0, 6), max_size=12)


@given(steps, sizes)
@settings(max_examples=300)
def test_a_fold_of_a_log_is_the_fold_of_what_stands_in_it(steps_: list[tuple[Any, ...]], sizes_: list[int]) -> None:
    log = written(steps_, floor=FIRST_ATTEMPT)
    stands = what_stands(log.entries)
    probe_from = len(log.seen)
    for run in RUNS:
        log.chunk("probe", run)
        log.event("on_custom_event", run, name="probe", data={})
        log.start("tool", run)
    log.end()
    probe, seen = log.seen[probe_from:], log.seen[:probe_from]

    text, pure_text = TextView(), TextView()
    events, pure_events = EventsView("j"), EventsView("j")
    result, pure_result = ResultView("j"), ResultView("j")
    for batch in batches(seen, sizes_):
        text.feed(batch)
        events.feed(batch)
        result.feed(batch)
    for view in (pure_text, pure_events, pure_result):
        view.feed(stands)
    assert [text.feed([entry]) for entry in probe] == [pure_text.feed([entry]) for entry in probe]
    assert untimed(events.feed(probe)) == untimed(pure_events.feed(probe))
    result.feed(probe)
    pure_result.feed(probe)
    assert result.result() == pure_result.result()
    assert text.end == events.end == result.end is not None


@given(steps, sizes)
def test_a_reader_of_text_ends_with_what_stands_however_it_was_sent(
    steps_: list[tuple[Any, ...]], sizes_: list[int]
) -> None:
    log = written(steps_)
    view = TextView()
    items = [item for batch in batches(log.seen, sizes_) for item in view.feed(batch)]
    assert shown_text(items) == answer_by_models(what_stands(log.entries))
    result = ResultView("j")
    result.feed(log.seen)
    assert result.result().text == shown_text(items)


@given(steps)
def test_a_late_reader_gets_only_what_stands(steps_: list[tuple[Any, ...]]) -> None:
    log = written(steps_)
    items = TextView().feed(log.entries)
    assert not any(isinstance(item, Rewound) for item in items)
    assert shown_text(items) == answer_by_models(what_stands(log.entries))


def _tail(make: Callable[[], Any], entries: Sequence[Entry], cut: int) -> tuple[list[object], list[object]]:
    """What a reader gets after `cut` entries: one who stayed, and one who left there and resumed."""
    stayed, resumed = make(), make()
    for entry in entries[:cut]:
        stayed.feed([entry])
    assert resumed.feed(entries[:cut], show=False) == []
    if cut:
        resumed.resume(entries[cut - 1].position)
    rest = entries[cut:]
    return [stayed.feed([entry]) for entry in rest], [resumed.feed([entry]) for entry in rest]


@given(steps, st.booleans())
@settings(max_examples=80)
def test_a_reader_cut_anywhere_resumes_with_the_rest_of_the_full_stream(
    steps_: list[tuple[Any, ...]], filtered: bool
) -> None:
    log = written(steps_, floor=FIRST_ATTEMPT)
    log.end()
    types = ["chat_model"] if filtered else None
    for cut in range(len(log.entries) + 1):
        for make in (TextView, lambda: EventsView("j", include_types=types, include_tags=["tag-1"] if types else None)):
            stayed, resumed = _tail(make, log.entries, cut)
            assert resumed == stayed


@given(steps, st.data())
def test_a_reader_cut_anywhere_ends_with_what_stands_even_if_its_position_is_lost(
    steps_: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    log = written(steps_)
    cut = data.draw(st.integers(1, len(log.seen)))
    at = log.seen[cut - 1].position
    before = [e for e in log.entries if parse_position(e.position) <= parse_position(at)]
    after = log.entries[len(before) :]

    stayed, resumed = TextView(), TextView()
    screen = shown_text(item for entry in log.seen[:cut] for item in stayed.feed([entry]))
    resumed.feed(before, show=False)
    resumed.resume(at)
    stands = answer_by_models(what_stands(log.entries))
    assert shown_text(resumed.feed(after), screen) == stands

    events, events_resumed = EventsView("j"), EventsView("j")
    first = events.feed(log.seen[:cut])
    events_resumed.feed(before, show=False)
    events_resumed.resume(at)
    assert _root_text([*first, *events_resumed.feed(after)]) == stands


def _root_text(events: Sequence[StreamEvent]) -> str:
    text = ""
    for event in events:
        if event["run_id"] != "run-0":
            continue
        if event["name"] == REWIND_EVENT:
            text = str(event["data"]["text"])
        elif event["event"] == "on_llm_stream" and "choice" not in event["data"]:
            text += str(event["data"]["chunk"])
    return text


@given(steps, sizes)
def test_events_do_not_depend_on_how_the_log_is_cut_into_calls(
    steps_: list[tuple[Any, ...]], sizes_: list[int]
) -> None:
    log = written(steps_)
    view = EventsView("j")
    assert [e for batch in batches(log.seen, sizes_) for e in view.feed(batch)] == EventsView("j").feed(log.seen)


@given(steps)
def test_the_hot_path_reads_chunks_as_the_models_do(steps_: list[tuple[Any, ...]]) -> None:
    log = written([step for step in steps_ if step[0] in ("chunk", "open", "attempt", "strange")])
    decodable = [entry for entry in log.entries if (entry.field, entry.value) not in STRANGE]
    assert shown_text(TextView().feed(log.entries)) == answer_by_models(decodable)
