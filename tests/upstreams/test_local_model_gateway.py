"""The local model behind the gateway: OpenAI's own package as the client, a worker in between, a real model at the end."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from redis.asyncio import Redis

from engine import engine
from tailrace.gateway import create_app
from tailrace.gateway.serving import server
from tailrace.upstreams.local_model import LocalModel

pytestmark = [pytest.mark.local_model, pytest.mark.timeout(180)]

SONG = "Write me a song about sparkling water."


@pytest.fixture(params=["chat", "completions", "responses"])
async def client(
    request: pytest.FixtureRequest, real_redis: Redis, namespace: str, local_model: LocalModel
) -> AsyncGenerator[AsyncOpenAI]:
    """A client of a gateway whose upstream is the local model, asked by each of its APIs."""
    upstream: Any = {"base_url": local_model.base_url, "api": request.param, "default_model": "local"}
    async with (
        engine(real_redis, namespace, upstream=upstream, gateway={"port": 0}) as running,
        gateway_of(running.tailrace) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


@asynccontextmanager
async def gateway_of(tailrace: Any) -> AsyncGenerator[str]:
    """Its address."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    app = create_app(tailrace.settings, tailrace=tailrace)
    running = server(app, tailrace.settings, ready=address.set_result)
    task = asyncio.create_task(running.serve())
    try:
        yield await address
    finally:
        running.stop()
        await task


async def test_a_response_is_answered_whole_and_streamed_alike(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="local", input=SONG, max_output_tokens=24, temperature=0)
    assert whole.output_text
    assert whole.usage is not None
    assert whole.usage.output_tokens > 0
    async with client.responses.stream(model="local", input=SONG, max_output_tokens=24, temperature=0) as stream:
        events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 10
    final: Any = events[-1]
    assert final.type in ("response.completed", "response.incomplete")
    assert "".join(deltas) == final.response.output_text == whole.output_text


async def test_a_response_in_the_background_is_resumed_where_it_was_left(client: AsyncOpenAI) -> None:
    seen: list[Any] = []
    stream = await client.responses.create(
        model="local", input=SONG, background=True, stream=True, max_output_tokens=60, temperature=0
    )
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    response_id, last = seen[0].response.id, seen[-1].sequence_number
    rest = [e async for e in await client.responses.retrieve(response_id, stream=True, starting_after=last)]
    assert len(rest) > 10
    seen += rest
    assert [event.sequence_number for event in seen] == [*range(len(seen))]
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    kept = await client.responses.retrieve(response_id)
    assert text == seen[-1].response.output_text == kept.output_text
    assert kept.status in ("completed", "incomplete")
