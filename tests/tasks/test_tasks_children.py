"""Jobs that a task submits, on the whole engine."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis

from engine import engine, running_worker, wait_until
from tailrace import App, Context, JobFailed, Status, StepFailed
from tailrace.client.jobs import JobsOf


def script(**fields: Any) -> dict[str, Any]:
    return {"params": {"rehearsal": fields}}


class Half(BaseModel):
    value: int


async def test_a_child_gives_its_result(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def halve(ctx: Context, value: int) -> Half:
        await ctx.llm("half", **script(text="thinking"))
        return Half(value=value // 2)

    @app.task
    async def quarter(ctx: Context, value: int) -> int:
        first = await ctx.child(task="halve", input=value, name="first half", tags=["child"])
        again = await ctx.child(task="halve", input=first.output_as(Half).value)
        prompt = await ctx.child("a prompt", **script(text="of its own"))
        assert prompt.text == "of its own"
        return again.output_as(Half).value

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="quarter", input=8)
        result = await job.result(timeout=10)
        assert result.output == 2
        assert result.usage is not None
        events = [event async for event in job.stream_events()]
        start = next(event for event in events if event["name"] == "first half")
        child = e.tailrace.job(str(start["data"]["job_id"]))
        assert (await child.result()).output == {"value": 4}
        assert (await child.result()).tags == ["child"]


async def test_a_child_that_fails_is_a_step_that_fails(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def fails(_: Context) -> None:
        raise ValueError("no")

    @app.task
    async def parent(ctx: Context) -> str:
        try:
            await ctx.child(task="fails")
        except StepFailed as error:
            return f"{error.step} {error.error.type}"
        return "?"

    @app.task
    async def careless(ctx: Context) -> None:
        await ctx.child(task="fails")

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="parent")
        assert await job.text(timeout=10) == "fails.0 task_error"
        job = await e.tailrace.submit(task="careless")
        with pytest.raises(JobFailed, match="ValueError: no"):
            await job.result(timeout=10)


async def test_a_child_that_was_deleted_is_a_step_that_fails(redis: Redis, namespace: str) -> None:
    app, begun = App(), list[str]()

    @app.task
    async def waits(ctx: Context) -> None:
        begun.append(ctx.job_id)
        await asyncio.Event().wait()

    @app.task
    async def parent(ctx: Context) -> str:
        try:
            await ctx.child(task="waits")
        except StepFailed as error:
            return error.error.type
        return "?"

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="parent")
        await wait_until("the child runs", lambda: begun)
        await e.tailrace.job(begun[0]).delete()
        assert await job.text(timeout=10) in ("child_cancelled", "child_lost")


async def test_a_dead_workers_successor_waits_for_the_same_child(redis: Redis, namespace: str) -> None:
    app, begun, go = App(), list[tuple[str, int]](), asyncio.Event()

    @app.task
    async def child(ctx: Context) -> str:
        begun.append((ctx.job_id, ctx.attempt))
        await go.wait()
        return "done"

    @app.task
    async def parent(ctx: Context) -> str:
        return (await ctx.child(task="child")).text

    async with engine(redis, namespace, app=app, with_worker=False) as e:
        jobs = JobsOf(e.tailrace)
        children, parents = App(), App()
        for each in app:
            (children if each.name == "child" else parents).add(each)
        async with running_worker(e.settings, redis, app=children):
            async with running_worker(e.settings, redis, app=parents, jobs=jobs):
                job = await e.tailrace.submit(task="parent")
                await wait_until("the child runs", lambda: begun)
            # That worker has handed the parent back, in mid-child.
            go.set()
            async with running_worker(e.settings, redis, app=parents, jobs=jobs):
                assert await job.text(timeout=10) == "done"
    assert len(begun) == 1


async def test_a_child_that_nobody_waits_for_any_more_ends_with_its_parent(redis: Redis, namespace: str) -> None:
    app, begun = App(), list[str]()

    @app.task
    async def waits(ctx: Context) -> None:
        begun.append(ctx.job_id)
        await asyncio.Event().wait()

    async def fails() -> None:
        await wait_until("the child runs", lambda: begun)
        raise ValueError

    @app.task
    async def parent(ctx: Context) -> str:
        try:
            await ctx.gather(ctx.child(task="waits"), ctx.step("fails", fails))
        except StepFailed:
            return "went on"
        return "?"

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="parent")
        assert await job.text(timeout=10) == "went on"

        async def cancelled() -> bool:
            return await e.tailrace.job(begun[0]).status() is Status.CANCELLED

        await wait_until("the child is cancelled", cancelled)


async def test_a_worker_without_a_client_says_so(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def parent(ctx: Context) -> None:
        await ctx.child(task="parent")

    async with engine(redis, namespace, with_worker=False) as e, running_worker(e.settings, redis, app=app):
        job = await e.tailrace.submit(task="parent")
        with pytest.raises(JobFailed, match="pass jobs= to Worker"):
            await job.result(timeout=10)
