"""Every fault of the rehearsal upstream, seen on the bare wire."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tailrace.upstreams.rehearsal import Rehearsal

Post = Callable[..., Awaitable[Any]]
Body = Callable[..., dict[str, Any]]


def texts(raw: Any) -> list[str]:
    found = [json.loads(line[6:]) for line in raw.lines if line.startswith(b"data: {")]
    contents = [body["choices"][0]["delta"].get("content") for body in found if body.get("choices")]
    return [content for content in contents if content]


@pytest.mark.parametrize(
    ("fault", "ended"),
    [("cut", "cut"), ("reset", "reset"), ("clean_end", "whole"), ("no_done", "whole"), ("stall", "stalled")],
)
async def test_a_broken_stream_ends_as_its_fault_says_after_so_many_tokens(
    post: Post, chat_body: Body, fault: str, ended: str
) -> None:
    raw = await post("chat/completions", chat_body(tokens=9, fault=fault, at=3), patience=0.3)
    assert raw.ended == ended
    assert len(texts(raw)) == (9 if fault == "no_done" else 3)
    assert b"[DONE]" not in raw.body
    assert (b'"finish_reason":"stop"' in raw.body) == (fault == "no_done")


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
@pytest.mark.parametrize("stream", [True, False])
async def test_refuse_closes_before_any_byte(post: Post, path: str, stream: bool) -> None:
    body = {"model": "rehearsal:fault=refuse", "prompt": "p", "input": "p", "stream": stream}
    raw = await post(path, body | {"messages": [{"role": "user", "content": "p"}]})
    assert (raw.head, raw.ended) == (b"", "cut")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("error_data", b'data: {"error":{"message"'),
        ("error_bare", b'{"error":{"message"'),
        ("error_event", b"event: error"),
    ],
)
async def test_an_error_inside_the_stream_is_the_last_of_it(
    post: Post, chat_body: Body, fault: str, line: bytes
) -> None:
    raw = await post("chat/completions", chat_body(tokens=9, fault=fault, at=2))
    assert (len(texts(raw)), raw.ended) == (2, "whole")
    assert any(each.startswith(line) for each in raw.lines)
    assert b"[DONE]" not in raw.body
    if fault == "error_event":
        assert "message" in json.loads(raw.lines[-2][6:])


async def test_malformed_json_takes_one_token_and_an_empty_data_line_none(post: Post, chat_body: Body) -> None:
    malformed = await post("chat/completions", chat_body(tokens=3, fault="malformed", at=1))
    with pytest.raises(json.JSONDecodeError):
        texts(malformed)
    assert malformed.body.endswith(b"data: [DONE]\n\n")
    empty = await post("chat/completions", chat_body(tokens=3, fault="empty_data", at=1))
    assert len(texts(empty)) == 3
    assert b"data: " in empty.lines


@pytest.mark.parametrize("stream", [True, False])
async def test_invalid_utf8_is_none(post: Post, chat_body: Body, stream: bool) -> None:
    raw = await post("chat/completions", chat_body(tokens=3, fault="invalid_utf8", at=1) | {"stream": stream})
    assert raw.body.count(b"\xff\xfe") == 1
    with pytest.raises(UnicodeDecodeError):
        raw.body.decode()


async def test_a_huge_chunk_is_huge_and_no_content_is_nothing(post: Post, chat_body: Body) -> None:
    huge = await post("chat/completions", chat_body(tokens=3, fault="huge", at=1))
    assert sorted(len(text) for text in texts(huge)) == [7, 7, 10 * 1024 * 1024]
    empty = await post("chat/completions", chat_body(tokens=3, fault="no_content"))
    assert texts(empty) == []
    assert b'"finish_reason":"stop"' in empty.body
    assert empty.body.endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_endless_answer_goes_on_until_the_client_leaves(
    post: Post, chat_body: Body, rehearsal: Rehearsal, stream: bool
) -> None:
    body = chat_body(tokens=3, fault="endless") | {"max_tokens": 2, "stream": stream}
    raw = await post("chat/completions", body, patience=0.2)
    assert raw.ended == "stalled"
    assert len(raw.body) > 10_000
    await rehearsal.wait_until(lambda: rehearsal.calls[0].aborted, "the client's leaving is seen")


@pytest.mark.parametrize("code", [401, 403, 404, 408, 409, 429, 500, 503])
async def test_a_status_comes_in_openais_shape(post: Post, chat_body: Body, code: int) -> None:
    raw = await post("chat/completions", chat_body(fault="status", code=code, retry_after=7))
    assert raw.status == code
    assert b"retry-after: 7\r\n" in raw.head.lower()
    assert set(json.loads(raw.body)["error"]) == {"message", "type", "param", "code"}


async def test_html_with_status_200(post: Post, chat_body: Body) -> None:
    raw = await post("chat/completions", chat_body(fault="html"))
    assert raw.status == 200
    assert b"text/html" in raw.head
    assert raw.body.startswith(b"<!doctype html>")


async def test_slow_headers_come_late_and_then_all_is_well(post: Post, chat_body: Body) -> None:
    late = await post("chat/completions", chat_body(fault="slow_headers"), patience=0.1)
    assert (late.head, late.ended) == (b"", "stalled")
    patient = await post("chat/completions", chat_body(fault="slow_headers", delay=0.01))
    assert patient.body.endswith(b"[DONE]\n\n")


@pytest.mark.parametrize(("fault", "last"), [("failed", "response.failed"), ("error_event", "error")])
async def test_a_response_fails_by_an_event_in_sequence(post: Post, fault: str, last: str) -> None:
    raw = await post("responses", {"model": f"rehearsal:fault={fault},at=2", "input": "p", "stream": True})
    events = [json.loads(line[6:]) for line in raw.lines if line.startswith(b"data: ")]
    assert events[-1]["type"] == last
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("fault", ["clean_end", "no_done", "cut"])
async def test_a_response_without_its_last_event(post: Post, fault: str) -> None:
    raw = await post("responses", {"model": f"rehearsal:tokens=4,fault={fault},at=2", "input": "p", "stream": True})
    assert b"response.completed" not in raw.body
    assert raw.body.count(b"event: response.output_text.delta") == (4 if fault == "no_done" else 2)


@pytest.mark.parametrize(("fault", "ended"), [("cut", "cut"), ("reset", "reset"), ("stall", "stalled")])
async def test_a_body_that_is_not_streamed_breaks_in_its_middle(
    post: Post, chat_body: Body, fault: str, ended: str
) -> None:
    raw = await post("chat/completions", chat_body(fault=fault) | {"stream": False}, patience=0.3)
    assert raw.ended == ended
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw.body)


async def test_only_the_first_calls_with_the_same_key_fail(post: Post, chat_body: Body, rehearsal: Rehearsal) -> None:
    async def outcomes(count: int, **script: Any) -> list[int]:
        body = chat_body(fault="status", times=2, tokens=1, **script)
        return [(await post("chat/completions", body)).status for _ in range(count)]

    assert await outcomes(3) == [500, 500, 200]
    assert await outcomes(3, key="another") == [500, 500, 200]
    rehearsal.reset()
    assert await outcomes(1) == [500]


@pytest.mark.parametrize("fault", ["cut", "error_data"])
async def test_a_fault_beyond_the_answer_strikes_before_its_finish(post: Post, chat_body: Body, fault: str) -> None:
    raw = await post("chat/completions", chat_body(tokens=2, fault=fault, at=99) | {"n": 2})
    assert len(texts(raw)) == 4
    assert b"[DONE]" not in raw.body


async def test_a_choice_that_is_over_early_does_not_draw_the_fault(post: Post, chat_body: Body) -> None:
    whole = await post("chat/completions", chat_body() | {"n": 3})
    tokens = len(texts(whole)) - 1
    raw = await post("chat/completions", chat_body(fault="cut", at=tokens) | {"n": 3})
    assert raw.body.count(b'"finish_reason":"stop"') == 2
    assert len(texts(raw)) == tokens


async def test_a_split_body_comes_in_pieces_of_that_size(post: Post, chat_body: Body) -> None:
    raw = await post("chat/completions", chat_body(text="水", split=2))
    assert max(len(chunk) for chunk in raw.chunks) == 2
    assert texts(raw) == ["水"]


async def test_a_lone_surrogate_is_sent_as_json_can_say_it(post: Post, chat_body: Body) -> None:
    raw = await post("chat/completions", chat_body(chunks=["a", "\ud800", "水"]))
    assert texts(raw) == ["a", "\ud800", "水"]
    assert b'"\\ud800"' in raw.body


async def test_what_is_no_request_gets_400(post: Post) -> None:
    for body in (b"{", b"[]", {"model": "m"}, {"model": "m", "messages": ["x"]}):
        assert (await post("chat/completions", body)).status == 400
