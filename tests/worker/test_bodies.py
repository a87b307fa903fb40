"""What is sent to an upstream."""

import json
from typing import Any

import pytest

from tailrace.schemas import JobRequest
from tailrace.worker.sources.bodies import build_body


def body_of(request: JobRequest, **options: Any) -> tuple[dict[str, Any], bool]:
    built = build_body(request, "m", **options)
    return json.loads(built.content), built.continued


def test_params_are_fields_of_the_body() -> None:
    body, _ = body_of(JobRequest.of("hi", temperature=0, params={"metadata": {"a": 1}}))
    assert body == {
        "temperature": 0, "metadata": {"a": 1}, "model": "m", "stream": True,
        "messages": [{"role": "user", "content": "hi"}], "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_the_callers_stream_options_stand() -> None:
    assert body_of(JobRequest.of("hi", stream_options={"include_usage": False}))[0]["stream_options"] == {
        "include_usage": False
    }


def test_a_forged_request_can_steer_nothing() -> None:
    forged = JobRequest(
        api="chat",
        messages=[{"role": "user", "content": "hi"}],
        params={"extra_headers": {"Host": "x"}, "stream": False, "model": "y", "messages": [], "base_url": "z"},
    )
    body, _ = body_of(forged)
    assert body == {
        "model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}],
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_completions_go_on_from_prompt_and_text() -> None:
    body, continued = body_of(JobRequest.of("Once", api="completions"), continue_from=" upon")
    assert (body["prompt"], continued) == ("Once upon", True)


def test_a_chat_goes_on_from_the_assistants_message_where_the_upstream_can() -> None:
    request = JobRequest.of("hi")
    body, continued = body_of(request, continue_from="he", prefill=True)
    assert (body["messages"][-1], continued) == ({"role": "assistant", "content": "he"}, True)
    body, continued = body_of(request, continue_from="he")
    assert (len(body["messages"]), continued) == (1, False)


@pytest.mark.parametrize("params", [{"n": 2}, {"best_of": 3}, {"echo": True}])
def test_what_cannot_be_continued_begins_anew(params: dict[str, Any]) -> None:
    body, continued = body_of(JobRequest.of("Once", api="completions", **params), continue_from=" upon")
    assert (body["prompt"], continued) == ("Once", False)


def test_responses_begin_anew() -> None:
    body, continued = body_of(JobRequest.of(input="hi"), continue_from="x", prefill=True)
    assert (body["input"], "stream_options" in body, continued) == ("hi", False, False)
