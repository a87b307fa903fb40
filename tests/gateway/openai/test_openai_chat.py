"""Chat completions and legacy completions through the gateway, asked by OpenAI's own package."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any, Final

import httpx2
import openai
import pytest
from gateways import Served, served
from test_openai_responses import told

from engine import wait_until
from tailrace import Status

MESSAGES: Final[Any] = [{"role": "user", "content": "Hello"}]
ONCE: Final = {"x-tailrace-max-attempts": "1"}


async def ask(client: openai.AsyncOpenAI, **asked: Any) -> Any:
    """A chat completion: its types have no place for half of what is asked here."""
    create: Any = client.chat.completions.create
    return await create(**asked)


async def test_a_chat_is_answered_whole_and_streamed_alike(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "rehearsal", "messages": MESSAGES, "n": 2, "logprobs": True, "extra_body": told(tokens=4)}
    whole = await ask(client, **asked)
    stream = await ask(client, **asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    for choice in whole.choices:
        mine = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(each.delta.content or "" for each in mine) == choice.message.content == _tokens(4)
        assert [each.finish_reason for each in mine][-1] == choice.finish_reason == "stop"
        logprobs = [token for each in mine if each.logprobs for token in each.logprobs.content or ()]
        assert choice.logprobs is not None
        assert logprobs == choice.logprobs.content
        assert len(logprobs) == 4
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


async def test_tools_are_called_in_both_forms(client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    asked: Any = {"model": "rehearsal", "messages": MESSAGES, "tools": [tool]}
    whole = await ask(client, **asked)
    async with client.chat.completions.stream(**asked) as stream:
        streamed: Any = await stream.get_final_completion()
    completion: Any
    for completion in (whole, streamed):
        calls = completion.choices[0].message.tool_calls
        assert calls
        assert (calls[0].function.name, calls[0].function.arguments) == ("weather", "{}")
        assert completion.choices[0].finish_reason == "tool_calls"


async def test_legacy_completions_are_answered_for_one_prompt_or_several(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "legacy-model", "extra_body": told(tokens=3)}
    create: Any = client.completions.create
    whole = await create(prompt=["One", "Two"], **asked)
    assert [(choice.index, choice.text) for choice in whole.choices] == [(0, _tokens(3)), (1, _tokens(3))]
    stream = await create(prompt="One", stream=True, **asked)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == _tokens(3)
    with pytest.raises(openai.BadRequestError):
        await create(prompt=["One", "Two"], stream=True, **asked)


async def test_the_job_of_an_answer_is_named_and_can_be_followed_elsewhere(
    client: openai.AsyncOpenAI, gateway: Served
) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="rehearsal", messages=MESSAGES, stream=True)
    job_id = raw.headers["x-tailrace-job-id"]
    assert raw.request_id == job_id
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in raw.parse() if chunk.choices])
    assert await gateway.engine.tailrace.job(job_id).text() == text


@pytest.mark.parametrize("headers", [{"x-tailrace-job-id": "mine"}, {"idempotency-key": "any key: even this"}])
async def test_a_request_sent_again_under_its_name_is_one_job(
    client: openai.AsyncOpenAI, gateway: Served, headers: dict[str, str]
) -> None:
    asked: Any = {"model": "rehearsal", "messages": MESSAGES, "extra_headers": headers}
    first = await ask(client, **asked)
    again = await ask(client, **asked)
    assert again == first
    assert len(gateway.engine.rehearsal.calls) == 1
    with pytest.raises(openai.ConflictError):
        await ask(client, **{**asked, "messages": [{"role": "user", "content": "Another"}]})


async def test_a_stream_that_was_left_is_resumed_by_its_position(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "rehearsal", "messages": MESSAGES, "stream": True, "extra_body": told(tokens=40, pace=0.005)}
    text, headers = "", dict[str, str]()
    create: Any = client.chat.completions.with_raw_response.create
    raw = await create(**asked)
    stream = raw.parse()
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if text.count("token") == 7:
            headers = {"x-tailrace-resume": raw.headers["x-tailrace-job-id"], "x-tailrace-after": chunk.position}
            break
    await stream.close()
    rest: Any = await ask(client, **asked, extra_headers=headers)
    async for chunk in rest:
        text += chunk.choices[0].delta.content or ""
    assert text == _tokens(40)
    with pytest.raises(openai.BadRequestError, match="is a chat job"):
        await client.completions.create(model="legacy-model", prompt="x", extra_headers=headers)


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (429, openai.RateLimitError),
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (503, openai.InternalServerError),
        # The gateway's key, not the client's.
        (401, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstreams_refusal_is_the_answer(
    client: openai.AsyncOpenAI, code: int, raised: type[openai.APIStatusError], stream: bool
) -> None:
    script = told(fault="status", code=code, retry_after=0)
    with pytest.raises(raised) as refused:
        await ask(client, model="rehearsal", messages=MESSAGES, stream=stream, extra_body=script, extra_headers=ONCE)
    assert refused.value.status_code == (502 if code == 401 else code)
    assert refused.value.response.headers["x-should-retry"] == "false"


async def test_a_stream_that_fails_says_why_and_breaks_off(client: openai.AsyncOpenAI, gateway: Served) -> None:
    asked: Any = {"model": "rehearsal", "messages": MESSAGES, "stream": True, **told(fault="cut", at=5, tokens=9)}
    received = b""
    async with gateway.http.stream("POST", "/v1/chat/completions", json=asked, headers=ONCE) as response:
        assert response.status_code == 200
        with suppress(httpx2.RemoteProtocolError):
            async for piece in response.aiter_bytes():
                received += piece
            pytest.fail("the stream ended as if it were whole")
    assert b"token4" in received
    assert received.rstrip().rpartition(b"\n")[2].startswith(b'data: {"error":{"message":')
    assert b"[DONE]" not in received
    stream = await ask(
        client,
        model="rehearsal",
        messages=MESSAGES,
        stream=True,
        extra_body=told(fault="cut", at=5),
        extra_headers=ONCE,
    )
    with pytest.raises(openai.APIError, match="broke in the middle"):
        _ = [chunk async for chunk in stream]


async def test_a_stream_cannot_take_text_back(client: openai.AsyncOpenAI) -> None:
    script = told(tokens=30, fault="cut", at=20, times=1, seed_by="call", differ_at=3, pace=0.01)
    stream = await ask(client, model="rehearsal", messages=MESSAGES, stream=True, extra_body=script)
    with pytest.raises(openai.APIError, match="rewound") as broken:
        _ = [chunk async for chunk in stream]
    assert broken.value.code == "stream_rewound"


async def test_a_quiet_stream_is_kept_alive_without_an_event(gateway: Served) -> None:
    """OpenAI's package takes a `retry:` line, and an empty line behind a comment, for an event without data."""
    async with (
        served(gateway.engine, heartbeat_s=0.05) as lively,
        openai.AsyncOpenAI(base_url=f"{lively.url}/v1", api_key="none", max_retries=0) as client,
    ):
        script = told(tokens=3, pace=0.2, ttft=0.2)
        chat = await ask(client, model="rehearsal", messages=MESSAGES, stream=True, extra_body=script)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in chat]) == _tokens(3)
        response = await client.responses.create(model="rehearsal", input="x", stream=True, extra_body=script)
        assert [event.type async for event in response][-1] == "response.completed"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_only_if_it_said_so(gateway: Served, stream: bool) -> None:
    tailrace = gateway.engine.tailrace
    ways: list[tuple[str, dict[str, str]]] = [("goes-on", {}), ("ends", {"x-tailrace-cancel-on-close": "true"})]
    for number, (job_id, headers) in enumerate(ways):
        asked = {"model": "rehearsal", "messages": MESSAGES, "stream": stream, **told(tokens=9, fault="stall", at=4)}
        call = asyncio.create_task(
            gateway.http.post("/v1/chat/completions", json=asked, headers={"x-tailrace-job-id": job_id, **headers})
        )
        await wait_until("the upstream answers", partial(_began, gateway, number))
        call.cancel()
        await asyncio.wait([call])
    await wait_until("the job is cancelled", lambda: _is(gateway, "ends", Status.CANCELLED))
    assert await tailrace.job("goes-on").status() is Status.IN_PROGRESS
    await tailrace.job("goes-on").cancel()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"messages": []}',
        b'{"messages": 3}',
        b'{"messages": [{"content": "no role"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "stream": "yes"}',
        b'{"messages": [{"role": "user", "content": "x"}], "model": ""}',
        b'{"messages": [{"role": "user", "content": "x"}], "extra_headers": {"Host": "evil"}}',
    ],
)
async def test_a_wrong_request_is_400_in_openais_shape(gateway: Served, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await gateway.http.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "headers", [{"x-tailrace-deadlin": "3"}, {"x-tailrace-deadline": "soon"}, {"x-tailrace-job-id": "a b"}]
)
async def test_a_wrong_header_is_refused_by_its_name(client: openai.AsyncOpenAI, headers: dict[str, str]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(client, model="rehearsal", messages=MESSAGES, extra_headers=headers)
    assert refused.value.param in headers


async def test_the_models_that_are_configured_are_listed(client: openai.AsyncOpenAI) -> None:
    models = {model.id: model.owned_by async for model in client.models.list()}
    assert models == {"rehearsal": "default", "legacy-model": "legacy", "native-model": "native"}
    assert (await client.models.retrieve("native-model")).owned_by == "native"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("org/unheard-of")


def _tokens(count: int) -> str:
    return "".join(f" token{number}" for number in range(count))


def _began(gateway: Served, calls: int) -> bool:
    return len(gateway.engine.rehearsal.calls) > calls and gateway.engine.rehearsal.calls[-1].tokens >= 4


async def _is(gateway: Served, job_id: str, status: Status) -> bool:
    return await gateway.engine.tailrace.job(job_id).status() is status
