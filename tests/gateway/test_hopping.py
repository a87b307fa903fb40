"""One running job through every door: started by one client, read on by others, a position carried from each to the next."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

import openai
import pytest
from gateways import Served, raw, served
from redis.asyncio import Redis

from engine import engine, wait_until
from tailrace import START, AsyncTailrace, JobCancelled, Position
from tailrace.cli.exits import ExitCode
from tailrace.schemas import ChunkRecord

#: Never ends by itself, so that every door is gone through while it runs.
ENDLESS: Final = "rehearsal:fault=endless,pace=0.005"
SOME: Final = 10
MESSAGES: Final = [{"role": "user", "content": "hello"}]


class Read(NamedTuple):
    """What one door gave, and from where the next one goes on."""

    text: str
    position: Position


@pytest.fixture
async def gateway(real_redis: Redis, namespace: str) -> AsyncGenerator[Served]:
    async with engine(real_redis, namespace) as running, served(running) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: Served) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def by_event_source(gateway: Served, job_id: str, after: Position) -> Read:
    """As a browser that was cut off comes back: with the id of the last event that it had."""
    async with raw(gateway, f"/v1/jobs/{job_id}/stream", f"Last-Event-ID: {after}") as reader:
        await reader.read_text(SOME)
        return Read(reader.text, Position(reader.sse.last_id))


async def by_console(gateway: Served, job_id: str, after: Position) -> Read:
    """As the console follows a job: the events of all steps."""
    async with raw(gateway, f"/v1/jobs/{job_id}/events?after={after}") as reader:
        await reader.read_text(SOME)
        text = "".join(_said(message.json) for message in reader.sse.messages)
        return Read(text, Position(reader.sse.last_id))


async def by_python(gateway: Served, job_id: str, after: Position) -> Read:
    """As a program that has nothing but Redis and the job's id."""
    text = ""
    started = gateway.engine
    async with (
        AsyncTailrace(settings=started.settings, redis=started.redis) as tailrace,
        aclosing(tailrace.job(job_id).stream(after=after)) as chunks,
    ):
        async for chunk in chunks:
            text, after = text + chunk, chunk.position
            if text.count("token") >= SOME:
                break
    return Read(text, after)


async def by_chat(client: openai.AsyncOpenAI, job_id: str, after: Position) -> Read:
    """As the openai package follows a chat that somebody else began."""
    create: Any = client.chat.completions.create
    headers = {"x-tailrace-resume": job_id, "x-tailrace-after": after}
    text = ""
    async with await create(model=ENDLESS, messages=MESSAGES, stream=True, extra_headers=headers) as stream:
        async for chunk in stream:
            text, after = text + (chunk.choices[0].delta.content or ""), Position(chunk.position)
            if text.count("token") >= SOME:
                break
    return Read(text, after)


@asynccontextmanager
async def tail(gateway: Served, server_url: str, job_id: str, after: Position) -> AsyncGenerator[Process]:
    """`tailrace tail --after`, which has begun to print."""
    where = ["--redis-url", server_url, "--namespace", gateway.engine.settings.namespace]
    command = [sys.executable, "-m", "tailrace.cli", "tail", job_id, "--after", after, *where]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=kept)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def logged(gateway: Served, job_id: str) -> str:
    """The text of the log, past all views."""
    text = ""
    with suppress(JobCancelled):
        async for record in gateway.engine.tailrace.job(job_id).records():
            if isinstance(record, ChunkRecord):
                text += record.text
    return text


async def listed(gateway: Served, job_id: str) -> bool:
    jobs = (await gateway.http.get("/v1/jobs")).json()["jobs"]
    return job_id in [job["id"] for job in jobs]


