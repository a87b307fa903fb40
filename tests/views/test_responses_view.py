"""The Responses API's events of any job: golden streams, items and their parts."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from response_clients import bodies, check_story, folded, kinds, response, snapshot, told
from response_logs import JOB, chat
from view_logs import Log

from tailrace.schemas import (
    FIRST,
    Entry,
    Finish,
    JobRecord,
    Logprobs,
    Native,
    OpenPart,
    TailraceError,
)
from tailrace.views import ResponsesView

GOLDEN = Path(__file__).parent / "golden" / "responses-v1"

#: Another order or number of events is a new version of the views with files of its own; these stay as they are.
SHA256 = {
    "cancelled.json": "672d7ddcb344871de56a3ae00d40f647e81147dfad3ad728a6799b6c99d46e21",
    "chat.json": "a0ff59f26ec9b7484a7b97d2f8de245971c2b06a1ff90dcb81975344e4bf1001",
    "failed.json": "88b5c18c075750209cc8bcf1b2ebb5f4babe02bd1d1e8f3979d9191661df53a5",
    "native.json": "33d122e7dc36bbf742e533f528e3de7063a3d3fa403120bb7de07d2fcdeb3892",
    "restarted.json": "400e786680e126da7f87650ee28e704195e9b297d14d913b49d75d165820aee8",
}


def test_the_golden_files_never_change() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in GOLDEN.iterdir()} == SHA256


@pytest.mark.parametrize("name", sorted(SHA256))
def test_an_old_log_has_the_events_that_it_ever_had(name: str) -> None:
    golden = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    view = ResponsesView(JOB, {"instructions": "Be brief."})
    found = bodies(view.feed([Entry(*entry) for entry in golden["log"]]))
    assert found == golden["events"]
    assert view.response() == golden["response"]
    check_story(found, view.response())


def test_a_response_begins_queued_and_is_in_progress_with_the_first_attempt_only() -> None:
    log = Log("chat")
    assert kinds(told(log)) == ["created", "queued"]
    assert [event["response"]["status"] for event in told(log)] == ["queued", "queued"]
    log.attempt()
    log.attempt()
    assert kinds(told(log)) == ["created", "queued", "in_progress"]
    assert {event["response"]["id"] for event in told(log)} == {JOB}


def test_text_is_a_message_with_one_part() -> None:
    log = Log("chat")
    log.attempt()
    log.chunk("Bub")
    log.chunk("bles")
    log.delta(Finish(reason="stop"))
    log.end()
    events = told(log)
    assert kinds(events)[3:] == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert folded(events).output_text == "Bubbles"


def test_reasoning_is_over_when_the_answer_begins() -> None:
    order = kinds(told(chat()))
    assert order.index("reasoning_text.done") < order.index("output_text.delta")


def test_fragments_of_parallel_calls_come_together_each_in_one_item() -> None:
    calls = [item for item in response(chat())["output"] if item["type"] == "function_call"]
    assert [(call["call_id"], call["name"], call["arguments"]) for call in calls] == [
        ("c0", "f", '{"a":1}'),
        ("c1", "g", "{}"),
    ]


def test_each_choice_has_a_message_of_its_own_and_a_refusal_is_a_part_of_it() -> None:
    messages = [item for item in response(chat())["output"] if item["type"] == "message"]
    assert [[part.get("text", part.get("refusal")) for part in message["content"]] for message in messages] == [
        ["Bubbles"],
        ["Foam", "no"],
    ]


@pytest.mark.parametrize("ids", [("same", "same"), (None, None)])
def test_calls_that_an_upstream_does_not_tell_apart_have_ids_that_do(ids: tuple[str | None, str | None]) -> None:
    log = Log("chat")
    log.attempt()
    for index, call_id in enumerate(ids):
        log.delta(OpenPart(part="tool_call", index=index, id=call_id, name="f"))
        log.chunk("{}")
    log.delta(Finish(reason="tool_calls"))
    log.end()
    events = told(log)
    assert len({item.call_id for item in folded(events).output}) == 2


def test_a_call_without_arguments_and_without_a_name_is_told_when_its_choice_is_finished() -> None:
    log = Log("chat")
    log.attempt()
    log.delta(OpenPart(part="tool_call", id="c1"))
    log.delta(Finish(reason="tool_calls"))
    log.end()
    (call,) = folded(told(log)).output
    assert (call.call_id, call.name, call.arguments) == ("c1", "", "")


def test_a_call_has_the_name_that_came_after_its_id() -> None:
    log = Log("chat")
    log.attempt()
    log.delta(OpenPart(part="tool_call", id="c1"))
    log.delta(OpenPart(part="tool_call", name="f"))
    log.chunk("{}")
    log.end()
    (call,) = folded(told(log)).output
    assert (call.call_id, call.name, call.arguments) == ("c1", "f", "{}")


def test_a_call_that_goes_on_after_its_choice_was_finished_is_told_again_whole() -> None:
    log = Log("chat")
    log.attempt()
    log.delta(OpenPart(part="tool_call", id="c1", name="f"))
    log.chunk("{")
    log.delta(Finish(reason="tool_calls"))
    log.chunk("}")
    log.end()
    events = told(log)
    assert [item.arguments for item in snapshot(events)] == ["{", "{}"]
    assert [item.arguments for item in folded(events).output] == ["{}"]


CHAT_PROBS = {"content": [{"token": "é", "logprob": -0.5, "bytes": None, "top_logprobs": None}]}
LEGACY_PROBS = {"tokens": ["é"], "token_logprobs": [-0.5], "top_logprobs": [{"e": -1.5}], "text_offset": [0]}


@pytest.mark.parametrize("probs", [CHAT_PROBS, LEGACY_PROBS])
def test_log_probabilities_are_in_the_message_whatever_the_upstream_calls_them(probs: Any) -> None:
    log = Log("chat")
    log.attempt()
    log.chunk("é")
    log.delta(Logprobs(logprobs=probs))
    log.end()
    events = told(log)
    (token,) = next(event["logprobs"] for event in events if event["type"] == "response.output_text.done")
    assert (token["token"], token["logprob"], token["bytes"]) == ("é", -0.5, [0xC3, 0xA9])
    assert next(token for event in events for token in event.get("logprobs", ())) == token
    assert folded(events).output[0].content[0].logprobs[0].token == "é"


def test_a_rewind_of_a_child_run_changes_nothing() -> None:
    log = Log("task")
    base = log.attempt().position
    log.chunk("Bub")
    log.chunk("child", 1)
    log.delta(OpenPart(part="refusal"), 1)
    before = told(log)
    log.rewind(base, 1)
    assert told(log) == before
    log.chunk("bles")
    log.end()
    assert folded(told(log)).output_text == "Bubbles"


def test_a_job_numbered_by_a_later_version_is_refused() -> None:
    job = JobRecord(position=FIRST, digest="d", incarnation="i", retention_ms=1, api="chat", views=2)
    with pytest.raises(TailraceError, match="version 2"):
        ResponsesView(JOB).feed([Entry(FIRST, "job", job.value())])


def test_what_a_newer_writer_writes_gives_no_event() -> None:
    log = Log("responses")
    log.attempt()
    before = told(log)
    log.raw("telemetry", "{}")
    log.delta(Native(event={"type": "response.output_text.delta", "delta": "x", "output_index": 0}))
    log.raw("delta", '{"delta": {"type": "video"}}')
    assert told(log) == before
