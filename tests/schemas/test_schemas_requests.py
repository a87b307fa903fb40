"""Requests: whatever a caller passes is a checked request or an InvalidRequest that says what is wrong."""

import inspect
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from openai.resources import AsyncCompletions

from tailrace.schemas import (
    METADATA_LIMIT,
    REFUSED_PARAMS,
    Chunk,
    InvalidRequest,
    JobRequest,
    RequestLimits,
    completions_only,
)

SONG = "Write me a 1 verse song about sparkling water."
USER = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,"

# As a caller who does not run a type checker may pass it.
of: Any = JobRequest.of


def refusal(*args: Any, **arguments: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        of(*args, **arguments)
    return str(caught.value)


# -- which API ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "api"),
    [
        ("gpt-3.5-turbo-instruct", "completions"),
        ("davinci-002", "completions"),
        ("babbage-002", "completions"),
        ("my-own-instruct", "completions"),
        ("gpt-4o-mini", "chat"),
        ("instruct-gpt", "chat"),
        (None, "chat"),
    ],
)
def test_a_prompt_goes_to_completions_only_for_models_that_have_nothing_else(model: str | None, api: str) -> None:
    request = JobRequest.of(SONG, model=model)
    assert request.api == api
    assert completions_only(model) == (api == "completions")
    if api == "chat":
        assert (request.prompt, request.messages) == (None, [{"role": "user", "content": SONG}])
    else:
        assert (request.prompt, request.messages) == (SONG, None)


@pytest.mark.parametrize(
    ("arguments", "api"),
    [
        ({"messages": [USER]}, "chat"),
        ({"messages": (USER,)}, "chat"),
        ({"prompt": "hi", "model": "gpt-3.5-turbo-instruct", "api": "chat"}, "chat"),
        ({"prompt": "hi", "model": "gpt-4o", "api": "completions"}, "completions"),
        ({"input": "hi", "api": "responses"}, "responses"),
        ({"input": [USER]}, "responses"),
        ({"task": "research", "input": {"topic": "mills"}}, "task"),
        ({"task": "research"}, "task"),
        ({"task": "research", "input": 0, "api": "task"}, "task"),
    ],
)
def test_the_api_follows_from_what_is_passed(arguments: dict[str, Any], api: str) -> None:
    assert of(**arguments).api == api


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "nothing to do: pass a prompt"),
        ({"prompt": "a", "messages": [USER]}, "not messages and prompt"),
        ({"prompt": "a", "input": "b"}, "not input and prompt"),
        ({"messages": [USER], "input": "b"}, "not input and messages"),
        ({"task": "t", "prompt": "a"}, "a task takes input="),
        ({"task": "t", "input": 1, "api": "chat"}, "a task has no api"),
        ({"task": "", "input": 1}, "task is empty"),
        ({"input": "a", "api": "chat"}, "takes messages= or prompt=, not input="),
        ({"prompt": "a", "api": "responses"}, "takes input=, not prompt="),
        ({"messages": [USER], "api": "completions"}, "takes prompt=, not messages="),
        ({"prompt": "a", "api": "task"}, "api must be"),
        ({"prompt": "a", "api": "telepathy"}, "'telepathy'"),
        ({"prompt": "a", "api": ["chat"]}, "api must be"),
        ({"prompt": "a", "api": None}, "api must be"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_and_the_message_says_what_does(
    arguments: dict[str, Any], says: str
) -> None:
    assert says in refusal(**arguments)


# -- empty and malformed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "\u2003"])
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-3.5-turbo-instruct"])
def test_an_empty_prompt_is_refused(prompt: str, model: str) -> None:
    assert "the prompt is empty" in refusal(prompt, model=model)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": b"hi"}, "prompt must be a str, not bytes"),
        ({"prompt": 5}, "prompt must be a str, not int"),
        ({"messages": []}, "at least one message"),
        ({"messages": "hi"}, "must be a list"),
        ({"messages": USER}, "must be a list"),
        ({"messages": [USER, "hi"]}, r"messages[1] must be a dict with a 'role'"),
        ({"messages": [{"content": "hi"}]}, r"messages[0] must be a dict with a 'role'"),
        ({"messages": [{"role": 1}]}, r"messages[0]"),
        ({"input": ""}, "input must be a non-empty str"),
        ({"input": []}, "input must be a non-empty"),
        ({"input": {"a": 1}}, "input must be a non-empty"),
        ({"prompt": "a", "model": 5}, "model: "),
        ({"prompt": "a", "model": ""}, "model is empty"),
        ({"prompt": "a", "upstream": ""}, "upstream is empty"),
        ({"prompt": "a", "upstream": None}, "upstream: "),
        ({"prompt": "a", "tags": "song"}, "['song']"),
        ({"prompt": "a", "tags": 5}, "tags must be a list of str, not int"),
        ({"prompt": "a", "tags": [1]}, "tags.0"),
        ({"prompt": "a", "metadata": "user"}, "metadata must be a dict, not str"),
        ({"prompt": "a", "metadata": [1]}, "metadata must be a dict, not list"),
        ({"prompt": "a", "metadata": {1: 2}}, "metadata"),
        ({"prompt": "a", "metadata": {"a": object()}}, "metadata.a"),
        ({"prompt": "a", "on_restart": "again"}, "'splice', 'continue' or 'fail'"),
        ({"prompt": "a", "max_attempts": 0}, "max_attempts"),
        ({"prompt": "a", "max_attempts": 101}, "max_attempts"),
        ({"prompt": "a", "max_attempts": True}, "max_attempts"),
        ({"prompt": "a", "max_attempts": "2"}, "max_attempts"),
    ],
)
def test_a_malformed_argument_is_refused_and_named(arguments: dict[str, Any], says: str) -> None:
    assert says in refusal(**arguments)


