"""Who knows which task, what it takes and what it gives, on the whole engine."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis

from engine import engine, running_worker, wait_until
from tailrace import App, Context, InvalidRequest, JobFailed, Status
from tailrace.joblog import Broker
from tailrace.queue import offer
from tailrace.schemas import RETRY_EVENT


def script(**fields: Any) -> dict[str, Any]:
    return {"params": {"rehearsal": fields}}


class Half(BaseModel):
    value: int


async def test_a_task_that_nobody_knows_fails_at_once(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, app=App()) as e:
        job = await e.tailrace.submit(task="nothing")
        with pytest.raises(JobFailed, match="no worker knows a task 'nothing'") as failed:
            await job.result(timeout=10)
        assert failed.value.error.type == "unknown_task"


async def test_a_task_that_another_worker_knows_waits_for_it(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def known(_: Context) -> str:
        return "by me"

    async with engine(redis, namespace, app=App()) as e:
        await offer(Broker(redis), e.settings.keys, app.cards())
        job = await e.tailrace.submit(task="known", max_attempts=1)

        async def refused() -> bool:
            return await job.status() is Status.QUEUED

        await wait_until("it is looked at", refused)
        async with running_worker(e.settings, redis, app=app):
            assert await job.text(timeout=10) == "by me"
            assert (await job.result()).attempts == 1


async def test_input_is_checked_at_submit_once_a_worker_has_told_what_it_takes(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def halve(_: Context, value: int, *, by: float = 2) -> float:
        return value / by

    async with engine(redis, namespace, app=app) as e:
        keys = e.settings.keys

        async def told() -> bool:
            return bool(await redis.hexists(keys.tasks, "halve"))  # type: ignore[misc]  # redis-py's own annotation

        await wait_until("the worker has told", told)
        for given, said in (
            ({"value": "x"}, "input.value: 'x' is not of type"),
            ({}, "'value' is a required"),
            (7, "7 is"),
        ):
            with pytest.raises(InvalidRequest, match=said):
                await e.tailrace.submit(task="halve", input=given)
        with pytest.raises(InvalidRequest, match="'more' was unexpected"):
            await e.tailrace.submit_many([{"task": "halve", "input": {"value": 1, "more": 2}}])
        job = await e.tailrace.submit(task="halve", input={"value": 4})
        assert (await job.result(timeout=10)).output == 2


async def test_input_is_checked_by_the_worker_where_nobody_has_told(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def halve(_: Context, value: int) -> float:
        return value / 2

    async with engine(redis, namespace, with_worker=False) as e:
        job = await e.tailrace.submit(task="halve", input="four")
        async with running_worker(e.settings, redis, app=app):
            with pytest.raises(JobFailed, match="input: Input should be a valid integer") as failed:
                await job.result(timeout=10)
        assert failed.value.error.type == "invalid_request"


@pytest.mark.parametrize(
    "planted",
    [
        b"",
        b"rubbish",
        b"5 {",
        b"5 []",
        b"5 {}",
        b'5 {"input": 7}',
        b'5 {"input": {"$ref": "http://127.0.0.1:9/x"}}',
        b'5 {"input": {"type": 3}}',
        b'99999999999999 {"input": {"properties": 1}}',
        b"\xff\xfe",
    ],
)
async def test_rubbish_in_the_table_of_tasks_harms_nobody(redis: Redis, namespace: str, planted: bytes) -> None:
    app = App()

    @app.task
    async def known(_: Context, value: int) -> int:
        return value

    async with engine(redis, namespace, with_worker=False) as e:
        await redis.hset(e.settings.keys.tasks, "known", planted)  # type: ignore[misc,arg-type]  # redis-py's own annotation  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
        await redis.pexpire(e.settings.keys.tasks, 60_000)
        job = await e.tailrace.submit(task="known", input=3)
        async with running_worker(e.settings, redis, app=app):
            assert (await job.result(timeout=10)).output == 3


async def test_cards_of_tasks_that_are_long_gone_are_forgotten(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e:
        tasks = e.settings.keys.tasks
        await redis.hset(tasks, mapping={"old": b"5 {}", "odd": b"rubbish"})  # type: ignore[misc]  # redis-py's own annotation
        await offer(Broker(redis), e.settings.keys, {"new": {"input": {}}})
        assert set(await redis.hkeys(tasks)) == {b"new"}  # type: ignore[misc]  # redis-py's own annotation


async def test_typed_input_comes_in_and_typed_output_goes_out(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def add(ctx: Context, one: Half, other: Half) -> Half:
        total = await ctx.step("add", lambda: one.value + other.value)
        return Half(value=total)

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="add", input={"one": {"value": 1}, "other": {"value": 2}})
        result = await job.result(timeout=10)
        assert result.output_as(Half) == Half(value=3)
        assert result.text == ""


async def test_an_output_that_is_no_json_fails_the_job(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def opaque(_: Context) -> Any:
        return object()

    @app.task
    async def numbers(_: Context) -> AsyncGenerator[Any]:
        yield 1

    async with engine(redis, namespace, app=app) as e:
        for task, said in (("opaque", "returned a object, which cannot be stored"), ("numbers", "a task yields str")):
            job = await e.tailrace.submit(task=task)
            with pytest.raises(JobFailed, match=said):
                await job.result(timeout=10)


async def test_the_output_limit_holds_for_all_steps_together(redis: Redis, namespace: str) -> None:
    app = App()

    @app.task
    async def talks(ctx: Context) -> None:
        for _ in range(10):
            await ctx.llm("x", **script(text="x" * 50))
            ctx.emit("said", "x" * 50)

    async with engine(redis, namespace, app=app, worker={"output_bytes": 1500}) as e:
        job = await e.tailrace.submit(task="talks")
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=10)
        assert failed.value.error.type == "output_limit"
        assert 4 <= len(e.rehearsal.calls) <= 8


async def test_a_retry_is_told_under_its_steps_run(redis: Redis, namespace: str) -> None:
    app = App()
    tries: list[int] = []

    def breaks() -> None:
        tries.append(1)
        if len(tries) < 2:
            raise ValueError

    @app.task
    async def task(ctx: Context) -> None:
        await ctx.step("breaks", breaks, retries=1, backoff=0.001)

    async with engine(redis, namespace, app=app) as e:
        job = await e.tailrace.submit(task="task")
        await job.result(timeout=10)
        events = [event async for event in job.stream_events()]
        step = next(event for event in events if event["name"] == "breaks")
        retry = next(event for event in events if event["name"] == RETRY_EVENT)
        assert retry["run_id"] == step["run_id"]
