"""Responses of upstreams that speak the Responses API themselves."""

from pathlib import Path

import pytest
from response_clients import folded, kinds, response, texts, told
from response_logs import JOB, native, native_script
from view_logs import Log

from tailrace.schemas import (
    Status,
)
from tailrace.views import result_of

GOLDEN = Path(__file__).parent / "golden" / "responses-v1"


def test_a_native_response_keeps_its_fields_and_has_our_id() -> None:
    whole = response(native(), background=True, store=True, previous_response_id="resp_0", metadata={"a": "b"})
    assert (whole["id"], whole["background"], whole["previous_response_id"]) == (JOB, True, "resp_0")
    assert (whole["metadata"], whole["x_upstream"], whole["service_tier"]) == ({"a": "b"}, 1, "flex")
    assert whole["output"][0]["encrypted_content"] == "e"
    assert whole["output"][2]["content"][0]["annotations"]


def test_a_native_stream_has_our_life_and_the_upstreams_items() -> None:
    log = Log("responses")
    log.attempt()
    for field, value in native_script("one"):
        log.raw(field, value)
    log.end()
    events = told(log)
    life = ("created", "queued", "in_progress", "completed")
    assert [kind for kind in kinds(events) if kind in life] == [*life]
    assert {event["response"]["id"] for event in events if "response" in event} == {JOB}
    assert kinds(events).count("web_search_call.searching") == 1
    assert [item.id for item in folded(events).output] == ["rs_one", "ws_one", "msg_one", "fc_one"]
    assert folded(events).output_text == "Bubbles"


def test_a_native_item_that_is_done_is_in_the_unfinished_response_as_the_upstream_had_it() -> None:
    log = Log("responses")
    log.attempt()
    for field, value in native_script("one")[:-6]:
        log.raw(field, value)
    partial = response(log)
    assert partial["status"] == "in_progress"
    assert partial["output"][0]["encrypted_content"] == "e"
    assert partial["output"][2]["content"][0]["annotations"]


def test_a_native_response_told_from_the_start_again_lists_only_what_stands() -> None:
    events = told(native())
    assert kinds(events).count("created") == 1
    assert [item.id for item in folded(events).output] == ["rs_two", "ws_two", "msg_two", "fc_two"]
    indexes = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert indexes == list(range(7))


@pytest.mark.parametrize("size", range(1, len(native_script("one"))))
def test_a_native_response_that_broke_off_has_what_there_is_of_it(size: int) -> None:
    log = Log("responses")
    log.attempt()
    for field, value in native_script("one")[:size]:
        log.raw(field, value)
    partial = response(log)
    log.end(Status.FAILED)
    ended = response(log)
    assert kinds(told(log))[-1] == "failed"
    assert texts(partial) == texts(ended)
    assert "".join(texts(ended)) == result_of(JOB, log.entries).text
    assert not [item for item in ended["output"] if item.get("status") == "in_progress"]


def test_a_search_that_broke_off_has_failed() -> None:
    log = Log("responses")
    log.attempt()
    for field, value in native_script("one"):
        log.raw(field, value)
        if "web_search_call.searching" in value:
            break
    log.end(Status.CANCELLED)
    assert response(log)["output"][-1]["status"] == "failed"
