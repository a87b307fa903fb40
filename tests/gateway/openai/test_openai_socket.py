"""The WebSocket mode of /v1/responses, by OpenAI's own package."""

import json
from typing import Any

import openai
import pytest
from gateways import Served
from test_openai_responses import told


async def test_responses_follow_one_another_over_one_connection(client: openai.AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        previous: str | None = None
        for number in ("One", "Two"):
            create: Any = {
                "type": "response.create",
                "model": "rehearsal",
                "input": number,
                "previous_response_id": previous,
            }
            await connection.send(create | told(text=f"{number}!"))
            events: list[Any] = []
            while not events or events[-1].type != "response.completed":
                events.append(await connection.recv())
            assert [event.sequence_number for event in events] == [*range(len(events))]
            assert events[-1].response.output_text == f"{number}!"
            assert events[-1].response.previous_response_id == previous
            previous = events[-1].response.id
    assert (await client.responses.retrieve(str(previous))).output_text == "Two!"


async def test_what_cannot_be_answered_is_an_error_event_and_the_connection_stays(client: openai.AsyncOpenAI) -> None:
    wrong: list[Any] = [
        "no JSON",
        "[]",
        '{"type": "response.steer"}',
        json.dumps({"type": "response.create", "model": "rehearsal"}),
        json.dumps({"type": "response.create", "model": "rehearsal", "input": 3}),
        json.dumps({"type": "response.create", "model": "rehearsal", "input": "x", "background": True}),
        json.dumps({"type": "response.create", "model": "rehearsal", "input": "x", **told(fault="status", code=400)}),
        json.dumps({"type": "response.create", "input": "x", "previous_response_id": "resp_none"}),
    ]
    async with client.responses.connect() as connection:
        for frame in wrong:
            await connection.send_raw(frame)
            event: Any = await connection.recv()
            assert event.type == "error", frame
            assert event.status == 400, frame
            assert event.error.message


async def test_lanes_are_answered_beside_each_other(client: openai.AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        for lane, script in (("slow", told(fault="stall", at=1)), ("fast", told(text="Done."))):
            create: Any = {"type": "response.create", "model": "rehearsal", "input": "x", "stream_id": lane, **script}
            await connection.send(create)
        seen: list[Any] = []
        while not seen or seen[-1].type != "response.completed":
            seen.append(await connection.recv())
        assert seen[-1].stream_id == "fast"
        assert {event.stream_id for event in seen} == {"slow", "fast"}
        slow = next(event.response.id for event in seen if event.stream_id == "slow")
    assert (await client.responses.cancel(slow)).status == "cancelled"


async def test_a_page_of_elsewhere_gets_no_connection(gateway: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(Exception, match="403"):
            async with client.responses.connect(extra_headers={"Origin": "http://evil.example"}):
                pass
