"""The rehearsal upstream, asked by the real openai package through its three APIs."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError

from tailrace.upstreams.rehearsal import Rehearsal

SONG = "Write me a 1 verse song about sparkling water."
HI: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": WEATHER}} for name in ("look", "ask")]
RESPONSES_TOOLS: Any = [{"type": "function", "name": "look", "parameters": WEATHER}]


async def chat_chunks(client: AsyncOpenAI, **request: Any) -> list[Any]:
    asked: Any = {"model": "gpt-4o-mini", "messages": HI} | request
    return [chunk async for chunk in await client.chat.completions.create(stream=True, **asked)]


def joined(chunks: Sequence[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


async def events_of(client: AsyncOpenAI, **request: Any) -> list[Any]:
    asked: Any = {"model": "gpt-4o-mini", "input": "hi"} | request
    return [event async for event in await client.responses.create(stream=True, **asked)]


async def test_the_three_apis_tell_the_same_song_streamed_and_whole(client: AsyncOpenAI) -> None:
    legacy = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt=SONG)
    stream = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt=SONG, stream=True)
    pieces = [chunk.choices[0].text async for chunk in stream]
    messages: Any = [{"role": "user", "content": SONG}]
    chat = await client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    response = await client.responses.create(model="gpt-4o-mini", input=SONG)
    events = await events_of(client, input=SONG)

    assert "sparkling water" in legacy.choices[0].text
    assert len(pieces) > 40
    texts = {
        "".join(pieces),
        chat.choices[0].message.content,
        response.output_text,
        events[-1].response.output_text,
    }
    assert texts == {legacy.choices[0].text}


async def test_an_answer_depends_on_the_prompt_alone(client: AsyncOpenAI) -> None:
    async def answer(prompt: str) -> tuple[str, int]:
        whole = await client.completions.create(model="x", prompt=prompt)
        assert whole.usage is not None
        return whole.choices[0].text, whole.usage.completion_tokens

    first = [await answer(f"prompt {number}") for number in range(20)]
    again = [await answer(f"prompt {number}") for number in range(20)]
    assert first == again
    assert len({text for text, _ in first}) == 20
    assert all(40 <= tokens <= 120 for _, tokens in first)


async def test_a_limit_ends_the_answer_with_length_and_counts(client: AsyncOpenAI) -> None:
    chunks = await chat_chunks(
        client, model="rehearsal:tokens=9", max_completion_tokens=4, stream_options={"include_usage": True}
    )
    assert joined(chunks) == " token0 token1 token2 token3"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 4)
    assert all(chunk.usage is None for chunk in chunks[:-1])

    events = await events_of(client, model="rehearsal:tokens=9", max_output_tokens=4)
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert events[-1].response.output[0].status == "incomplete"
    assert events[-1].response.usage.output_tokens == 4


async def test_a_stop_sequence_is_not_sent(client: AsyncOpenAI) -> None:
    chunks = await chat_chunks(client, model="rehearsal:text=one two three four", stop=["ree", "three"])
    assert joined(chunks) == "one two "
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_choices_come_interleaved_each_with_its_end(client: AsyncOpenAI) -> None:
    chunks = await chat_chunks(client, n=3)
    indexes = [chunk.choices[0].index for chunk in chunks]
    assert indexes[:9] == [0, 1, 2] * 3
    assert len({joined(chunks, index) for index in range(3)}) == 3
    assert [c.choices[0].index for c in chunks if c.choices[0].finish_reason] != []
    assert sorted(c.choices[0].index for c in chunks if c.choices[0].finish_reason) == [0, 1, 2]


async def test_logprobs_name_every_token(client: AsyncOpenAI) -> None:
    chunks = await chat_chunks(client, model="rehearsal:text=one two", logprobs=True, top_logprobs=1)
    tokens = [c.choices[0].logprobs.content[0] for c in chunks if c.choices[0].logprobs]
    assert [token.token for token in tokens] == ["one", " two"]
    assert all(token.logprob < 0 and token.top_logprobs for token in tokens)
    legacy = await client.completions.create(model="rehearsal:text=one two", prompt="p", logprobs=1)
    assert legacy.choices[0].logprobs is not None
    assert legacy.choices[0].logprobs.text_offset == [1, 4]


async def test_tool_calls_come_in_fragments_that_fit_the_schema(client: AsyncOpenAI) -> None:
    chunks = await chat_chunks(client, tools=CHAT_TOOLS, extra_body={"rehearsal": {"calls": 2}})
    calls: list[Any] = []
    for chunk in chunks:
        calls += chunk.choices[0].delta.tool_calls or []
    assert [(call.index, call.function.name) for call in calls if call.id] == [(0, "look"), (1, "ask")]
    for index in (0, 1):
        fragments = [call.function.arguments for call in calls if call.index == index]
        assert len(fragments) > 2
        assert set(json.loads("".join(fragments))) == {"city", "days"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    chosen: Any = {"type": "function", "function": {"name": "ask"}}
    whole = await client.chat.completions.create(model="m", messages=HI, tools=CHAT_TOOLS, tool_choice=chosen)
    assert [c.function.name for c in whole.choices[0].message.tool_calls or [] if c.type == "function"] == ["ask"]


async def test_after_a_tools_result_and_with_tool_choice_none_comes_text(client: AsyncOpenAI) -> None:
    turns: Any = [*HI, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    told = await client.chat.completions.create(model="m", messages=turns, tools=CHAT_TOOLS)
    refused = await client.chat.completions.create(model="m", messages=HI, tools=CHAT_TOOLS, tool_choice="none")
    for answer in (told, refused):
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.content


async def test_structured_output_fits_its_schema(client: AsyncOpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
    whole = await client.chat.completions.create(model="m", messages=HI, response_format=form)
    assert isinstance(json.loads(whole.choices[0].message.content or "")["days"], int)
    flat: Any = {"format": {"type": "json_schema", "name": "w", "schema": WEATHER}}
    response = await client.responses.create(model="m", input="hi", text=flat)
    assert isinstance(json.loads(response.output_text)["city"], str)


async def test_reasoning_and_refusal_come_in_their_own_fields(client: AsyncOpenAI) -> None:
    chunks = await chat_chunks(client, model="rehearsal:reasoning=I think,refusal=I will not")
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "I think"
    assert "".join(delta.refusal or "" for delta in deltas) == "I will not"
    assert joined(chunks) == ""


async def test_a_response_is_a_complete_stream_that_the_sdk_can_fold(client: AsyncOpenAI) -> None:
    events = await events_of(client, model="rehearsal:reasoning=hm,text=Hello world,calls=1", tools=RESPONSES_TOOLS)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [item.type for item in events[-1].response.output] == ["reasoning", "message", "function_call"]
    for kind in ("output_item", "content_part"):
        added = [e for e in events if e.type == f"response.{kind}.added"]
        assert len(added) == len([e for e in events if e.type == f"response.{kind}.done"]) > 0
    async with client.responses.stream(model="rehearsal:reasoning=hm,text=Hello world", input="hi") as stream:
        async for _ in stream:
            pass
        folded = await stream.get_final_response()
    assert folded.output_text == "Hello world"
    assert folded.usage is not None
    assert folded.usage.output_tokens_details.reasoning_tokens == 1


async def test_exact_chunks_keep_empty_strings_nul_and_odd_line_ends(client: AsyncOpenAI) -> None:
    chunks = ["", "a\x00b", "水🌊", "", "\u2028\r\n"]
    streamed = await chat_chunks(client, extra_body={"rehearsal": {"chunks": chunks}})
    assert [chunk.choices[0].delta.content for chunk in streamed[1:-1]] == chunks


@pytest.mark.parametrize("shape", ["crlf=1", "comments=1", "split=3", "ascii=1", "crlf=1,comments=1,split=1"])
async def test_every_shape_of_the_stream_carries_the_same_text(client: AsyncOpenAI, shape: str) -> None:
    assert joined(await chat_chunks(client, model=f"rehearsal:text=wärme 水,{shape}")) == "wärme 水"


async def test_usage_can_come_with_the_last_choice(client: AsyncOpenAI) -> None:
    chunks = await chat_chunks(client, model="rehearsal:tokens=3,usage_in_last_choice=1")
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 3


async def test_a_partial_answer_is_continued_not_repeated(client: AsyncOpenAI) -> None:
    whole = (await client.completions.create(model="x", prompt="Tell me.")).choices[0].text
    rest = await client.completions.create(model="x", prompt="Tell me." + whole[:33])
    assert rest.choices[0].text == whole[33:]

    turns: Any = [*HI, {"role": "assistant", "content": " token0 tok"}]
    chunks = await chat_chunks(client, model="rehearsal:tokens=4", messages=turns)
    assert joined(chunks) == "en1 token2 token3"
    foreign: Any = [*HI, {"role": "assistant", "content": "elsewhere"}]
    assert joined(await chat_chunks(client, model="rehearsal:tokens=2", messages=foreign)) == " token0 token1"


async def test_with_seed_by_call_each_call_goes_its_own_way_from_a_word_on(client: AsyncOpenAI) -> None:
    async def tell() -> str:
        return joined(await chat_chunks(client, model="rehearsal:tokens=4,seed_by=call,differ_at=2"))

    assert [await tell() for _ in range(3)] == [
        " token0 token1 token2 token3",
        " token0 token1 token2.2 token3.2",
        " token0 token1 token2.3 token3.3",
    ]


async def test_a_wrong_key_an_odd_script_and_an_unknown_address_are_refused_in_openais_shape() -> None:
    async with Rehearsal(api_key="right") as server:
        async with AsyncOpenAI(base_url=server.base_url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(AuthenticationError) as unauthorized:
                await client.completions.create(model="m", prompt="p")
            assert unauthorized.value.code == "invalid_api_key"
        async with AsyncOpenAI(base_url=server.base_url, api_key="right", max_retries=0) as client:
            assert (await client.completions.create(model="rehearsal:tokens=1", prompt="p")).choices
            with pytest.raises(BadRequestError, match="known keys: ascii") as odd:
                await client.completions.create(model="rehearsal:fualt=cut", prompt="p")
            assert odd.value.param == "rehearsal"
            with pytest.raises(BadRequestError, match="model"):
                await client.completions.create(model="", prompt="p")
            with pytest.raises(NotFoundError):
                await client.embeddings.create(model="m", input="p")
            assert "rehearsal" in [model.id async for model in client.models.list()]
        assert [call.outcome for call in server.calls] == ["refused", "completed", "refused", "refused"]
        assert "right" not in str(server.calls)


async def test_the_pace_holds_back_the_tokens_and_the_client_sees_each_when_it_is_sent(
    rehearsal: Rehearsal, client: AsyncOpenAI
) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    stream = await client.completions.create(model="rehearsal:tokens=4,pace=0.03,ttft=0.06", prompt="p", stream=True)
    at = [loop.time() - start async for chunk in stream if chunk.choices[0].text]
    assert at[0] >= 0.06
    assert at[3] >= 0.15
    assert at[1] < at[3]
    assert rehearsal.calls[0].tokens == 4


async def test_the_leaving_of_a_client_is_seen_at_once(rehearsal: Rehearsal, client: AsyncOpenAI) -> None:
    for script in ("tokens=9,pace=30", "fault=stall,at=1", "fault=endless", "ttft=30", "fault=slow_headers"):
        leaving = asyncio.ensure_future(chat_chunks(client, model=f"rehearsal:{script}"))
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 1, "the call is running")
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 0, f"{script} is over", timeout=2)
    assert [call.outcome for call in rehearsal.calls] == ["aborted"] * 5


async def test_closing_the_server_ends_what_still_runs() -> None:
    async with Rehearsal() as server, AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0) as c:
        hanging = asyncio.ensure_future(chat_chunks(c, model="rehearsal:fault=stall"))
        await server.wait_until(lambda: server.open_streams == 1)
        await server.__aexit__(None, None, None)
        assert server.calls[0].outcome == "closed"
        assert isinstance((await asyncio.gather(hanging, return_exceptions=True))[0], Exception)
