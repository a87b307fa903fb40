"""Events in LangChain's shape: golden examples, runs, rewinds, ends and filters."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from view_logs import Log

from tailrace.schemas import (
    END,
    RETRY_EVENT,
    REWIND_EVENT,
    ErrorDetail,
    EventsVersion,
    Extra,
    Finish,
    InvalidRequest,
    Logprobs,
    OpenPart,
    Position,
    Status,
    StreamEvent,
)
from tailrace.views import EventsView

GOLDEN = Path(__file__).parent / "golden"


def completion() -> Log:
    log = Log()
    log.attempt()
    log.start()
    log.chunk("Bub")
    log.chunk("bles")
    log.delta(Finish(reason="stop"))
    log.end(finish_reason="stop", usage={"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4})
    return log


def chat() -> Log:
    log = Log("chat", "gpt-4o-mini")
    log.attempt()
    log.start("chat_model")
    log.delta(OpenPart(part="reasoning"))
    log.chunk("hm")
    log.delta(OpenPart())
    log.chunk("Let me look.")
    log.delta(Logprobs(logprobs={"content": [{"token": "Let"}]}))
    log.delta(Logprobs(logprobs={"content": [{"token": " me"}]}))
    log.delta(OpenPart(part="tool_call", id="a", name="tide"))
    log.chunk('{"at":')
    log.delta(OpenPart(part="tool_call", index=1, id="b", name="moon"))
    log.chunk("{oops")
    log.delta(OpenPart(part="tool_call"))
    log.chunk('"sea"}')
    log.delta(Extra(fields={"annotations": []}))
    log.delta(Finish(reason="tool_calls"))
    log.end(
        finish_reason="tool_calls",
        usage={
            "prompt_tokens": 9,
            "completion_tokens": 7,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    )
    return log


def pipeline() -> Log:
    """A task: a chain with a chat model and a tool below it."""
    log = Log("task")
    log.attempt()
    log.event("on_chain_start", name="poet", run_id="run-0", tags=["t"], metadata={"m": 1}, data={"input": "sea"})
    log.start("chat_model", 1, parents=[0])
    log.chunk("Waves", 1)
    log.event("on_chat_model_end", 1, data={"output": {"type": "ai", "content": "Waves"}}, ts=8)
    log.start("tool", 2, parents=[0, 1])
    log.event("on_custom_event", 2, name="progress", data={"share": 0.5}, ts=9)
    log.event("on_tool_error", 2, data={"error": {"type": "ValueError", "message": "no"}}, ts=10)
    log.event("on_custom_event", name=RETRY_EVENT, data={"reason": "overloaded"}, ts=11)
    log.chunk("A poem")
    log.end()
    return log


def events(log: Log, version: EventsVersion = "v2", **filters: Any) -> list[StreamEvent]:
    return EventsView("j1", version, **filters).feed(log.entries)


def told(shown: list[StreamEvent]) -> list[str]:
    return [event["event"] for event in shown]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("log", [completion, chat, pipeline])
def test_events_look_as_in_the_golden_files(log: Any, version: EventsVersion) -> None:
    golden = json.loads((GOLDEN / f"{log.__name__}.{version}.json").read_text())
    assert cast("list[dict[str, Any]]", events(log(), version)) == golden


def test_parents_are_run_ids_outermost_first_and_empty_in_v1() -> None:
    tool = [event for event in events(pipeline()) if event["run_id"] == "run-2"]
    assert {tuple(event["parent_ids"]) for event in tool} == {("run-0", "run-1")}
    assert {tuple(event["parent_ids"]) for event in events(pipeline(), "v1")} == {()}


def test_later_events_of_a_run_carry_the_names_of_its_start() -> None:
    end = next(event for event in events(pipeline()) if event["event"] == "on_chat_model_end")
    assert (end["name"], end["run_id"], end["tags"], end["metadata"]) == (
        "chat_model-1",
        "run-1",
        ["tag-1"],
        {"step": 1},
    )


def test_a_start_is_shown_once_however_many_attempts_there_are() -> None:
    log = Log()
    log.attempt()
    log.start()
    first = log.chunk("Bub")
    log.attempt()
    log.start()
    second = log.chunk("bles")
    shown = events(log)
    assert told(shown) == ["on_llm_start", "on_llm_stream", "on_llm_stream"]
    assert [(e["position"], e["attempt"]) for e in shown[1:]] == [(first.position, 1), (second.position, 2)]


def test_a_start_that_became_void_is_shown_when_it_is_written_again() -> None:
    log = Log()
    attempt = log.attempt()
    log.start()
    log.rewind(attempt.position)
    log.start()
    assert told(events(log)) == ["on_llm_start", "on_custom_event", "on_llm_start"]


def test_a_run_whose_end_became_void_ends_with_the_job() -> None:
    log = pipeline()
    log.entries.pop()
    stands = log.top
    log.event("on_chain_end", data={"output": [1]})
    log.rewind(stands)
    log.end()
    assert events(log)[-1]["data"] == {"output": "A poem"}


def test_a_rewind_is_a_custom_event_of_its_run_that_tells_what_stands() -> None:
    log = Log()
    log.attempt()
    log.start()
    stands = log.chunk("Bub")
    log.chunk("bels")
    rewind = log.rewind(stands.position)
    event = events(log)[-1]
    assert (event["event"], event["name"], event["run_id"]) == ("on_custom_event", REWIND_EVENT, "run-0")
    assert event["data"] == {"position": stands.position, "text": "Bub"}
    assert (event["position"], event["tags"]) == (rewind.position, ["tag-0"])


def test_a_loss_is_told_for_every_run_that_it_touches() -> None:
    log = pipeline()
    log.seen.pop()
    log.entries.pop()
    view = EventsView("j1")
    view.feed(log.entries)
    stands = next(entry for entry in log.entries if entry.field == "chunk:1")
    log.lose(stands.position)
    attempt = log.attempt(replay=True)
    shown = view.feed([attempt])
    assert [(e["run_id"], e["data"]["text"], e["position"]) for e in shown] == [
        ("run-0", "", attempt.position),
        ("run-1", "Waves", attempt.position),
        ("run-2", "", attempt.position),
    ]
    assert [e["data"]["position"] for e in shown] == [stands.position] * 3


def test_a_reader_whose_position_is_lost_is_told_of_every_run_that_was_going_on() -> None:
    log = pipeline()
    log.entries.pop()
    view = EventsView("j1")
    view.feed(log.entries, show=False)
    view.resume(Position("1000-99"))
    assert [(e["run_id"], e["data"]["text"]) for e in view.feed([log.attempt(replay=True)])] == [("run-0", "A poem")]


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (Status.FAILED, ErrorDetail(type="upstream_broken", message="cut", code="x"), ("upstream_broken", "cut")),
        (Status.FAILED, None, ("failed", "the job failed")),
        (Status.CANCELLED, None, ("cancelled", "the job was cancelled")),
        (Status.EXPIRED, None, ("expired", "the job's deadline passed before it ended")),
    ],
)
def test_a_job_that_does_not_complete_ends_with_an_error_event(
    status: Status, error: ErrorDetail | None, expected: tuple[str, str]
) -> None:
    log = completion()
    log.entries.pop()
    log.end(status, error=error)
    event = events(log)[-1]
    assert (event["event"], event["position"], event["ts"]) == ("on_llm_error", END, 99)
    detail = cast("dict[str, str]", event["data"]["error"])
    assert (detail["type"], detail["message"]) == expected


def test_an_incomplete_job_ends_with_its_output() -> None:
    log = completion()
    log.entries.pop()
    log.end(Status.INCOMPLETE, finish_reason="length")
    assert events(log, "v1")[-1]["data"] == {"output": "Bubbles"}


def test_a_root_that_ended_in_the_log_ends_once() -> None:
    log = pipeline()
    log.entries.pop()
    log.event("on_chain_end", data={"output": [1]})
    log.end()
    ends = [event for event in events(log) if event["run_id"] == "run-0" and event["event"].endswith("_end")]
    assert [event["data"] for event in ends] == [{"output": [1]}]


def test_a_job_that_ends_before_any_run_has_no_events_but_an_end() -> None:
    log = Log()
    log.end(Status.CANCELLED)
    view = EventsView("j1")
    assert view.feed(log.entries) == []
    assert view.end is not None
    assert view.end.status is Status.CANCELLED


def test_a_zero_length_completion_ends_with_one_empty_generation() -> None:
    log = Log()
    log.attempt()
    log.start()
    log.end(finish_reason="stop")
    (generation,) = cast("Any", events(log)[-1]["data"]["output"])["generations"][0]
    assert generation == {
        "text": "",
        "generation_info": {"finish_reason": "stop", "logprobs": None},
        "type": "Generation",
    }


def test_a_call_of_a_tool_without_parameters_has_empty_arguments() -> None:
    log = Log("chat")
    log.attempt()
    log.start("chat_model")
    log.delta(OpenPart(part="tool_call", id="a", name="now"))
    log.end()
    output = cast("Any", events(log)[-1]["data"]["output"])
    assert output["tool_calls"] == [{"type": "tool_call", "id": "a", "name": "now", "args": {}}]


def test_text_of_other_choices_is_marked() -> None:
    log = Log()
    log.attempt()
    log.start()
    log.chunk("a")
    log.delta(OpenPart(choice=1))
    log.chunk("b")
    log.end()
    shown = events(log)
    assert [event["data"] for event in shown[1:3]] == [{"chunk": "a"}, {"chunk": "b", "choice": 1}]
    output = cast("Any", shown[-1]["data"]["output"])
    assert [generation["text"] for generation in output["generations"][0]] == ["a", "b"]


def test_a_clock_is_that_of_the_last_record_that_has_one() -> None:
    log = pipeline()
    assert [event["ts"] for event in events(log)] == [7, 7, 7, 8, 7, 9, 10, 11, 11, 99]


def test_events_of_forms_that_are_not_known_are_passed_over() -> None:
    log = pipeline()
    before = told(events(log))
    log.entries.pop()
    log.event("on_thought", name="x", run_id="y")
    log.event("on_LLM_start", name="x", run_id="y")
    log.event("on_custom_event", 9, name="of a run that nobody started")
    log.raw("event", '{"event": 5}')
    log.raw("event", '{"run": [], "event": "on_llm_end", "ts": 1}')
    log.chunk("of a run that nobody started", 8)
    log.end()
    assert told(events(log)) == before


def test_what_a_reader_does_to_an_event_does_not_show_in_the_next() -> None:
    log = completion()
    view = EventsView("j1")
    start, *rest = view.feed(log.entries[:4])
    start["tags"].append("mine")
    start["metadata"]["mine"] = True
    for event in [*rest, *view.feed(log.entries[4:])]:
        assert (event["tags"], event["metadata"]) == (["tag-0"], {"step": 0})


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"include_types": ["chat_model"]}, {"chat_model-1"}),
        ({"include_types": ["on_chat_model_stream"]}, set[str]()),
        ({"include_names": ["poet"]}, {"poet"}),
        ({"include_tags": ["tag-2"]}, {"tool-2", "progress"}),
        ({"include_names": ["poet"], "include_types": ["tool"]}, {"poet", "tool-2"}),
        ({"include_types": ["progress"]}, {"progress"}),
        ({"include_types": []}, set[str]()),
        ({"exclude_types": ["chain", "chat_model"]}, {"tool-2", "progress", RETRY_EVENT}),
        ({"exclude_names": ("progress",)}, {"poet", "chat_model-1", "tool-2", RETRY_EVENT}),
        ({"exclude_tags": {"tag-2", "t"}}, {"chat_model-1"}),
        ({"include_types": ["tool", "chat_model"], "exclude_names": ["tool-2"]}, {"chat_model-1"}),
        ({"exclude_names": []}, {"poet", "chat_model-1", "tool-2", "progress", RETRY_EVENT}),
    ],
)
def test_filters_include_any_that_match_and_exclude_any_that_match(filters: dict[str, Any], expected: set[str]) -> None:
    assert {event["name"] for event in events(pipeline(), **filters)} == expected


def test_a_filter_drops_events_and_changes_none() -> None:
    everything = events(pipeline())
    some = events(pipeline(), include_types=["tool"])
    assert some == [event for event in everything if event["name"] == "tool-2"]


def test_a_rewind_passes_the_filters_that_let_its_run_pass() -> None:
    log = pipeline()
    log.entries.pop()
    log.rewind(log.entries[1].position, 1)
    log.rewind(log.entries[1].position, 2)

    def of_rewinds(**filters: Any) -> list[str]:
        return [event["run_id"] for event in events(log, **filters) if event["name"] == REWIND_EVENT]

    assert of_rewinds() == ["run-1", "run-2"]
    assert of_rewinds(include_types=["chat_model"]) == ["run-1"]
    assert of_rewinds(exclude_types=["chat_model"]) == ["run-2"]
    assert of_rewinds(include_names=["progress"]) == ["run-2"]
    assert of_rewinds(include_names=[REWIND_EVENT]) == ["run-1", "run-2"]
    assert of_rewinds(exclude_names=[REWIND_EVENT]) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"version": "v3"},
        {"version": None},
        {"include_names": "poet"},
        {"exclude_types": [1]},
        {"include_tags": 5},
        {"exclude_tags": b"x"},
    ],
)
def test_a_version_or_filter_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(arguments))):
        EventsView("j1", **arguments)
