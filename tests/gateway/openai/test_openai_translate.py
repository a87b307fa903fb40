"""Requests of the Responses API in the words of other upstreams: pure, item by item, field by field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.gateway.errors import ApiError
from tailrace.gateway.openai.items import items_of, messages_of, prompt_of
from tailrace.gateway.openai.origin import asked_of, origin_of, with_origin
from tailrace.gateway.openai.translate import chat_arguments, completions_arguments, native_params
from tailrace.gateway.openai.upstreams import offered, target_of
from tailrace.schemas import JobRequest, Settings


def chat(**body: Any) -> dict[str, Any]:
    return chat_arguments(body, items_of(body.get("input", "x")), limit_field="max_tokens")


def params(**body: Any) -> Any:
    return chat(**body)["params"]


def test_instructions_and_leading_system_messages_are_one_system_message() -> None:
    messages = messages_of(
        items_of([{"role": "developer", "content": "Rhyme."}, {"role": "user", "content": "Hi"}]), "Be brief."
    )
    assert messages == [
        {"role": "system", "content": "Be brief.\n\nRhyme."},
        {"role": "user", "content": "Hi"},
    ]


def test_calls_of_one_turn_are_one_message_and_reasoning_is_left_out() -> None:
    messages = messages_of(
        [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "g", "arguments": '{"x":1}'},
            {"type": "function_call_output", "call_id": "a", "output": "1"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        ]
    )
    assert messages == [
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"x":1}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
    ]


def test_images_and_files_are_parts_of_a_message() -> None:
    parts: Any = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert messages_of(items_of([{"role": "user", "content": parts}]))[0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "web_search_call", "id": "ws_1"}, "input[0]"),
        ({"type": "item_reference", "id": "msg_1"}, "input[0]"),
        ({"role": "narrator", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": 3}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input[0].content[0]"),
        ({"role": "user", "content": ["x"]}, "input[0].content[0]"),
        ({"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image"}]}, "input[0].output"),
    ],
)
def test_an_item_that_a_chat_has_no_place_for_is_refused_by_its_name(item: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        messages_of(items_of([item]))
    assert (refused.value.status_code, refused.value.param) == (400, param)


def test_the_fields_of_a_response_are_those_of_a_chat() -> None:
    form = {"type": "json_schema", "name": "verse", "schema": {"type": "object"}, "strict": True}
    assert params(
        temperature=0,
        top_p=0.5,
        max_output_tokens=7,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": form, "verbosity": "low"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        truncation="auto",
        metadata={"a": "b"},
        store=False,
        background=True,
        stream=True,
        stream_options={"include_obfuscation": False},
        user="me",
        seed=3,
        top_k=40,
    ) == {
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 7,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verse", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "user": "me",
        "seed": 3,
        "top_k": 40,
    }


def test_tools_are_nested_and_the_choice_with_them() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": None}
    other = {"type": "function", "name": "g", "parameters": {"type": "object"}}
    nested = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert params(tools=[tool], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False) == {
        "tools": [nested],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
    }
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    assert params(tools=[tool, other], tool_choice=allowed) == {"tools": [nested], "tool_choice": "required"}
    assert params(tools=[], tool_choice="auto", parallel_tool_calls=True) == {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"instructions": ["x"]}, "instructions"),
    ],
)
def test_what_would_silently_change_the_answer_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**body)
    assert (refused.value.status_code, refused.value.param) == (400, param)


def test_a_legacy_prompt_is_the_text_and_a_conversation_has_its_speakers() -> None:
    assert completions_arguments({"max_output_tokens": 5, "instructions": "Go on."}, items_of("Once")) == {
        "prompt": "Go on.\n\nOnce",
        "params": {"max_tokens": 5},
    }
    turns = items_of([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert prompt_of([*turns, *items_of("c")], "Rhyme.") == "Rhyme.\n\nUser: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"
    with pytest.raises(ApiError):
        completions_arguments({"tools": [{"type": "function", "name": "f"}]}, items_of("x"))
    with pytest.raises(ApiError):
        prompt_of(items_of([{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]))


def test_an_upstream_of_responses_gets_every_field_but_the_gateways_own() -> None:
    body: Any = {
        "model": "m",
        "input": "x",
        "stream": True,
        "background": True,
        "previous_response_id": "r",
        "store": True,
    }
    assert native_params({**body, "tools": [{"type": "web_search"}], "instructions": "i"}) == {
        "tools": [{"type": "web_search"}],
        "instructions": "i",
    }
    assert native_params({**body, "store": False}) == {"store": False}


def test_the_limit_goes_by_the_name_that_the_upstream_knows() -> None:
    settings = Settings.model_validate(
        {
            "upstreams": {
                "default": {"base_url": "https://api.openai.com/v1", "models": ["gpt-4o-mini"]},
                "local": {
                    "base_url": "http://127.0.0.1:8080/v1",
                    "models": ["tiny", "gpt-4o-mini"],
                    "default_model": "l",
                },
                "native": {"api": "responses", "models": ["n"]},
            }
        }
    )

    def target(model: str | None, named: str | None = None) -> tuple[str, str, str]:
        found = target_of(settings, model, named, {})
        return found.upstream, found.dialect, found.limit_field

    assert target("gpt-4o-mini") == ("default", "chat", "max_completion_tokens")
    assert target("tiny") == target("l") == ("local", "chat", "max_tokens")
    assert target("n") == ("native", "responses", "max_completion_tokens")
    assert target(None) == target("unheard-of") == ("default", "chat", "max_completion_tokens")
    assert target("tiny", "native")[0] == "native"
    assert target("gpt-3.5-turbo-instruct")[1] == "completions"
    assert target_of(Settings(), None, None, {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}).limit_field == "max_tokens"
    assert offered(settings) == {"gpt-4o-mini": "default", "tiny": "local", "l": "local", "n": "native"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["~", "long " * 20, "longer " * 20]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["~", "a", "b"]), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(["type", "~", "content"]), json_values, max_size=3), max_size=4))
def test_an_origin_comes_back_as_it_was_and_says_no_long_text_twice(items: list[Any]) -> None:
    request = JobRequest.of("long " * 20, api="chat", params={"stop": "longer " * 20})
    origin = origin_of({"input": "x", "tools": [{"~": 1}], "instructions": "long " * 20}, items[:1], items[1:])
    # As it is stored, and read by another process.
    stored = json.loads(with_origin(request, origin).model_dump_json(exclude_defaults=True))
    asked = asked_of(JobRequest.model_validate(stored))
    assert [*asked.before, *asked.items] == items
    assert asked.given == {"tools": [{"~": 1}], "instructions": "long " * 20}
    assert json.dumps(stored).count("long long") == 10
