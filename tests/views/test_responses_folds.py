"""What holds for the Responses events of all logs: random ones, with rewinds and with servers that lose records."""

import json
from collections.abc import Sequence
from itertools import takewhile
from random import Random
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from response_clients import bodies, check_story
from response_logs import JOB, NATIVE_USAGE, native_script
from test_view_folds import FIRST_ATTEMPT, batches, sizes, steps, written
from view_logs import Log

from tailrace.schemas import START, Entry, Position, Status
from tailrace.views import ResponsesView, Rewound, response_object, result_of

ends = st.sampled_from([None, *[status for status in Status if status.ended]])
scripted = st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["Bubbles", "Bubbly", "Foam", "Bubbles!"]))


def log_of(steps_: Sequence[tuple[Any, ...]], end: Status | None = Status.COMPLETED) -> Log:
    log = written(steps_, floor=FIRST_ATTEMPT)
    if end is not None:
        log.end(end)
    return log


def one_choice(steps_: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*step[:3], 0) if step[0] == "open" else step for step in steps_]


def native_of(cut: int, back: int, word: str, ids: str) -> Log:
    """A response cut after some records; the next attempt's is another from some record on, or the same."""
    script, again = native_script("one")[:cut], native_script(ids, word=word)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(script, again, strict=False)))
    stands = max(0, alike - back)
    log = Log("responses")
    positions: list[Position] = [log.attempt().position]
    positions += [log.raw(field, value).position for field, value in script]
    log.attempt()
    log.rewind(positions[stands])
    for field, value in again[stands:]:
        log.raw(field, value)
    log.end(usage=NATIVE_USAGE)
    return log


def told(entries: Sequence[Entry]) -> list[Any]:
    return bodies(ResponsesView(JOB).feed(entries))


@given(steps, ends)
@settings(deadline=None)
def test_the_openai_package_reads_any_log_to_the_end(steps_: list[tuple[Any, ...]], end: Status | None) -> None:
    log = log_of(steps_, end)
    response: Any = response_object(JOB, log.entries)
    check_story(told(log.entries), response)
    assert end is None or "in_progress" not in {item["status"] for item in response["output"]}


@given(scripted, st.sampled_from(["one", "two"]))
@settings(deadline=None)
def test_the_openai_package_reads_any_restart_of_a_native_response(cut: tuple[int, int, str], ids: str) -> None:
    at, back, word = cut
    log = native_of(at, back, word, ids)
    check_story(told(log.entries), response_object(JOB, log.entries))


@given(steps, ends)
def test_the_text_of_the_response_is_the_text_of_the_result(steps_: list[tuple[Any, ...]], end: Status | None) -> None:
    log = log_of(one_choice(steps_), end)
    response: Any = response_object(JOB, log.entries)
    messages = [item for item in response["output"] if item["type"] == "message"]
    texts = [part["text"] for item in messages for part in item["content"] if part["type"] == "output_text"]
    assert "".join(texts) == result_of(JOB, log.entries).text


@given(steps, ends, sizes)
def test_events_and_numbers_do_not_depend_on_how_the_log_is_cut_into_calls(
    steps_: list[tuple[Any, ...]], end: Status | None, sizes_: list[int]
) -> None:
    log = log_of(steps_, end)
    view = ResponsesView(JOB)
    assert [item for batch in batches(log.entries, sizes_) for item in view.feed(batch)] == ResponsesView(JOB).feed(
        log.entries
    )


@given(steps, st.integers(0, 60), st.integers(0, 60))
def test_cut_anywhere_and_resumed_behind_any_number_the_stream_is_the_same(
    steps_: list[tuple[Any, ...]], cut: int, number: int
) -> None:
    log = log_of(steps_)
    before, after = log.entries[:cut], log.entries[cut:]
    whole = told(log.entries)
    shown = told(before)
    number = min(number, len(shown) - 1)
    assert shown[: number + 1] + told(log.entries)[number + 1 :] == whole

    late = ResponsesView(JOB)
    assert late.feed(before, show=False) == []
    late.resume(before[-1].position if before else START)
    assert shown + bodies(late.feed(after)) == whole


@given(steps)
def test_a_reader_whose_server_lost_records_has_the_stream_of_the_log_or_is_told(steps_: list[tuple[Any, ...]]) -> None:
    log = log_of(steps_)
    view = ResponsesView(JOB)
    shown = [item for entry in log.seen for item in view.feed([entry])]
    if not isinstance(shown[-1], Rewound):
        assert bodies(shown) == told(log.entries)
        assert view.response() == response_object(JOB, log.entries)


#: What an upstream may send in the place of anything.
NONSENSE: list[Any] = [None, True, 0, -1, 3, 1.5, "x", "", [], [1], {}, {"id": [1]}, {"type": "message", "id": "m"}]


def mangled(value: Any, random: Random) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        kept = {name: inner for name, inner in fields.items() if name == "type" or random.random() > 0.05}
        return {
            name: random.choice(NONSENSE) if random.random() < 0.1 and name != "type" else mangled(inner, random)
            for name, inner in kept.items()
        }
    if isinstance(value, list):
        return [mangled(inner, random) for inner in cast("Sequence[Any]", value)]
    return value


@given(st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_nonsense_of_an_upstream_breaks_no_stream(random: Random) -> None:
    log = Log("responses")
    positions = [log.attempt().position]
    for ids in ("one", random.choice(["one", "two"])):
        for field, value in native_script(ids):
            delta: dict[str, Any] = json.loads(value) if field == "delta" else {}
            if "event" in delta.get("delta", ()):
                delta["delta"]["event"] = mangled(delta["delta"]["event"], random)
                value = json.dumps(delta)
            positions.append(log.raw(field, value).position)
        log.rewind(random.choice(positions))
    log.end()
    events = told(log.entries)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == response_object(JOB, log.entries)