# -- params -------------------------------------------------------------------------------------------------------


def test_params_go_into_the_body_as_they_are() -> None:
    params: dict[str, Any] = {"temperature": 0, "stop": ["\n"], "metadata": {"k": "v"}, "logit_bias": {"50256": -100}}
    request = of("hi", params=params, seed=None)
    assert request.params == {**params, "seed": None}
    assert request.metadata == {}


@pytest.mark.parametrize("name", sorted(REFUSED_PARAMS))
def test_params_that_would_steer_the_connection_are_refused_by_name(name: str) -> None:
    for message in (refusal("hi", **{name: "x"}), refusal("hi", params={name: {"Authorization": "x"}})):
        assert repr(name) in message
        assert "the operator configures that" in message


def test_every_connection_argument_of_the_openai_package_is_refused() -> None:
    client = {name for name in inspect.signature(AsyncOpenAI).parameters if not name.startswith("_")}
    call = {name for name in inspect.signature(AsyncCompletions.create).parameters if name.startswith("extra_")}
    # Routers such as OpenRouter know a body field of that name.
    assert client - {"provider"} | call | {"timeout"} <= REFUSED_PARAMS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"params": 3}, "params must be a dict"),
        ({"params": [("a", 1)]}, "params must be a dict"),
        ({"params": {1: 2}}, "no str: 1"),
        ({"seed": 1, "params": {"seed": 2}}, "'seed' is given twice"),
        ({"params": {"messages": []}}, "'messages' is an argument of submit"),
        ({"params": {"model": "x"}}, "'model' is an argument of submit"),
        ({"top_p": object()}, "params.top_p"),
        ({"top_p": (1, 2)}, "params.top_p"),
        ({"top_p": float("nan")}, "not JSON"),
        ({"top_p": float("inf")}, "not JSON"),
        ({"top_p": b"x"}, "params.top_p"),
    ],
)
def test_params_that_are_no_body_are_refused(arguments: dict[str, Any], says: str) -> None:
    assert says in refusal("hi", **arguments)


def test_a_structure_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for arguments in ({"messages": [{"role": "user", "content": loop}]}, {"input": loop}, {"prompt": "a", "x": loop}):
        assert "Recursion" in refusal(**arguments)


