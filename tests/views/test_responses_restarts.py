"""Responses of jobs that were restarted, and of servers that lost what a reader was shown."""

from pathlib import Path
from typing import Any

import pytest
from response_clients import bodies, folded, kinds, response, snapshot, texts, told
from response_logs import JOB, restarted
from view_logs import Log

from tailrace.schemas import (
    Finish,
    OpenPart,
    Status,
)
from tailrace.views import ResponsesView, Rewound

GOLDEN = Path(__file__).parent / "golden" / "responses-v1"


def test_a_rewind_closes_the_message_as_incomplete_and_tells_what_stands_as_a_new_one() -> None:
    events = told(restarted())
    done = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"}
    assert done[1]["status"] == "incomplete"
    assert done[1]["content"][0]["text"] == "Sparkling water is wet"
    said = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert said == ["Sparkling ", "water ", "is wet", "Sparkling water ", "is great"]
    assert [item["id"] for item in response(restarted())["output"]] == [done[0]["id"], done[2]["id"]]
    assert texts(response(restarted())) == ["Sparkling water is great"]


def test_a_rewind_to_nothing_leaves_nothing() -> None:
    log = Log("chat")
    base = log.attempt().position
    log.chunk("Bub")
    log.rewind(base)
    events = told(log)
    assert kinds(events)[-1] == "output_item.done"
    assert response(log)["output"] == []


def interrupted() -> Log:
    """Two choices that take turns; the last chunk of the first one is void."""
    log = Log("chat")
    log.attempt()
    log.chunk("Spark")
    log.chunk("ling ")
    log.delta(OpenPart(choice=1))
    log.chunk("Foam")
    log.delta(OpenPart())
    stands = log.top
    log.chunk("wine")
    log.rewind(stands)
    log.chunk("water")
    return log


def test_the_output_is_in_the_order_of_the_stream() -> None:
    log = interrupted()
    log.end()
    assert texts(response(log)) == ["Foam", "Sparkling water"]
    assert [item.content[0].text for item in folded(told(log)).output] == ["Foam", "Sparkling water"]


def test_what_was_told_again_and_stands_is_not_told_a_third_time() -> None:
    log = interrupted()
    log.delta(OpenPart(choice=1))
    stands = log.top
    log.chunk("ing")
    log.rewind(stands)
    said = [event["delta"] for event in told(log) if event["type"] == "response.output_text.delta"]
    assert said == ["Spark", "ling ", "Foam", "wine", "Sparkling ", "water", "ing", "Foam"]


def test_a_finished_message_that_goes_on_after_a_restart_is_told_again_as_one() -> None:
    log = Log("chat")
    log.attempt()
    stands = log.chunk("Bub").position
    log.delta(Finish(reason="stop"))
    log.rewind(stands)
    log.chunk("bles")
    log.delta(Finish(reason="stop"))
    log.end()
    events = told(log)
    assert [item.content[0].text for item in snapshot(events)] == ["Bub", "Bubbles"]
    assert texts(response(log)) == ["Bubbles"]
    assert folded(events).output_text == "Bubbles"


def test_a_call_that_is_cut_and_told_again_has_another_id() -> None:
    log = Log("chat")
    log.attempt()
    log.delta(OpenPart(part="tool_call", id="c1", name="f"))
    stands = log.chunk('{"a":').position
    log.chunk("1")
    log.rewind(stands)
    log.chunk("2}")
    log.delta(Finish(reason="tool_calls"))
    log.end()
    (call,) = folded(told(log)).output
    assert call.arguments == '{"a":2}'
    assert call.call_id != "c1"


def lossy() -> tuple[Log, ResponsesView, list[Any]]:
    """A reader who was shown two words of which the server has lost the second."""
    log = Log("chat")
    log.attempt()
    stands = log.chunk("Bub").position
    log.chunk("bles")
    view = ResponsesView(JOB)
    shown = view.feed(log.entries)
    log.lose(stands)
    return log, view, shown


def test_what_a_writer_writes_again_after_a_loss_is_not_shown_again() -> None:
    log, view, shown = lossy()
    for entry in (log.attempt(replay=True), log.chunk("bles"), log.chunk("!"), log.end()):
        shown += view.feed([entry])
    assert bodies(shown) == bodies(ResponsesView(JOB).feed(log.entries))


def test_a_loss_of_what_was_lost_before_is_borne_too() -> None:
    log, view, shown = lossy()
    attempt = log.attempt(replay=True)
    shown += view.feed([attempt, log.chunk("bles")])
    log.lose(attempt.position)
    for entry in (log.attempt(replay=True), log.chunk("bles"), log.end()):
        shown += view.feed([entry])
    assert bodies(shown) == bodies(ResponsesView(JOB).feed(log.entries))


@pytest.mark.parametrize("text", ["bl", "ly"])
def test_other_events_than_those_that_were_lost_end_the_stream(text: str) -> None:
    log, view, _ = lossy()
    assert view.feed([log.attempt()]) == []
    assert [type(item) for item in view.feed([log.chunk(text)])] == [Rewound]
    assert view.feed([log.end()]) == []


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.CANCELLED])
def test_an_end_before_what_was_shown_ends_the_stream(status: Status) -> None:
    log, view, _ = lossy()
    assert [type(item) for item in view.feed([log.end(status)])] == [Rewound]


def test_an_end_without_an_event_before_what_was_shown_ends_the_stream() -> None:
    log = Log()
    queued = log.top
    log.attempt()
    view = ResponsesView(JOB)
    assert kinds(bodies(view.feed(log.entries))) == ["created", "queued", "in_progress"]
    log.lose(queued)
    assert [type(item) for item in view.feed([log.end(Status.CANCELLED)])] == [Rewound]


def test_a_loss_that_the_view_never_saw_ends_the_stream() -> None:
    log, _, _ = lossy()
    view = ResponsesView(JOB)
    assert view.feed(log.entries, show=False) == []
    view.resume(log.seen[-1].position)
    assert [type(item) for item in view.feed([log.attempt()])] == [Rewound]
