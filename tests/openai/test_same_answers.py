"""What the openai package gets through tailrace is what it gets from the upstream itself."""

from collections.abc import Callable
from typing import Any, Final, cast

import openai
import pytest

MESSAGES: Final[list[Any]] = [{"role": "user", "content": "the weather in 'Rome', please"}]
PARAMETERS: Final = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL: Final[Any] = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
FLAT_TOOL: Final[Any] = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
SCHEMA: Final[Any] = {"type": "json_schema", "json_schema": {"name": "w", "schema": PARAMETERS}}
TWO_CALLS: Final[dict[str, Any]] = {"calls": [{"name": "a", "arguments": {"b": 1}}, {"name": "c", "arguments": {}}]}

#: Ids and times are each side's own; `position` is ours.
OWN: Final = {"id", "created", "created_at", "completed_at", "item_id", "position"}


def rehearsed(**script: Any) -> dict[str, Any]:
    return {"extra_body": {"rehearsal": script}}


CHAT: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "usage": {"stream_options": {"include_usage": True}},
    "tool": {"tools": [TOOL]},
    "two tool calls": rehearsed(**TWO_CALLS),
    "schema": {"response_format": SCHEMA},
    "reasoning": rehearsed(reasoning="let me think about that"),
    "refusal": rehearsed(refusal="I would rather not"),
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "limit": {"max_tokens": 3},
    "filtered": rehearsed(finish="content_filter"),
    "nothing": rehearsed(text=""),
    "usage in the last choice": rehearsed(usage_in_last_choice=True),
}
LEGACY: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "usage": {"stream_options": {"include_usage": True}},
    "limit": {"max_tokens": 3},
}
RESPONSES: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "tool": {"tools": [FLAT_TOOL]},
    "two tool calls": rehearsed(**TWO_CALLS),
    "reasoning": rehearsed(reasoning="let me think about that"),
    "refusal": rehearsed(refusal="I would rather not"),
    "logprobs": {"include": ["message.output_text.logprobs"]},
    "limit": {"max_output_tokens": 3},
}


def comparable(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: comparable(item) for name, item in fields.items() if name not in OWN}
    if isinstance(value, list):
        return [comparable(item) for item in cast("list[Any]", value)]  # type: ignore[redundant-cast]  # for pyright
    return value


def streamed(events: Any) -> list[Any]:
    return [comparable(event.model_dump()) for event in events]


def without_stream_options(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "stream_options"}


def by_choice(chunks: list[Any]) -> dict[int, list[Any]]:
    """The choices of a stream, one by one: upstreams let them take turns in their own ways."""
    choices: dict[int, list[Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices.setdefault(choice["index"], []).append(choice)
    return choices


@pytest.mark.parametrize("arguments", CHAT.values(), ids=CHAT)
def test_a_chat_stream(arguments: dict[str, Any], ours: Any, theirs: Any) -> None:
    both = [
        streamed(client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True, **arguments))
        for client in (ours, theirs)
    ]
    if arguments == CHAT["usage in the last choice"]:
        # Usage that was not asked for: the upstream tells it all the same, we do not.
        assert both[1][-1].pop("usage") is not None
        assert both[0][-1].pop("usage") is None
    assert both[0] == both[1]


def test_the_choices_of_a_chat_stream(ours: Any, theirs: Any) -> None:
    mine, upstreams = (
        by_choice(
            streamed(
                client.chat.completions.create(
                    model="gpt-4o-mini", messages=MESSAGES, stream=True, n=3, logprobs=True, tools=[TOOL]
                )
            )
        )
        for client in (ours, theirs)
    )
    assert len(mine) == 3
    assert mine == upstreams


@pytest.mark.parametrize("arguments", [*CHAT.values(), {"n": 2, "logprobs": True}], ids=[*CHAT, "choices"])
def test_a_chat_answer(arguments: dict[str, Any], ours: Any, theirs: Any) -> None:
    mine, upstreams = (
        client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, **without_stream_options(arguments))
        for client in (ours, theirs)
    )
    # Some servers give `tool_calls: null` as well: the package's models make both the same.
    assert comparable(mine.model_dump()) == comparable(upstreams.model_dump())