# -- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": "a\ud83d"},
        {"prompt": "a\udca7", "model": "gpt-3.5-turbo-instruct"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]},
        {"input": "\udfff"},
        {"prompt": "a", "metadata": {"\ud800": 1}},
        {"prompt": "a", "tags": ["\ud800"]},
        {"prompt": "a", "model": "\ud800"},
        {"prompt": "a", "stop": "\ud800"},
        {"prompt": "a", "\ud800": 1},
    ],
)
def test_a_lone_surrogate_anywhere_is_refused_with_its_code_point(arguments: dict[str, Any]) -> None:
    message = refusal(**arguments)
    assert "lone surrogate (U+D" in message
    message.encode()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda text: f"a{text}"))
def test_any_other_text_passes_unchanged_nul_included(text: str) -> None:
    assert JobRequest.of(text, model="gpt-3.5-turbo-instruct").prompt == text


def test_nul_passes() -> None:
    assert JobRequest.of("\0", model="gpt-3.5-turbo-instruct").prompt == "\0"


def test_a_chunk_can_be_a_prompt() -> None:
    assert JobRequest.of(Chunk("hi")).digest() == JobRequest.of("hi").digest()


# -- size ---------------------------------------------------------------------------------------------------------


def length(request: JobRequest) -> int:
    return len(request.canonical())


@pytest.mark.parametrize("letter", ["a", "é", "💧"])
def test_a_request_of_exactly_the_limit_passes_and_one_byte_more_is_refused(letter: str) -> None:
    request = JobRequest.of(letter * 10)
    limit = length(request)
    JobRequest.of(letter * 10, limits=RequestLimits(text_bytes=limit))
    message = refusal(letter * 10, limits=RequestLimits(text_bytes=limit - 1))
    assert f"has {limit} bytes of text, the limit is {limit - 1}" in message
    assert "limits.text_bytes" in message


def test_the_default_limit_is_eight_mebibytes_of_text() -> None:
    JobRequest.of("a" * (8 * 1024 * 1024 - 1024))
    assert f"the limit is {8 * 1024 * 1024}" in refusal("a" * (8 * 1024 * 1024))


def image(size: int) -> list[dict[str, Any]]:
    url = PNG + "A" * (size - len(PNG))
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_images_count_apart_from_text() -> None:
    limits = RequestLimits(text_bytes=300, image_bytes=1000)
    of(messages=image(1000), limits=limits)
    assert "the images have 1001 bytes, the limit is 1000" in refusal(messages=image(1001), limits=limits)
    assert "limits.image_bytes" in refusal(messages=image(1001), limits=limits)
    assert "bytes of text" in refusal(messages=[*image(1000), {**USER, "content": "a" * 300}], limits=limits)


@pytest.mark.parametrize("text", ["data:", "data: my list of ", "data:image/png,", "Data:image/png;base64,"])
def test_text_that_begins_like_an_image_counts_as_text(text: str) -> None:
    messages = [{"role": "user", "content": text + "a" * 300}]
    assert "bytes of text" in refusal(messages=messages, limits=RequestLimits(text_bytes=300))


