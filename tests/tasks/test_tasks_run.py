"""A task from end to end: its steps are runs, its text and output come through, its errors are told."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis

from engine import engine
from tailrace import App, Context, InvalidRequest, JobFailed, StepFailed


class Report(BaseModel):
    title: str
    words: int


def script(**fields: Any) -> dict[str, Any]:
    return {"params": {"rehearsal": fields}}


async def test_steps_in_sequence_and_side_by_side_are_runs_of_one_log(redis: Redis, namespace: str) -> None:
    app = App()

    def count(text: str) -> int:
        return len(text.split())

    @app.task
    async def research(ctx: Context, topic: str) -> Report:
        plan = await ctx.llm(f"plan {topic}", name="plan", **script(text="a plan"))
        one, two = await ctx.gather(
            ctx.llm(f"read one {plan}", name="read", tags=["side"], **script(text="first paper")),
            ctx.llm(f"read two {plan}", name="read", **script(text="second paper")),
        )
        words = await ctx.step("count", count, f"{one} {two}")
        ctx.emit("counted", {"words": words})
        return Report(title=topic, words=words)

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="research", input="otters")
        result = await job.result(timeout=10)
        assert result.output_as(Report) == Report(title="otters", words=4)
        events = [event async for event in job.stream_events()]
        shown = [(event["event"], event["name"]) for event in events if not event["event"].endswith("_stream")]
        assert shown[0] == ("on_chain_start", "research")
        assert shown[-1] == ("on_chain_end", "research")
        assert shown.count(("on_chat_model_start", "read")) == shown.count(("on_chat_model_end", "read")) == 2
        assert ("on_custom_event", "counted") in shown
        root = events[0]["run_id"]
        assert all(event["parent_ids"] == [root] for event in events if event["name"] in ("plan", "read", "count"))
        plan_end = next(event for event in events if event["event"] == "on_chat_model_end")
        assert plan_end["data"]["output"]["content"] == "a plan"  # type: ignore[index,call-overload]  # JSON


async def test_a_generator_streams_its_text(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def story(ctx: Context) -> AsyncGenerator[str]:
        yield "Once "
        async for piece in ctx.llm("go on", **script(text="upon a time")):
            yield piece
        yield "."

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="story")
        assert "".join([chunk async for chunk in job.stream()]) == "Once upon a time."
        assert await job.text() == "Once upon a time."


async def test_a_step_that_fails_fails_the_task_unless_it_is_caught(redis: Redis, namespace: str) -> None:
    app = App()

    def breaks() -> None:
        raise ValueError("no such file")

    @app.task
    async def careless(ctx: Context) -> None:
        await ctx.step("load", breaks)

    @app.task
    async def careful(ctx: Context) -> str:
        try:
            await ctx.step("load", breaks, retries=1, backoff=0.01)
        except StepFailed as error:
            return f"{error.step} {error.error.type}"
        return "went well"

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="careless")
        with pytest.raises(JobFailed, match="ValueError: no such file"):
            await job.result(timeout=10)
        job = await e.tailrace.submit(task="careful")
        assert await job.text(timeout=10) == "load.0 step_error"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ValueError("half a pair: \ud83d"), "ValueError: half a pair: \ufffd"),
        (Mute(), "Mute"),
        (ValueError("x" * 3000), f"ValueError: {'x' * 1988}"),
        (InvalidRequest("half a pair: \ud83d"), "half a pair: \ufffd"),
    ],
    ids=["lone surrogate", "no text", "long", "invalid request"],
)
async def test_an_authors_exception_ends_the_task_whatever_its_text(
    raised: Exception, told: str, redis: Redis, namespace: str
) -> None:
    app = App()

    @app.task
    async def careless(ctx: Context) -> None:
        raise raised

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="careless", max_attempts=1)
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=10)
    assert failed.value.error.message == told


async def test_a_steps_exception_is_told_without_lone_surrogates(redis: Redis, namespace: str) -> None:
    app = App()

    def breaks() -> None:
        raise ValueError("half a pair: \ud83d")

    @app.task
    async def careful(ctx: Context) -> str:
        try:
            await ctx.step("load", breaks)
        except StepFailed as error:
            return error.error.message
        return "went well"

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="careful")
        assert await job.text(timeout=10) == "ValueError: half a pair: \ufffd"
        errors: list[Any] = [
            event["data"]["error"] async for event in job.stream_events() if event["event"] == "on_chain_error"
        ]
    assert [error["message"] for error in errors] == ["ValueError: half a pair: \ufffd"]