@pytest.mark.parametrize("arguments", [*LEGACY.values(), {"n": 2}], ids=[*LEGACY, "choices"])
def test_a_completions_stream(arguments: dict[str, Any], ours: Any, theirs: Any) -> None:
    mine, upstreams = (
        streamed(
            client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say something", stream=True, **arguments)
        )
        for client in (ours, theirs)
    )
    assert by_choice(mine) == by_choice(upstreams)
    assert [chunk["usage"] for chunk in mine] == [chunk["usage"] for chunk in upstreams]


def test_the_log_probabilities_of_a_completions_stream(ours: Any, theirs: Any) -> None:
    mine, upstreams = (
        [
            choice["logprobs"]
            for chunk in streamed(
                client.completions.create(
                    model="gpt-3.5-turbo-instruct", prompt="Say something", stream=True, logprobs=1
                )
            )
            for choice in chunk["choices"]
            # An object of empty lists says nothing, and the log does not keep it.
            if choice["logprobs"] and choice["logprobs"]["tokens"]
        ]
        for client in (ours, theirs)
    )
    assert len(mine) > 10
    assert mine == upstreams


@pytest.mark.parametrize("prompt", ["Say something", ["Say something", "Say more", "That will do"]])
def test_a_completion(prompt: Any, ours: Any, theirs: Any) -> None:
    mine, upstreams = (
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt=prompt, n=2) for client in (ours, theirs)
    )
    assert comparable(mine.model_dump(exclude={"usage"})) == comparable(upstreams.model_dump(exclude={"usage"}))
    assert len(mine.choices) == (2 if isinstance(prompt, str) else 6)
    assert mine.usage is not None
    assert upstreams.usage is not None
    assert mine.usage.completion_tokens == upstreams.usage.completion_tokens


@pytest.mark.parametrize("arguments", RESPONSES.values(), ids=RESPONSES)
def test_a_response_stream(arguments: dict[str, Any], ours: Any, theirs: Any) -> None:
    mine, upstreams = (
        streamed(client.responses.create(model="gpt-4o-mini", input="Say something", stream=True, **arguments))
        for client in (ours, theirs)
    )
    assert mine == upstreams
    assert [event["sequence_number"] for event in mine] == list(range(len(mine)))


@pytest.mark.parametrize("arguments", RESPONSES.values(), ids=RESPONSES)
def test_a_response(arguments: dict[str, Any], ours: Any, theirs: Any) -> None:
    mine, upstreams = (
        client.responses.create(model="gpt-4o-mini", input="Say something", **arguments) for client in (ours, theirs)
    )
    assert comparable(mine.model_dump()) == comparable(upstreams.model_dump())


def test_a_response_in_the_background_is_complete_when_it_comes(ours: Any) -> None:
    assert ours.responses.create(model="gpt-4o-mini", input="Say something", background=True).status == "completed"


def test_the_packages_own_helpers_work_on_top(ours: Any) -> None:
    with ours.chat.completions.stream(model="gpt-4o-mini", messages=MESSAGES) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content
    assert {"chunk", "content.delta", "content.done"} <= kinds


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_refusal_of_the_upstream(
    code: int, expected: type[openai.APIStatusError], stream: bool, ours: Any, theirs: Any
) -> None:
    refused: dict[str, Any] = rehearsed(fault="status", code=code, error_code="a_code", retry_after=0.01)
    headers = {"x-tailrace-max-attempts": "1"}
    ask: Callable[..., Any]
    for client in (ours, theirs):
        for ask in (
            lambda client=client: client.chat.completions.create(
                model="gpt-4o-mini", messages=MESSAGES, stream=stream, extra_headers=headers, **refused
            ),
            lambda client=client: client.responses.create(
                model="gpt-4o-mini", input="Hello", stream=stream, extra_headers=headers, **refused
            ),
        ):
            with pytest.raises(expected) as told:
                ask()
            assert (told.value.status_code, told.value.code) == (code, "a_code")
