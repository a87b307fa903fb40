"""The events of our models beside those of LangChain's own, over the same upstream."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

import httpx2
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from stack import Stack
from tailrace import Tailrace
from tailrace.langchain import ChatTailrace, TailraceLLM

Version = Literal["v1", "v2"]
Shape = Callable[[Any], Runnable[Any, Any]]

#: What differs by design: the class, the ids, and our job's id.
NAMES = {"ChatTailrace": "ChatOpenAI", "TailraceLLM": "OpenAI"}
OURS = {"run_id", "parent_ids", "id", "job_id"}

pytestmark = pytest.mark.filterwarnings("ignore:astream_events version")


class Weather(BaseModel):
    """Tell the weather."""

    city: str


def plain(value: Any) -> Any:
    """Events as JSON that can be compared."""
    if isinstance(value, BaseModel):
        return {"class": type(value).__name__} | plain(value.model_dump())
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: plain(item) for name, item in fields.items() if name not in OURS}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("list[Any]", value)]
    return NAMES.get(value, value) if isinstance(value, str) else value


def nesting(events: list[dict[str, Any]]) -> list[list[int]]:
    """Each event's run and its parents, numbered in the order of their first appearance."""
    numbers: dict[str, int] = {}
    for event in events:
        numbers.setdefault(event["run_id"], len(numbers))
    return [[numbers[event["run_id"]], *(numbers[parent] for parent in event["parent_ids"])] for event in events]


def by_run(events: list[dict[str, Any]]) -> list[list[Any]]:
    """Plain events, those of each run together: parallel runs take turns as they like."""
    runs: dict[str, list[Any]] = {}
    for event in events:
        runs.setdefault(event["run_id"], []).append(plain(event))
    return sorted(runs.values(), key=repr)


@asynccontextmanager
async def stock(stack: Stack, *, chat: bool) -> AsyncGenerator[ChatOpenAI | OpenAI]:
    assert stack.rehearsal is not None
    async with httpx2.AsyncClient() as http_client:
        below: dict[str, Any] = {
            "base_url": stack.rehearsal.base_url,
            "api_key": "none",
            "http_async_client": http_client,
        }
        if chat:
            yield ChatOpenAI(model="gpt-4o-mini", stream_usage=True, **below)
        else:
            yield OpenAI(model="gpt-3.5-turbo-instruct", **below)


async def collected(model: Runnable[Any, Any], asked: Any, version: Version) -> list[dict[str, Any]]:
    return [dict(event) async for event in model.astream_events(asked, version=version)]


CHAT: dict[str, Shape] = {
    "alone": lambda model: model,
    "tools": lambda model: model.bind_tools([Weather]),
    "structured": lambda model: model.with_structured_output(Weather, method="function_calling"),
    "logprobs": lambda model: model.bind(logprobs=True),
    "chain": lambda model: (
        RunnableLambda(lambda text: {"text": text})
        | ChatPromptTemplate.from_template("Say it again: {text}").with_config(tags=["prompt"])
        | model.with_config(tags=["model"], metadata={"colour": "blue"}, run_name="speaker")
        | StrOutputParser()
    ),
}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("shape", CHAT)
async def test_chat_events_are_those_of_chatopenai(
    shape: str, version: Version, langchain_stack: Stack, tailrace: Tailrace
) -> None:
    async with stock(langchain_stack, chat=True) as model:
        theirs = await collected(CHAT[shape](model), "the weather in 'Rome'", version)
    ours = await collected(
        CHAT[shape](ChatTailrace(model="gpt-4o-mini", tailrace=tailrace)), "the weather in 'Rome'", version
    )
    assert plain(ours) == plain(theirs)
    assert nesting(ours) == nesting(theirs)


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_llm_events_are_those_of_openai(version: Version, langchain_stack: Stack, tailrace: Tailrace) -> None:
    prompt = PromptTemplate.from_template("Tell me about {text}")
    async with stock(langchain_stack, chat=False) as model:
        theirs = await collected(prompt | model, {"text": "mills"}, version)
    ours = await collected(
        prompt | TailraceLLM(model="gpt-3.5-turbo-instruct", tailrace=tailrace), {"text": "mills"}, version
    )
    assert plain(ours) == plain(theirs)
    assert nesting(ours) == nesting(theirs)


async def test_parallel_branches_have_the_same_runs(langchain_stack: Stack, tailrace: Tailrace) -> None:
    def both(model: Any) -> Runnable[Any, Any]:
        return RunnableParallel[Any](left=model.with_config(tags=["left"]), right=model.with_config(tags=["right"]))

    def leaves(events: list[dict[str, Any]]) -> list[list[Any]]:
        return by_run([event for event in events if event["event"].startswith("on_chat_model")])

    async with stock(langchain_stack, chat=True) as model:
        theirs = await collected(both(model), "hello", "v2")
    ours = await collected(both(ChatTailrace(model="gpt-4o-mini", tailrace=tailrace)), "hello", "v2")
    assert leaves(ours) == leaves(theirs)
    assert len(leaves(ours)) == 2


def test_events_come_in_any_event_loop(tailrace: Tailrace) -> None:
    model = ChatTailrace(model="gpt-4o-mini", tailrace=tailrace)
    first, second = (asyncio.run(collected(model, "hello", "v2")) for _ in range(2))
    assert plain(first) == plain(second)
