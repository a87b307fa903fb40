"""Responses through the gateway, over upstreams in each dress, asked by OpenAI's own package."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import httpx2
import openai
import pytest
from gateways import Served, served
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from engine import wait_until

#: One model of each dress: chat completions, legacy completions, Responses.
DRESSES: Final = ("rehearsal", "legacy-model", "native-model")


def told(**script: Any) -> dict[str, Any]:
    """What the rehearsal upstream is to answer."""
    return {"rehearsal": script}


@pytest.mark.parametrize("model", DRESSES)
async def test_a_response_is_answered_whole_and_streamed_alike(client: openai.AsyncOpenAI, model: str) -> None:
    whole = await client.responses.create(model=model, input="Hello", extra_body=told(text="Water runs."))
    async with client.responses.stream(model=model, input="Hello", extra_body=told(text="Water runs.")) as stream:
        events = [event async for event in stream]
        streamed = await stream.get_final_response()
    assert whole.output_text == streamed.output_text == "Water runs."
    assert whole.status == streamed.status == "completed"
    assert whole.usage is not None
    assert streamed.usage is not None
    assert whole.usage.output_tokens == streamed.usage.output_tokens > 0
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert events[0].type == "response.created"


@pytest.mark.parametrize("model", DRESSES)
async def test_a_response_in_the_background_is_answered_at_once_and_retrieved_while_it_runs(
    client: openai.AsyncOpenAI, model: str
) -> None:
    script = told(tokens=400, pace=0.01)
    begun = await client.responses.create(model=model, input="Count", background=True, extra_body=script)
    assert begun.status in ("queued", "in_progress")
    assert begun.background is True

    async def partial() -> bool:
        now = await client.responses.retrieve(begun.id)
        return now.status == "in_progress" and " token3" in now.output_text

    await wait_until("part of the output can be retrieved", partial)
    assert (await client.responses.cancel(begun.id)).status == "cancelled"
    again = await client.responses.cancel(begun.id)
    assert again.status == "cancelled"
    assert again.output_text.startswith(" token0 token1")


@pytest.mark.parametrize("model", DRESSES)
async def test_a_stream_that_was_left_is_resumed_behind_any_event_by_another_client(
    client: openai.AsyncOpenAI, gateway: Served, model: str
) -> None:
    script = told(tokens=60, pace=0.005)
    seen: list[Any] = []
    stream = await client.responses.create(model=model, input="Count", background=True, stream=True, extra_body=script)
    async for event in stream:
        seen.append(event)
        if len(seen) == 15:
            break
    await stream.close()
    job_id = seen[0].response.id
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as other:
        seen += [event async for event in await other.responses.retrieve(job_id, stream=True, starting_after=14)]
        assert [event.sequence_number for event in seen] == [*range(len(seen))]
        assert seen[-1].type == "response.completed"
        whole = [event async for event in await other.responses.retrieve(job_id, stream=True)]
        assert [event.to_json() for event in whole] == [event.to_json() for event in seen]
        last = len(seen) - 1
        assert [event async for event in await other.responses.retrieve(job_id, stream=True, starting_after=last)] == []
        with pytest.raises(openai.BadRequestError, match="pass the last one that you have seen"):
            await other.responses.retrieve(job_id, stream=True, starting_after=10_000)
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == seen[-1].response.output_text == "".join(f" token{number}" for number in range(60))


WEATHER: Final[Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize("model", ["rehearsal", "native-model"])
async def test_tools_are_called_and_their_outputs_answered(client: openai.AsyncOpenAI, model: str) -> None:
    first = await client.responses.create(model=model, input="Weather in Ulm?", tools=[WEATHER])
    call = first.output[-1]
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.name == "weather"
    second = await client.responses.create(
        model=model,
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}],
        tools=[WEATHER],
        extra_body=told(text="It rains."),
    )
    assert second.output_text == "It rains."
    assert second.previous_response_id == first.id


class Verse(BaseModel):
    title: str
    lines: list[str]


@pytest.mark.parametrize("model", ["rehearsal", "native-model"])
async def test_structured_output_is_parsed(client: openai.AsyncOpenAI, model: str) -> None:
    parsed = await client.responses.parse(model=model, input="A verse", text_format=Verse)
    assert isinstance(parsed.output_parsed, Verse)


async def test_a_conversation_is_joined_from_the_responses_before(client: openai.AsyncOpenAI, gateway: Served) -> None:
    first = await client.responses.create(
        model="rehearsal", instructions="Be brief.", input="One", extra_body=told(text="1")
    )
    second = await client.responses.create(
        model="rehearsal", previous_response_id=first.id, input="Two", extra_body=told(text="2")
    )
    await client.responses.create(
        model="native-model", previous_response_id=second.id, input="Three", extra_body=told(text="3")
    )
    await client.responses.delete(first.id)
    third = await client.responses.create(
        model="rehearsal",
        previous_response_id=second.id,
        instructions="Rhyme.",
        input="Three",
        extra_body=told(text="3"),
    )
    asked = gateway.engine.rehearsal.calls[-1].body["messages"]
    assert [(message["role"], message["content"]) for message in asked] == [
        ("system", "Rhyme."), ("user", "One"), ("assistant", "1"), ("user", "Two"), ("assistant", "2"), ("user", "Three"),
    ]  # fmt: skip
    items = [item async for item in client.responses.input_items.list(third.id, order="asc", limit=2)]
    texts = [item.to_dict()["content"][0]["text"] for item in items]  # type: ignore[index]  # JSON
    assert texts == ["One", "1", "Two", "2", "Three"]
    newest = await client.responses.input_items.list(third.id, limit=1)
    assert newest.data[0].id == items[-1].id
    assert newest.has_next_page()


async def test_a_response_says_again_how_it_was_asked_for(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(
        model="rehearsal",
        input="Hello",
        instructions="Be brief.",
        metadata={"who": "me"},
        temperature=0.5,
        max_output_tokens=3,
        tools=[WEATHER],
        tool_choice="none",
        reasoning={"effort": "low"},
        extra_body=told(tokens=9),
    )
    for response in (made, await client.responses.retrieve(made.id)):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.instructions == "Be brief."
        assert response.metadata == {"who": "me"}
        assert response.temperature == 0.5
        assert response.max_output_tokens == 3
        assert response.tools[0].to_dict() == WEATHER
        assert response.tool_choice == "none"
        assert response.reasoning is not None
        assert response.reasoning.effort == "low"
        assert response.background is False


async def test_a_deleted_response_is_not_found(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="rehearsal", input="Hello")
    await client.responses.delete(made.id)
    for ask in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await ask(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.input_items.list(made.id)


async def test_a_response_is_resumed_from_another_gateway_when_its_own_is_gone(gateway: Served) -> None:
    script = told(tokens=60, pace=0.01)
    seen: list[Any] = []
    async with (
        served(gateway.engine) as first,
        openai.AsyncOpenAI(base_url=f"{first.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = await client.responses.create(
            model="rehearsal", input="x", background=True, stream=True, extra_body=script
        )
        with suppress(openai.APIError, httpx2.RemoteProtocolError):
            async for event in stream:
                seen.append(event)
                first.server.should_exit = len(seen) >= 10
            pytest.fail("the stream ended as if it were whole")
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        job_id, last = seen[0].response.id, seen[-1].sequence_number
        seen += [event async for event in await client.responses.retrieve(job_id, stream=True, starting_after=last)]
    assert [event.sequence_number for event in seen] == [*range(len(seen))]
    assert seen[-1].response.output_text.endswith(" token59")


async def test_the_blocking_client_does_the_same(gateway: Served) -> None:
    def use(url: str) -> None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            begun = client.responses.create(
                model="rehearsal", input="Hi", background=True, extra_body=told(text="Yes.")
            )
            with client.responses.stream(response_id=begun.id, starting_after=2) as stream:
                numbers = [event.sequence_number for event in stream]
                assert stream.get_final_response().output_text == "Yes."
            assert numbers == [*range(3, 3 + len(numbers))]
            assert client.responses.retrieve(begun.id).output_text == "Yes."

    await asyncio.to_thread(use, gateway.url)


@pytest.mark.parametrize("model", DRESSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstreams_refusal_is_the_answer_in_the_foreground(
    client: openai.AsyncOpenAI, model: str, stream: bool
) -> None:
    with pytest.raises(openai.RateLimitError):
        await client.responses.create(
            model=model,
            input="x",
            stream=stream,
            extra_body=told(fault="status", code=429, retry_after=0),
            extra_headers={"x-tailrace-max-attempts": "1"},
        )


@pytest.mark.parametrize("model", DRESSES)
async def test_a_response_that_fails_in_the_background_says_so_in_stream_and_object(
    client: openai.AsyncOpenAI, model: str
) -> None:
    stream = await client.responses.create(
        model=model,
        input="x",
        stream=True,
        background=True,
        extra_body=told(tokens=9, fault="cut", at=4),
        extra_headers={"x-tailrace-max-attempts": "1"},
    )
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    kept = await client.responses.retrieve(events[-1].response.id)
    assert kept.status == "failed"
    assert kept.error is not None
    assert kept.error.code == "server_error"
    assert kept.output_text == " token0 token1 token2 token3"
    with pytest.raises(openai.BadRequestError, match="nothing goes on from it"):
        await client.responses.create(model=model, input="x", previous_response_id=kept.id)


async def test_a_rewind_closes_an_item_and_the_final_response_has_what_stands(client: openai.AsyncOpenAI) -> None:
    script = told(tokens=30, fault="cut", at=20, times=1, seed_by="call", differ_at=3, pace=0.005)
    stream = await client.responses.create(model="rehearsal", input="x", stream=True, extra_body=script)
    events = [event async for event in stream]
    done = [event.item.to_dict() for event in events if event.type == "response.output_item.done"]
    assert [item["status"] for item in done] == ["incomplete", "completed"]
    final = events[-1]
    assert final.type == "response.completed"
    assert final.response.output_text == (await client.responses.retrieve(final.response.id)).output_text
    assert final.response.output_text.endswith(" token29.2")
    assert "token4 " not in final.response.output_text


async def test_the_stream_of_a_cancelled_response_ends(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model="rehearsal", input="x", stream=True, background=True, extra_body=told(tokens=9, fault="stall", at=4)
    )
    events: list[Any] = []
    async for event in stream:
        events.append(event)
        if getattr(event, "delta", "") == " token3":
            await client.responses.cancel(events[0].response.id)
    assert events[-1].type == "response.output_item.done"
    assert events[-1].item.status == "incomplete"


async def test_a_response_that_is_not_to_be_stored_is_kept_for_a_minute(
    client: openai.AsyncOpenAI, gateway: Served
) -> None:
    made = await client.responses.create(model="native-model", input="x", store=False)
    assert made.to_dict()["store"] is False
    left_ms = await gateway.engine.redis.pttl(gateway.engine.settings.keys.log(made.id))
    assert 0 < left_ms <= 60_000
    assert gateway.engine.worker is not None


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input.str"),
        ({"input": "x", "background": True, "store": False}, "store"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": "x", "previous_response_id": "resp_unknown"}, "previous_response_id"),
        ({"input": "x", "previous_response_id": "no id"}, "previous_response_id"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
    ],
)
async def test_a_wrong_response_is_400_in_openais_shape(
    client: openai.AsyncOpenAI, wrong: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="rehearsal", extra_body=wrong)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


async def test_nobody_goes_on_from_a_response_that_is_still_running(client: openai.AsyncOpenAI) -> None:
    begun = await client.responses.create(
        model="rehearsal", input="x", background=True, extra_body=told(fault="stall", at=1)
    )
    with pytest.raises(openai.BadRequestError, match="wait for its end"):
        await client.responses.create(model="rehearsal", input="y", previous_response_id=begun.id)
    await client.responses.cancel(begun.id)


async def test_a_job_that_came_in_by_another_door_is_a_response_too(
    client: openai.AsyncOpenAI, gateway: Served
) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "u:x"}}],
        },
    ]
    job = await gateway.engine.tailrace.submit(messages=messages, model="rehearsal", params=told(text="Seen."))
    await job.result()
    assert (await client.responses.retrieve(job.id)).output_text == "Seen."
    events = [event async for event in await client.responses.retrieve(job.id, stream=True)]
    assert events[-1].type == "response.completed"
    next_one = await client.responses.create(model="rehearsal", input="More?", previous_response_id=job.id)
    messages[1]["content"][1]["image_url"]["detail"] = "auto"
    assert gateway.engine.rehearsal.calls[-1].body["messages"] == [
        *messages,
        {"role": "assistant", "content": "Seen."},
        {"role": "user", "content": "More?"},
    ]
    assert next_one.status == "completed"
