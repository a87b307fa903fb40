"""The decoders: what each API's events become."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas import Extra, Finish, Logprobs, Native, OpenPart, Status
from tailrace.worker.sources import (
    ChatDecoder,
    CompletionsDecoder,
    Decoder,
    Item,
    Outcome,
    ResponsesDecoder,
    UpstreamError,
)
from tailrace.worker.sse import Event

DONE = Event(b"[DONE]")
STOP: dict[str, Any] = {"delta": {}, "finish_reason": "stop"}


def event(body: object, name: str | None = None) -> Event:
    return Event(json.dumps(body).encode(), name)


def chunk(*choices: dict[str, Any], **fields: Any) -> Event:
    return event({"id": "c", "object": "chat.completion.chunk", "model": "m-1", "choices": list(choices), **fields})


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "logprobs": None, "finish_reason": None}


def decode(decoder: Decoder, events: Sequence[Event]) -> tuple[list[Item], Outcome]:
    items = [item for each in events for item in decoder.feed(each)]
    return items, decoder.close()


def chat(*events: Event) -> list[Item]:
    return decode(ChatDecoder(), [*events, chunk({"index": 0, **STOP}), DONE])[0][:-1]


def failure(decoder: Decoder, *events: Event) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        decode(decoder, events)
    return caught.value


class TestChat:
    def test_text_comes_as_it_was_cut_and_empty_deltas_give_nothing(self) -> None:
        first = delta(role="assistant", content=None, refusal=None)
        items = chat(chunk(first), chunk(delta(content="")), chunk(delta(content="a")), chunk(delta(content=" b\x00")))
        assert items == ["a", " b\x00"]

    def test_the_outcome_has_reason_usage_and_model(self) -> None:
        usage = {"total_tokens": 3}
        events = [chunk(delta(content="a"), usage=None), chunk({"index": 0, **STOP}), chunk(usage=usage), DONE]
        items, outcome = decode(ChatDecoder(), events)
        assert items == ["a", Finish(reason="stop")]
        assert outcome == Outcome("stop", usage, "m-1", Status.COMPLETED)

    def test_usage_inside_the_last_choice_is_found(self) -> None:
        last = chunk({"index": 0, **STOP}, usage={"total_tokens": 4})
        assert decode(ChatDecoder(), [last])[1].usage == {"total_tokens": 4}

    @pytest.mark.parametrize("reason", ["length", "content_filter", "max_output_tokens"])
    def test_an_early_stop_on_purpose_is_incomplete(self, reason: str) -> None:
        outcome = decode(ChatDecoder(), [chunk({"index": 0, "delta": {}, "finish_reason": reason})])[1]
        assert (outcome.status, outcome.finish_reason) == (Status.INCOMPLETE, reason)

    @pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
    def test_reasoning_is_a_part_that_opens_only_where_it_changes(self, name: str) -> None:
        items = chat(
            chunk(delta(0, **{name: "h"}, content=None)), chunk(delta(0, **{name: "m"})), chunk(delta(content="x")),
            chunk(delta(content="y")),
        )  # fmt: skip
        assert items == [OpenPart(part="reasoning"), "h", "m", OpenPart(part="text"), "x", "y"]

    def test_reasoning_sent_under_both_names_is_stored_once(self) -> None:
        items = chat(chunk(delta(reasoning="h", reasoning_content="h")))
        assert items == [OpenPart(part="reasoning"), "h"]

    def test_a_refusal_is_a_part(self) -> None:
        assert chat(chunk(delta(refusal="no"))) == [OpenPart(part="refusal"), "no"]

    def test_parallel_tool_calls_reopen_by_index(self) -> None:
        def call(index: int, arguments: str, **fields: Any) -> Event:
            inner = {"arguments": arguments, **({"name": fields.pop("name")} if "name" in fields else {})}
            return chunk(delta(tool_calls=[{"index": index, "function": inner, **fields}]))

        items = chat(
            call(0, "", id="c0", type="function", name="f"), call(0, '{"a'), call(1, "", id="c1", name="g"),
            call(0, '":1}'), call(1, "{}"), call(1, ""),
        )  # fmt: skip
        assert items == [
            OpenPart(part="tool_call", index=0, id="c0", name="f"), '{"a',
            OpenPart(part="tool_call", index=1, id="c1", name="g"),
            OpenPart(part="tool_call", index=0), '":1}', OpenPart(part="tool_call", index=1), "{}",
        ]  # fmt: skip

    def test_tool_calls_without_an_index_are_counted(self) -> None:
        calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
        items = chat(chunk(delta(tool_calls=calls)))
        assert [item.index for item in items if isinstance(item, OpenPart)] == [0, 1]

    def test_choices_are_parts_of_their_own(self) -> None:
        events = [chunk(delta(0, content="a"), delta(1, content="b")), chunk(delta(1, content="c"))]
        ends = [chunk({"index": index, **STOP}) for index in (0, 1)]
        items, _ = decode(ChatDecoder(), [*events, *ends])
        assert items == ["a", OpenPart(choice=1), "b", "c", Finish(reason="stop"), Finish(choice=1, reason="stop")]

    def test_logprobs_follow_their_text(self) -> None:
        logprobs: dict[str, Any] = {"content": [{"token": "a", "logprob": -0.5}]}
        empty: dict[str, Any] = {"content": [], "refusal": None}
        items = chat(
            chunk({**delta(content="a"), "logprobs": logprobs}), chunk({**delta(content="b"), "logprobs": empty})
        )
        assert items == ["a", Logprobs(logprobs=logprobs), "b"]

    def test_what_has_no_part_is_kept_in_one_extra_for_each_delta(self) -> None:
        odd = {**delta(content="a", audio={"id": "x"}, annotations=[1], nothing=None), "stop_reason": 7}
        assert chat(chunk(odd)) == ["a", Extra(fields={"audio": {"id": "x"}, "annotations": [1], "stop_reason": 7})]

    def test_odd_fields_of_a_tool_call_are_kept(self) -> None:
        call = {"index": 0, "id": "c", "type": "custom", "custom": {"input": "x"}}
        items = chat(chunk(delta(tool_calls=[call])))
        assert items == [
            OpenPart(part="tool_call", id="c"),
            Extra(fields={"tool_calls": [{"index": 0, "custom": {"input": "x"}, "type": "custom"}]}),
        ]

    def test_content_that_is_no_text_is_kept(self) -> None:
        assert chat(chunk(delta(content=[{"type": "text"}]))) == [Extra(fields={"content": [{"type": "text"}]})]


class TestSurrogates:
    @given(st.text(), st.lists(st.integers(min_value=0, max_value=30), max_size=6))
    def test_text_cut_anywhere_even_inside_characters_is_whole_again(self, text: str, places: list[int]) -> None:
        units = text.encode("utf-16-le")
        edges = [0, *sorted(2 * place for place in places if 2 * place < len(units)), len(units)]
        cuts = [units[start:stop].decode("utf-16-le", "surrogatepass") for start, stop in pairwise(edges)]
        items = chat(*(chunk(delta(content=cut)) for cut in cuts))
        assert "".join(str(item) for item in items) == text

    def test_a_half_that_stays_alone_becomes_the_replacement_character(self) -> None:
        items = chat(chunk(delta(content="a\ud83d")), chunk(delta(content="b\ude00")), chunk(delta(content="\ud83d")))
        assert items == ["a", "\ufffdb\ufffd", "\ufffd"]

    def test_halves_are_joined_within_a_part_only(self) -> None:
        items = chat(
            chunk(delta(content="\ud83d", reasoning="\ud83d")), chunk(delta(reasoning="\ude00", content="\ude00"))
        )
        assert items == [OpenPart(part="reasoning"), "\U0001f600", OpenPart(), "\U0001f600"]

    def test_an_extra_holds_no_lone_half(self) -> None:
        assert chat(chunk(delta(odd={"k": ["\ud83d"]}))) == [Extra(fields={"odd": {"k": ["\ufffd"]}})]


class TestEnds:
    @pytest.mark.parametrize("decoder", [ChatDecoder, CompletionsDecoder])
    def test_neither_finish_reason_nor_done_is_a_broken_stream(self, decoder: type[ChatDecoder]) -> None:
        error = failure(decoder(), chunk({"index": 0, "delta": {"content": "a"}, "text": "a"}))
        assert (error.detail.type, error.detail.retryable, error.phase) == ("upstream_broken", True, "stream")

    def test_no_event_at_all_is_a_broken_stream(self) -> None:
        for decoder in (ChatDecoder(), CompletionsDecoder(), ResponsesDecoder()):
            assert failure(decoder).detail.type == "upstream_broken"

    def test_done_alone_is_an_end_without_a_reason(self) -> None:
        assert decode(ChatDecoder(), [chunk(delta(content="a")), DONE])[1].finish_reason is None

    def test_a_choice_in_the_middle_of_others_is_a_broken_stream(self) -> None:
        events = [chunk(delta(0, content="a"), delta(1, content="b")), chunk({"index": 0, **STOP}), DONE]
        assert "choice 1" in failure(ChatDecoder(), *events).detail.message

    def test_complete_is_said_at_the_protocols_own_end_only(self) -> None:
        decoder = ChatDecoder()
        decoder.feed(chunk({"index": 0, **STOP}))
        assert not decoder.complete
        decoder.feed(DONE)
        assert decoder.complete


class TestErrors:
    @pytest.mark.parametrize("api", [ChatDecoder, CompletionsDecoder, ResponsesDecoder])
    @pytest.mark.parametrize(
        ("sent", "fault"),
        [
            (Event(b'{"error": {"message": "m", "type": "server_error"}}'), "upstream_error"),
            (Event(b'{"message": "m", "type": "server_error"}', "error"), "upstream_error"),
            (Event(b"m", "error"), "upstream_error"),
            (Event(b'{"error": {"message": "m", "type": "server_error"}}', bare=True), "upstream_error"),
            (Event(b'{"error": "m"}'), "upstream_error"),
            (Event(b'{"message": "m"}'), "upstream_error"),
            (Event(b'{"choices": [{"del'), "upstream_malformed"),
            (Event(b""), "upstream_malformed"),
            (Event(b'"text"'), "upstream_malformed"),
            (Event(b'{"a": "\xff"}'), "upstream_malformed"),
            (Event(b"[" * 100_000), "upstream_malformed"),
            (Event(b'{"choices": []}', bare=True), "upstream_malformed"),
        ],
    )
    def test_each_fault_has_its_word(self, api: type[ChatDecoder], sent: Event, fault: str) -> None:
        error = failure(api(), sent)
        assert error.detail.type == fault
        assert error.detail.retryable
        assert ": m" in error.detail.message or fault == "upstream_malformed"

    def test_an_error_over_several_bare_lines_is_put_together(self) -> None:
        lines = [Event(line, bare=True) for line in (b"{", b'"error": {', b'"message": "m", "code": 400', b"}", b"}")]
        assert failure(ChatDecoder(), *lines).detail.code == "400"

    def test_half_of_a_bare_error_is_an_error_too(self) -> None:
        assert failure(ChatDecoder(), Event(b'{"error": {', bare=True)).detail.type == "upstream_error"

    @pytest.mark.parametrize(
        ("told", "retryable"),
        [
            ({"type": "server_error"}, True), ({"code": "overloaded_error"}, True), ({"code": "rate_limit_exceeded"}, True),
            ({"code": 503}, True), ({"code": "429"}, True), ({}, True),
            ({"type": "invalid_request_error"}, False), ({"code": 400}, False), ({"code": "insufficient_quota"}, False),
            ({"type": "server_error", "code": "context_length_exceeded"}, False),
        ],
    )  # fmt: skip
    def test_whether_an_error_passes_is_read_off_its_code(self, told: dict[str, Any], retryable: bool) -> None:
        assert failure(ChatDecoder(), event({"error": {"message": "m", **told}})).detail.retryable is retryable

    def test_a_message_is_short_and_holds_no_key(self) -> None:
        text = "x" * 490 + " sk-secret-key " + "y" * 5000
        error = failure(ChatDecoder("sk-secret-key"), event({"error": {"message": text}}))
        assert "sk-secret" not in error.detail.message + str(error)
        assert "[api key" in error.detail.message
        assert len(error.detail.message) < 600

    @pytest.mark.parametrize(
        "choices",
        [7, [7], {"index": 0}, [{"index": -1}], [{"index": "x"}], [{"delta": {"tool_calls": [7]}}],
         [{"delta": {"tool_calls": [{"index": 1e300}]}}]],
    )  # fmt: skip
    def test_shapes_that_the_protocol_does_not_have_are_malformed(self, choices: object) -> None:
        assert failure(ChatDecoder(), event({"choices": choices})).detail.type == "upstream_malformed"


def test_completions_give_text_logprobs_and_choices() -> None:
    def text(index: int, value: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
        return {"index": index, "text": value, "logprobs": None, "finish_reason": reason, **fields}

    logprobs: dict[str, Any] = {"tokens": ["a"], "token_logprobs": [-1.0]}
    events = [
        chunk(text(0, "a", logprobs=logprobs)), chunk(text(1, "b")), chunk(text(0, "c")), chunk(text(0, "", "length")),
        chunk(text(1, "", "stop")), DONE,
    ]  # fmt: skip
    items, outcome = decode(CompletionsDecoder(), events)
    assert items == [
        "a", Logprobs(logprobs=logprobs), OpenPart(choice=1), "b", OpenPart(), "c",
        Finish(reason="length"), Finish(choice=1, reason="stop"),
    ]  # fmt: skip
    assert outcome.status is Status.INCOMPLETE


class TestResponses:
    def run(self, *bodies: dict[str, Any]) -> tuple[list[Item], Outcome]:
        return decode(ResponsesDecoder(), [event(body, str(body["type"])) for body in bodies])

    COMPLETED: dict[str, Any] = {  # noqa: RUF012  # a constant
        "type": "response.completed",
        "response": {"status": "completed", "model": "m-1", "usage": {"total_tokens": 5}, "error": None},
    }

    def test_text_deltas_become_text_and_all_else_is_kept_whole(self) -> None:
        created: dict[str, Any] = {"type": "response.created", "response": {"id": "r"}}
        text: dict[str, Any] = {
            "type": "response.output_text.delta",
            "item_id": "i",
            "output_index": 0,
            "content_index": 0,
            "logprobs": [],
        }
        items, outcome = self.run(created, {**text, "delta": "a"}, {**text, "delta": "b"}, self.COMPLETED)
        assert items == [
            Native(event=created), OpenPart(id="i"), "a", "b", Finish(reason="stop"), Native(event=self.COMPLETED),
        ]  # fmt: skip
        assert outcome == Outcome("stop", {"total_tokens": 5}, "m-1", Status.COMPLETED)

    def test_what_repeats_the_streamed_text_is_left_out_and_only_that(self) -> None:
        where: dict[str, Any] = {"item_id": "i", "output_index": 0, "content_index": 0}
        done: dict[str, Any] = {"type": "response.output_text.done", **where, "text": "ab"}
        part = {"type": "response.content_part.done", **where, "part": {"type": "output_text", "text": "ab"}}
        deltas = [{"type": "response.output_text.delta", **where, "delta": text} for text in "ab"]
        items, _ = self.run(*deltas, done, part, self.COMPLETED)
        assert items[:3] == [OpenPart(id="i"), "a", "b"]
        assert len(items) == 5
        items, _ = self.run(*deltas, {**done, "text": "other"}, self.COMPLETED)
        assert Native(event={**done, "text": "other"}) in items

    def test_function_calls_are_tool_calls_with_call_id_and_name(self) -> None:
        calls = [
            {
                "type": "response.output_item.added",
                "item": {"type": "function_call", "id": f"fc{n}", "call_id": f"c{n}", "name": f"f{n}"},
            }
            for n in (0, 1)
        ]
        arguments = [
            {"type": "response.function_call_arguments.delta", "item_id": f"fc{n}", "output_index": n, "delta": "{}"}
            for n in (0, 1)
        ]
        items, outcome = self.run(*calls, *arguments, self.COMPLETED)
        assert [item for item in items if isinstance(item, OpenPart)] == [
            OpenPart(part="tool_call", index=0, id="c0", name="f0"), OpenPart(part="tool_call", index=1, id="c1", name="f1"),
        ]  # fmt: skip
        assert outcome.finish_reason == "tool_calls"

    @pytest.mark.parametrize(
        ("kind", "part"),
        [("refusal", "refusal"), ("reasoning_text", "reasoning"), ("reasoning_summary_text", "reasoning")],
    )
    def test_refusals_and_reasoning_are_parts(self, kind: str, part: str) -> None:
        items, _ = self.run({"type": f"response.{kind}.delta", "item_id": "i", "delta": "x"}, self.COMPLETED)
        assert items[:2] == [OpenPart.model_validate({"part": part, "id": "i"}), "x"]

    def test_logprobs_of_a_delta_follow_it(self) -> None:
        body = {"type": "response.output_text.delta", "item_id": "i", "delta": "a", "logprobs": [{"token": "a"}]}
        assert self.run(body, self.COMPLETED)[0][1:3] == ["a", Logprobs(logprobs=[{"token": "a"}])]

    def test_incomplete_names_the_reason(self) -> None:
        body = {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}}
        assert self.run(body)[1] == Outcome("max_output_tokens", None, None, Status.INCOMPLETE)

    @pytest.mark.parametrize(
        "body",
        [
            {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "m"}}},
            {"type": "error", "code": "server_error", "message": "m"},
        ],
    )
    def test_failures_are_errors(self, body: dict[str, Any]) -> None:
        error = failure(ResponsesDecoder(), event(body))
        assert (error.detail.type, error.detail.code, error.detail.retryable) == (
            "upstream_error",
            "server_error",
            True,
        )

    def test_an_end_without_a_final_response_is_broken_even_with_done(self) -> None:
        assert failure(ResponsesDecoder(), event({"type": "response.created"}), DONE).detail.type == "upstream_broken"
