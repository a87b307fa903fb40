"""The Response object: ends, errors, usage, and what the request said."""

import json
from pathlib import Path
from typing import Any

import pytest
from response_clients import kinds, response, told
from response_logs import chat, failed
from view_logs import Log

from tailrace.schemas import (
    FIRST,
    Entry,
    ErrorDetail,
    Finish,
    JsonObject,
    Status,
)

GOLDEN = Path(__file__).parent / "golden" / "responses-v1"

ENDS: list[tuple[Status, str | None]] = [
    (Status.COMPLETED, "completed"),
    (Status.INCOMPLETE, "incomplete"),
    (Status.FAILED, "failed"),
    (Status.EXPIRED, "failed"),
    (Status.CANCELLED, None),
]


@pytest.mark.parametrize(("status", "last"), ENDS)
def test_every_end_closes_what_is_open_and_says_how_it_ended(status: Status, last: str | None) -> None:
    log = Log()
    log.attempt()
    log.chunk("Bub")
    log.end(status)
    events = told(log)
    assert kinds(events)[-2:] == (["output_item.done", last] if last else ["content_part.done", "output_item.done"])
    ended = response(log)
    assert ended["status"] == (last or "cancelled")
    assert ended["output"][0]["status"] == ("completed" if status is Status.COMPLETED else "incomplete")
    assert (ended["error"] is not None) == (last == "failed")
    assert (ended["completed_at"] is not None) == (status is Status.COMPLETED)


def test_a_job_that_never_ran_has_an_end_too() -> None:
    log = Log()
    log.end(Status.EXPIRED)
    assert kinds(told(log)) == ["created", "queued", "failed"]
    assert response(log)["error"]["type"] == "expired"


@pytest.mark.parametrize(
    ("reason", "said"),
    [("length", "max_output_tokens"), ("max_tokens", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_an_incomplete_response_says_why(reason: str, said: str) -> None:
    log = Log("chat")
    log.attempt()
    log.chunk("Bub")
    log.delta(Finish(reason=reason))
    log.end(Status.INCOMPLETE, finish_reason=reason)
    assert response(log)["incomplete_details"] == {"reason": said}
    assert response(log)["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("http_status", "code"), [(429, "rate_limit_exceeded"), (400, "invalid_prompt"), (500, "server_error")]
)
def test_errors_have_a_code_that_the_package_knows_and_a_word_of_ours(http_status: int, code: str) -> None:
    log = Log()
    log.end(Status.FAILED, error=ErrorDetail(type="upstream_status", message="no", http_status=http_status))
    assert response(log)["error"] == {"code": code, "message": "no", "type": "upstream_status"}


def test_usage_has_the_words_of_this_api() -> None:
    assert response(chat())["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }
    assert response(failed())["usage"] is None


def test_fields_of_the_request_are_in_every_response_and_change_no_number() -> None:
    fields: JsonObject = {"instructions": "Be brief.", "metadata": {"a": "b"}, "background": False, "top_p": None}
    plain, told_so = told(chat()), told(chat(), **fields)
    assert [(event["type"], event["sequence_number"]) for event in plain] == [
        (event["type"], event["sequence_number"]) for event in told_so
    ]
    carried = [event["response"] for event in told_so if "response" in event]
    assert len(carried) == 4
    for one in carried:
        assert (one["instructions"], one["metadata"], one["background"]) == ("Be brief.", {"a": "b"}, False)
        assert one["top_p"] == 1.0


def test_metadata_of_a_job_from_another_door_is_text() -> None:
    log = Log()
    fields: dict[str, Any] = json.loads(log.entries[0].value)
    log.entries[0] = Entry(FIRST, "job", json.dumps({**fields, "metadata": {"a": "b", "c": [1]}}))
    assert response(log)["metadata"] == {"a": "b", "c": "[1]"}
