"""The cases of Open Responses that go over HTTP, asked without anybody's package."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from aiohttp import web
from gateways import served
from open_responses import CHAT, NATIVE, Dressed, FunctionCall, Message, Response, check_events, check_stream, dressed
from redis.asyncio import Redis
from test_openai_responses import told

from engine import engine

BOTH: Final = pytest.mark.parametrize("model", [CHAT, NATIVE])
#: One red pixel.
IMAGE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
TIDES: Final[Any] = {
    "type": "function",
    "name": "tides",
    "description": "High water at a port.",
    "parameters": {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]},
}


@pytest.fixture
async def here(real_redis: Redis, namespace: str) -> AsyncGenerator[Dressed]:
    async with dressed(real_redis, namespace) as started:
        yield started


def message(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content, **fields}


@BOTH
async def test_a_message_is_answered_with_a_whole_response_object(here: Dressed, model: str) -> None:
    response = await here.respond(model=model, input=[message("user", "Name a river.")], **told(text="The Isar."))
    assert (response.status, response.said, response.model) == ("completed", "The Isar.", model)
    assert response.completed_at is not None
    assert response.usage is not None
    assert here.asked(model) == [("user", "Name a river.")]
    kept = await here.gateway.http.get(f"/v1/responses/{response.id}")
    assert Response.model_validate(kept.json()) == response


@BOTH
async def test_a_stream_has_events_of_the_required_shape_and_says_that_it_is_done(here: Dressed, model: str) -> None:
    asked = {"model": model, "input": [message("user", "Count.")], "stream": True, **told(tokens=5)}
    answer = await here.gateway.http.post("/v1/responses", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    response = check_events(check_stream(answer.content))
    assert (response.status, response.said) == ("completed", " token0 token1 token2 token3 token4")
    again = await here.gateway.http.get(f"/v1/responses/{response.id}", params={"stream": True, "starting_after": 2})
    assert check_stream(again.content) == check_stream(answer.content)[3:]


@BOTH
async def test_a_system_message_reaches_the_model_as_one(here: Dressed, model: str) -> None:
    given = [message("system", "Speak in verse."), message("user", "Hello.")]
    assert (await here.respond(model=model, input=given)).status == "completed"
    assert here.asked(model) == [("system", "Speak in verse."), ("user", "Hello.")]


@BOTH
async def test_a_tool_is_called_in_the_object_and_in_the_stream(here: Dressed, model: str) -> None:
    asked: Any = {"model": model, "input": [message("user", "When is high water in Emden?")], "tools": [TIDES]}
    response = await here.respond(**asked)
    assert response.tools[0].name == "tides"
    answer = await here.gateway.http.post("/v1/responses", json=asked | {"stream": True})
    events = check_stream(answer.content)
    for each in (response, check_events(events)):
        (call,) = [item for item in each.output if isinstance(item, FunctionCall)]
        assert (call.name, call.status) == ("tides", "completed")
        assert "port" in json.loads(call.arguments)
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert "".join(deltas) == done["arguments"] != ""


@BOTH
async def test_an_image_is_taken_beside_text(here: Dressed, model: str) -> None:
    parts = [{"type": "input_text", "text": "Which colour?"}, {"type": "input_image", "image_url": IMAGE}]
    response = await here.respond(model=model, input=[message("user", parts)], **told(text="Red."))
    assert response.said == "Red."
    image = "input_image" if model == NATIVE else "image_url"
    assert here.asked(model) == [("user", f"Which colour?|{image}")]


@BOTH
async def test_a_conversation_that_is_sent_whole_is_gone_on_from(here: Dressed, model: str) -> None:
    turns = [("user", "I am Ada."), ("assistant", "Good day, Ada."), ("user", "Who am I?")]
    response = await here.respond(model=model, input=[message(*turn) for turn in turns], **told(text="Ada."))
    assert response.said == "Ada."
    assert here.asked(model) == turns


@BOTH
async def test_phases_of_earlier_answers_are_taken(here: Dressed, model: str) -> None:
    given = [
        message("assistant", "Let me look it up.", phase="commentary"),
        message("assistant", "It is nine.", phase="final_answer"),
        message("user", "Say it again."),
    ]
    response = await here.respond(model=model, input=given)
    assert response.status == "completed"
    assert [text for _, text in here.asked(model)][-1] == "Say it again."
    # A chat has no word for them; whoever speaks Responses gets them.
    phases = [item.get("phase") for item in here.native.calls[-1].body["input"]] if model == NATIVE else []
    assert phases in ([], ["commentary", "final_answer", None])
    listed = (await here.gateway.http.get(f"/v1/responses/{response.id}/input_items?order=asc")).json()["data"]
    assert [item.get("phase") for item in listed] == ["commentary", "final_answer", None]
    assert [Message.model_validate(item).status for item in listed] == ["completed"] * 3


@asynccontextmanager
async def phased(*left_out: str) -> AsyncGenerator[str]:
    """An upstream that speaks Responses and says of its messages which phase they are of, without some fields; its address."""

    def without(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in left_out}

    async def answer(_: web.Request) -> web.StreamResponse:
        items: list[dict[str, Any]] = [
            {"id": f"msg_{phase}", "phase": phase, "status": "completed"}
            | message("assistant", [{"type": "output_text", "text": phase, "annotations": []}])
            for phase in ("commentary", "final_answer")
        ]
        response = {"id": "resp_up", "object": "response", "model": "m", "status": "completed", "output": items}
        events: list[dict[str, Any]] = [{"type": "response.created", "response": response | {"output": []}}]
        for index, item in enumerate(items):
            place = {"output_index": index, "item_id": item["id"], "content_index": 0}
            begun: dict[str, Any] = {"status": "in_progress", "content": []}
            part: dict[str, Any] = item["content"][0]
            events += [
                {"type": "response.output_item.added", "output_index": index, "item": item | begun},
                {"type": "response.content_part.added", **place, "part": part | {"text": ""}},
                {"type": "response.output_text.delta", **place, "delta": item["phase"]},
                {"type": "response.output_text.done", **place, "text": item["phase"]},
                {"type": "response.content_part.done", **place, "part": part},
                {"type": "response.output_item.done", "output_index": index, "item": item},
            ]
        events.append({"type": "response.completed", "response": response})
        numbered = [event | {"sequence_number": number} for number, event in enumerate(events)]
        sent: list[dict[str, Any]] = json.loads(json.dumps(numbered), object_hook=without)
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in sent]
        return web.Response(text="".join(lines), content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/responses", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


#: What llama.cpp's server does not say, and more.
_BY_HALVES: Final = ("sequence_number", "output_index", "content_index", "annotations", "status")


@pytest.mark.parametrize("left_out", [(), _BY_HALVES])
async def test_phases_of_the_answer_are_told_in_events_and_object_also_by_half_an_upstream(
    real_redis: Redis, namespace: str, left_out: tuple[str, ...]
) -> None:
    async with phased(*left_out) as base_url:
        upstream: Any = {"base_url": base_url, "api": "responses"}
        async with engine(real_redis, namespace, upstream=upstream) as running, served(running) as gateway:
            answer = await gateway.http.post("/v1/responses", json={"model": "m", "input": "x", "stream": True})
            events = check_stream(answer.content)
            response = check_events(events)
            again = await gateway.http.get(f"/v1/responses/{response.id}")
    for each in (response, Response.model_validate(again.json())):
        assert [(item.phase, item.status) for item in each.output if isinstance(item, Message)] == [
            ("commentary", "completed"),
            ("final_answer", "completed"),
        ]
    added = [event["item"]["phase"] for event in events if event["type"] == "response.output_item.added"]
    assert added == ["commentary", "final_answer"]