def test_metadata_and_tags_have_a_limit_of_their_own_since_every_reader_gets_them() -> None:
    of("hi", metadata={"k": "a" * (METADATA_LIMIT - 100)})
    assert f"the limit is {METADATA_LIMIT}" in refusal("hi", metadata={"k": "é" * (METADATA_LIMIT // 2)})
    assert f"the limit is {METADATA_LIMIT}" in refusal("hi", tags=["a" * METADATA_LIMIT])


# -- durations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deadline", "retention", "delay"])
def test_a_duration_is_a_timedelta_or_seconds(name: str) -> None:
    given = [of("hi", **{name: value}) for value in (90, 90.0, timedelta(minutes=1.5))]
    assert [getattr(request, f"{name}_s") for request in given] == [90.0] * 3
    assert len({request.digest() for request in given}) == 1


@pytest.mark.parametrize("name", ["deadline", "retention", "delay"])
@pytest.mark.parametrize(
    "value",
    ["90", True, -1, -0.001, timedelta(seconds=-1), float("nan"), float("inf"), 367 * 86400, 10**30, [1], {"s": 1}],
)
def test_what_is_no_duration_is_refused_and_named(name: str, value: object) -> None:
    assert refusal("hi", **{name: value}).startswith(name)


def test_a_job_may_start_at_once_but_not_end_at_once() -> None:
    assert of("hi", delay=0).delay_s == 0
    assert refusal("hi", deadline=0).startswith("deadline")
    assert refusal("hi", retention=timedelta(0)).startswith("retention")


# -- digest -------------------------------------------------------------------------------------------------------


def test_digests_never_change_or_jobs_submitted_by_an_older_version_would_conflict() -> None:
    plain = JobRequest.of(SONG, model="gpt-3.5-turbo-instruct", temperature=0, max_tokens=512)
    full = JobRequest.of(
        messages=[{"role": "user", "content": "Größe 💧 \0"}],
        model="gpt-4o-mini",
        metadata={"user": "u1"},
        tags=["a"],
        deadline=60,
        retention=3600,
        delay=1,
        on_restart="fail",
        max_attempts=1,
        params={"metadata": {"k": "v"}},
    )
    assert plain.digest() == "a05aa6d19b0b5edd66d23ac61b4a537219f381eea36efb0c9986558b9bd99451"
    assert full.digest() == "486c2451dc8e13bfb4080f257965508585c41f76d6c65b3d541eaa5e449333b5"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["seed", "top_p", "stop", "user", "tools"]), json_values), st.randoms())
def test_a_digest_does_not_depend_on_the_order_of_keys_and_survives_storage(
    params: dict[str, Any], random: Any
) -> None:
    request = of("hi", **params)
    shuffled = list(params.items())
    random.shuffle(shuffled)
    assert of("hi", params=dict(shuffled)).digest() == request.digest()
    assert JobRequest.model_validate_json(request.canonical()) == request
    assert JobRequest.model_validate_json(request.canonical()).digest() == request.digest()


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "hi!"},
        {"prompt": "hi", "model": "gpt-4o"},
        {"prompt": "hi", "upstream": "local"},
        {"prompt": "hi", "seed": 1},
        {"prompt": "hi", "metadata": {"a": 1}},
        {"prompt": "hi", "tags": ["a"]},
        {"prompt": "hi", "deadline": 60},
        {"prompt": "hi", "on_restart": "fail"},
        {"prompt": "hi", "max_attempts": 2},
        {"prompt": "hi", "api": "completions"},
    ],
)
def test_another_request_has_another_digest(other: dict[str, Any]) -> None:
    assert of(**other).digest() != of("hi").digest()


def test_what_is_left_out_and_what_is_its_default_are_the_same_request() -> None:
    assert of("hi").digest() == of("hi", deadline=3600, tags=[], metadata={}, delay=0, max_attempts=3).digest()


# -- anything at all ----------------------------------------------------------------------------------------------

anything = st.one_of(
    json_values,
    st.text(max_size=4),
    st.binary(max_size=4),
    st.floats(),
    st.tuples(st.integers()),
    st.sets(st.integers(), max_size=2),
    st.dictionaries(st.one_of(st.integers(), st.text(max_size=2), st.none()), st.integers(), max_size=2),
    st.builds(object),
    st.sampled_from([USER, [USER], ["a"], "auto", "chat", "task", Ellipsis, 1 + 1j, timedelta(days=1), type]),
)
ARGUMENTS = [*(name for name in inspect.signature(of).parameters if name != "limits"), "temperature", "timeout"]


@given(st.dictionaries(st.sampled_from(ARGUMENTS), anything))
def test_whatever_is_passed_gives_a_request_or_an_invalid_request(arguments: dict[str, Any]) -> None:
    try:
        request = of(**arguments)
    except InvalidRequest:
        return
    assert JobRequest.model_validate_json(request.canonical()).digest() == request.digest()
