"""Tasks on the whole engine: models that break, are left, take too long; cancelling."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from engine import engine, wait_until
from tailrace import App, AsyncJob, Context, JobCancelled, JobFailed, Status, StepFailed, StreamRewound
from tailrace.schemas import JobEnded


def script(**fields: Any) -> dict[str, Any]:
    return {"params": {"rehearsal": fields}}


def words(tokens: int) -> str:
    return "".join(f" token{number}" for number in range(tokens))


async def names_of(job: AsyncJob, kind: str) -> list[str]:
    """The names of the runs that have had such an event."""
    names: list[str] = []
    with suppress(JobEnded):
        async for event in job.stream_events():
            if event["event"].endswith(kind):
                names.append(event["name"])  # noqa: PERF401 - what came before an error counts
    return names


async def test_a_broken_answer_is_asked_for_again_within_its_step(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def ask(ctx: Context) -> str:
        return await ctx.llm("x", name="call", **script(tokens=9, fault="cut", at=4, times=1))

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="ask")
        result = await job.result(timeout=10)
        assert (result.text, result.attempts, len(e.rehearsal.calls)) == (words(9), 1, 2)
        data: list[Any] = [event["data"] async for event in job.stream_events(include_names=["call"])]
        streamed = "".join(each["chunk"]["content"] for each in data if "chunk" in each)
        assert streamed == words(9)
        assert not await names_of(job, "_error")


async def test_an_answer_that_was_shown_and_breaks_runs_the_task_again_without_a_word_twice(
    redis: Redis, namespace: str
) -> None:
    app, runs = App(), list[int]()

    @app.task
    async def story(ctx: Context) -> AsyncGenerator[str]:
        runs.append(ctx.attempt)
        yield await ctx.llm("first", name="first", **script(text="Once"))
        async for piece in ctx.llm("x", name="told", **script(tokens=9, fault="cut", at=4, times=1)):
            yield piece

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="story")
        streamed = "".join([chunk async for chunk in job.stream()])
        assert streamed == "Once" + words(9)
        assert runs == [1, 2]
        assert len(e.rehearsal.calls) == 3
        assert (await job.result()).attempts == 2


async def test_an_answer_that_comes_otherwise_takes_the_text_back(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def story(ctx: Context) -> AsyncGenerator[str]:
        async for piece in ctx.llm("x", **script(tokens=9, fault="cut", at=6, times=1, seed_by="call", differ_at=3)):
            yield piece

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="story")
        rewinds: list[StreamRewound] = []
        shown: list[str] = []
        after: list[int] = []

        def rewound(error: StreamRewound) -> None:
            rewinds.append(error)
            after.append(len(shown))

        async for chunk in job.stream(on_rewind=rewound):
            shown.append(chunk)  # noqa: PERF401 - the callback looks at it
        text = words(3) + "".join(f" token{number}.2" for number in range(3, 9))
        assert (await job.result()).text == text
        assert all(words(9).startswith(rewound.text_before) for rewound in rewinds)
        if rewinds:  # else it was read when all was over
            shown = [rewinds[-1].text_before, *shown[after[-1] :]]
        assert "".join(shown) == text


async def test_a_task_that_swallows_a_broken_answer_is_run_again_all_the_same(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def story(ctx: Context) -> AsyncGenerator[str]:
        try:
            async for piece in ctx.llm("x", **script(tokens=9, fault="cut", at=4, times=1)):
                yield piece
        except BaseException as error:
            if isinstance(error, GeneratorExit | asyncio.CancelledError):
                raise
            yield " the end"

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="story")
        async with aclosing(job.stream(on_rewind=lambda _: None)) as stream:
            async for _ in stream:
                pass
        assert await job.text() == words(9)


async def test_on_restart_fail_ends_the_task_at_the_first_broken_answer(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def story(ctx: Context) -> AsyncGenerator[str]:
        async for piece in ctx.llm("x", **script(tokens=9, fault="cut", at=4, times=1)):
            yield piece

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="story", on_restart="fail")
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=10)
        assert failed.value.error.type == "upstream_broken"
        assert failed.value.result is not None
        assert failed.value.result.text == words(4)


async def test_on_restart_continue_asks_the_model_to_go_on(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def story(ctx: Context) -> str:
        return await ctx.llm(
            "x", model="gpt-3.5-turbo-instruct", name="ask", **script(tokens=9, fault="cut", at=4, times=1, key="k")
        )

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="story", on_restart="continue")
        assert await job.text(timeout=10) == words(9)
        assert e.rehearsal.calls[1].body["prompt"] == "x" + words(4)


async def test_an_answer_that_is_left_closes_its_call(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def first_words(ctx: Context) -> str:
        text = ""
        async for piece in ctx.llm("x", name="ask", **script(fault="endless", pace=0.001)):
            text += piece
            if len(text) > 20:
                break
        return text

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="first_words")
        text = await job.text(timeout=10)
        assert 20 < len(text) < 200
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0, "the call is closed")
        assert await names_of(job, "chat_model_end") == ["ask"]


async def test_a_task_that_fails_in_the_middle_of_an_answer_closes_its_call(redis: Redis, namespace: str) -> None:
    app, kept = App(), list[Exception]()

    @app.task
    async def breaks(ctx: Context) -> None:
        pieces = aiter(ctx.llm("x", name="ask", **script(fault="endless", pace=0.001)))
        try:
            async for _ in pieces:
                raise ValueError("enough")
        except ValueError as error:
            kept.append(error)  # and with it the frames, and what they iterate over
            raise

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="breaks")
        with pytest.raises(JobFailed, match="ValueError: enough"):
            await job.result(timeout=10)
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0, "the call is closed")
        assert await names_of(job, "chat_model_end") == []


async def test_a_timeout_of_a_model_is_of_each_try(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def slow(ctx: Context) -> str:
        try:
            await ctx.llm("x", name="slow", timeout=0.05, retries=1, **script(fault="stall", at=1))
        except StepFailed as error:
            return error.error.type
        return "?"

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="slow")
        assert await job.text(timeout=10) == "step_timeout"
        assert len(e.rehearsal.calls) == 2
        assert await names_of(job, "chat_model_error") == ["slow"]


async def test_cancelling_a_task_stops_all_its_calls(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def endless(ctx: Context) -> None:
        await ctx.gather(
            *(ctx.llm(f"{number}", name="ask", **script(fault="endless", pace=0.001)) for number in range(3)),
            ctx.step("nested", nested, ctx),
        )

    async def nested(ctx: Context) -> None:
        async for _ in ctx.llm("n", name="ask", **script(fault="endless", pace=0.001)):
            pass

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="endless")
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 4, "all are asked")
        await job.cancel()
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0, "no call is open")
        assert all(call.aborted for call in e.rehearsal.calls)
        with pytest.raises(JobCancelled):
            await job.result(timeout=10)
        assert await names_of(job, "_end") == []


async def test_a_task_that_will_not_be_cancelled_writes_nothing_more(redis: Redis, namespace: str) -> None:
    app, said = App(), asyncio.Event()

    @app.task
    async def stubborn(ctx: Context) -> str:
        said.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await ctx.step("more", print)
        return "still here"

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="stubborn")
        await said.wait()
        await job.cancel()
        with pytest.raises(JobCancelled) as cancelled:
            await job.result(timeout=10)
        assert cancelled.value.result is not None
        assert cancelled.value.result.text == ""


async def test_cancelling_a_parent_cancels_its_children_and_theirs(redis: Redis, namespace: str) -> None:
    app, ids = App(), list[str]()

    @app.task
    async def parent(ctx: Context, depth: int) -> None:
        ids.append(ctx.job_id)
        if depth:
            await ctx.child(task="parent", input=depth - 1)
        else:
            await ctx.llm("x", **script(fault="endless", pace=0.001))

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="parent", input=2)
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 1, "the last child asks")
        await job.cancel()
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0, "it is cancelled")
        assert len(ids) == 3

        async def all_cancelled() -> bool:
            return all([await e.tailrace.job(each).status() is Status.CANCELLED for each in ids])

        await wait_until("all are cancelled", all_cancelled)