async def test_what_the_openai_package_starts_is_read_on_by_every_reader_and_cancelled_in_the_console(
    gateway: Served, client: openai.AsyncOpenAI, server_url: str
) -> None:
    response_id, number, begun = "", 0, ""
    async with await client.responses.create(model=ENDLESS, input="hello", stream=True, background=True) as stream:
        async for event in stream:
            number = event.sequence_number
            if event.type == "response.created":
                response_id = event.response.id
            elif event.type == "response.output_text.delta":
                begun += event.delta
                if begun.count("token") >= SOME:
                    break  # its process dies, say

    assert await listed(gateway, response_id)
    # A page that is opened has seen nothing yet.
    read = [await by_event_source(gateway, response_id, START)]
    for door in (by_event_source, by_console, by_python):
        read.append(await door(gateway, response_id, read[-1].position))
    async with tail(gateway, server_url, response_id, read[-1].position) as tailing:
        assert tailing.stdout is not None
        first = await asyncio.wait_for(tailing.stdout.read(1), 20)
        resumed = await client.responses.retrieve(response_id, stream=True, starting_after=number)
        assert (await gateway.http.post(f"/v1/jobs/{response_id}/cancel")).json()["status"] == "cancelled"
        printed, _ = await tailing.communicate()
        assert tailing.returncode == ExitCode.CANCELLED
    rest = ""
    async for event in resumed:
        number += 1
        assert event.sequence_number == number
        if event.type == "response.output_text.delta":
            rest += event.delta

    text = await logged(gateway, response_id)
    assert "".join(each.text for each in read) + (first + printed).decode() == text
    assert begun + rest == text
    kept = await client.responses.retrieve(response_id)
    assert (kept.status, kept.output_text) == ("cancelled", text)
    assert not await listed(gateway, response_id)


async def test_what_the_native_api_starts_is_a_chat_and_a_response_too(
    gateway: Served, client: openai.AsyncOpenAI
) -> None:
    asked = {"model": ENDLESS, "messages": MESSAGES}
    job_id: str = (await gateway.http.post("/v1/jobs", json=asked)).json()["id"]

    read = [await by_chat(client, job_id, START)]
    for door in (by_python, by_console, by_event_source):
        read.append(await door(gateway, job_id, read[-1].position))
    read.append(await by_chat(client, job_id, read[-1].position))

    async def seen() -> bool:
        now = await client.responses.retrieve(job_id)
        return now.status == "in_progress" and now.output_text.startswith("".join(each.text for each in read))

    await wait_until("the response has what the others have read", seen)
    items = await client.responses.input_items.list(job_id)
    assert [item.to_dict()["content"] for item in items.data] == [[{"type": "input_text", "text": "hello"}]]
    async with raw(gateway, f"/v1/jobs/{job_id}/stream?after={read[-1].position}") as reader:
        assert (await client.responses.cancel(job_id)).status == "cancelled"
        await reader.read()
        assert reader.ended
        *messages, end = reader.sse.messages
        assert (end.event, end.json["status"]) == ("end", "cancelled")
        rest = "".join(message.json["text"] for message in messages)

    text = await logged(gateway, job_id)
    assert "".join(each.text for each in read) + rest == text
    assert (await client.responses.retrieve(job_id)).output_text == text


async def test_a_position_of_one_door_is_the_same_place_at_every_other(
    gateway: Served, client: openai.AsyncOpenAI
) -> None:
    asked: Any = {"model": "rehearsal:tokens=6", "messages": MESSAGES}
    create: Any = client.chat.completions.create
    stream = await create(**asked, stream=True)
    job_id = stream.response.headers["x-tailrace-job-id"]
    chunks = [chunk async for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    assert len(chunks) == 6
    job = gateway.engine.tailrace.job(job_id)
    for number, chunk in enumerate(chunks):
        rest = "".join(each.choices[0].delta.content for each in chunks[number + 1 :])
        assert "".join([each async for each in job.stream(after=chunk.position)]) == rest
        for stop in ("stream", "events"):
            async with raw(gateway, f"/v1/jobs/{job_id}/{stop}?after={chunk.position}") as reader:
                await reader.read()
                said = [message.json for message in reader.sse.messages if message.event == "message"]
                texts = [each["text"] if stop == "stream" else _said(each) for each in said]
                assert "".join(texts) == rest


def _said(event: dict[str, Any]) -> str:
    chunk = event["data"].get("chunk", "")
    return chunk if isinstance(chunk, str) else chunk["content"]
