"""Runnables as tasks beside LangChain's own events of them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

import httpx2
from langchain_core.outputs import Generation
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel
from redis.asyncio import Redis

from engine import Engine, engine
from tailrace import App
from tailrace.langchain import revive

Version = Literal["v1", "v2"]
Event = Mapping[str, Any]

#: Random, and told by us in another way.
_IDS = {"id", "run_id", "langgraph_checkpoint_ns", "checkpoint_ns"}


@asynccontextmanager
async def world(redis: Redis, namespace: str, app: App, **sections: Any) -> AsyncGenerator[tuple[Engine, ChatOpenAI]]:
    """The engine with these tasks, and a model that asks its upstream."""
    async with httpx2.AsyncClient() as client, engine(redis, namespace, app=app, **sections) as running:
        yield running, chat(running, client)


def chat(running: Engine, client: httpx2.AsyncClient, **more: Any) -> ChatOpenAI:
    below: dict[str, Any] = {"base_url": running.rehearsal.base_url, "api_key": "none", "http_async_client": client}
    return ChatOpenAI(model="gpt-4o-mini", stream_usage=True, **below, **more)


def completion(running: Engine, client: httpx2.AsyncClient) -> OpenAI:
    below: dict[str, Any] = {"base_url": running.rehearsal.base_url, "api_key": "none", "http_async_client": client}
    return OpenAI(model="gpt-3.5-turbo-instruct", **below)


async def theirs(runnable: Any, given: Any, version: Version = "v2") -> list[Event]:
    return [event async for event in runnable.astream_events(given, version=version)]


async def ours(running: Engine, task: str, given: Any, version: Version = "v2") -> list[Event]:
    """The events of the runnable's own runs: the job's root run is left out, and revived is what can be."""
    job = await running.tailrace.submit(task=task, input=given)
    events = [event async for event in job.stream_events(version=version)]
    root = events[0]["run_id"]
    return [
        {
            **event,
            "data": revive(event["data"]),
            "parent_ids": [above for above in event["parent_ids"] if above != root],
        }
        for event in events
        if event["run_id"] != root
    ]


def plain(value: Any) -> Any:
    """Values that can be compared: without ids, with lists for tuples."""
    if isinstance(value, Generation):  # LangChain tells them as dicts; revived they are objects again
        return plain(value.model_dump())
    if isinstance(value, BaseModel):
        return {"class": type(value).__name__} | plain(value.model_dump())
    if isinstance(value, dict):
        return {name: plain(item) for name, item in cast("dict[str, Any]", value).items() if name not in _IDS}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("list[Any]", value)]
    return value


def steps(events: list[Event], *, data: bool = True) -> list[Any]:
    """All that is told of the runs but what they stream: name, nesting, tags, metadata and data, in order."""
    numbers: dict[str, int] = {}
    told: list[Any] = []
    for event in events:
        numbers.setdefault(event["run_id"], len(numbers))
        if event["event"].endswith("_stream"):
            continue
        told.append(
            [
                event["event"],
                event["name"],
                numbers[event["run_id"]],
                [numbers[above] for above in event["parent_ids"]],
                event["tags"],
                plain(event["metadata"]),
                plain(event["data"]) if data else None,
            ]
        )
    return told


def by_run(events: list[Event]) -> list[Any]:
    """The steps of each run by themselves: parallel runs take turns as they like."""
    runs: dict[str, list[Event]] = {}
    for event in events:
        runs.setdefault(event["run_id"], []).append({**event, "parent_ids": []})
    return sorted((steps(run) for run in runs.values()), key=repr)


def streamed(events: list[Event], *kinds: str) -> dict[str, list[Any]]:
    """The chunks of each run (named by its name and the order of its first chunk) of these kinds, but for empty texts."""
    numbers: dict[str, str] = {}
    chunks: dict[str, list[Any]] = {}
    for event in events:
        if event["event"] in {f"on_{kind}_stream" for kind in kinds} and event["data"]["chunk"] != "":
            name = numbers.setdefault(event["run_id"], f"{event['name']} {len(numbers)}")
            chunks.setdefault(name, []).append(plain(event["data"]["chunk"]))
    return chunks


def joined(events: list[Event]) -> dict[str, Any]:
    """What each model has streamed, put together: text, tool calls, usage."""
    whole: dict[str, Any] = {}
    for event in events:
        if event["event"] in ("on_chat_model_stream", "on_llm_stream"):
            chunk = event["data"]["chunk"]
            known = whole.get(event["run_id"])
            whole[event["run_id"]] = chunk if known is None else known + chunk
    return {
        str(number): chunk if isinstance(chunk, str) else [chunk.text, chunk.tool_calls, chunk.usage_metadata]
        for number, chunk in enumerate(whole.values())
    }
