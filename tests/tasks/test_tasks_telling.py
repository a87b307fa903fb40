"""What tasks tell: events, progress, idempotency keys; the ids of their children. On a log in the hand."""

import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from hand_log import HandLog, cut_everywhere, task_of, text_of, told

from tailrace import Context, StepFailed
from tailrace.schemas import ErrorDetail, JobFailed


async def test_events_are_told_once_however_often_the_task_runs() -> None:
    async def inner(ctx: Context) -> None:
        ctx.emit("inner", [1])
        if not seen:
            seen.append(1)
            raise ValueError

    seen: list[int] = []

    async def task(ctx: Context) -> None:
        ctx.emit("outer")
        await ctx.emit("outer", {"n": 2})
        await ctx.step("inner", inner, ctx, retries=1, backoff=0)

    def check(log: HandLog) -> None:
        assert told(log, "outer") == [{"value": None}, {"n": 2}]
        assert told(log, "inner") == [{"value": [1]}]

    def make() -> HandLog:
        seen.clear()
        return task_of(task)

    await cut_everywhere(make, check)


async def test_events_go_with_text_that_is_taken_back_and_are_told_again() -> None:
    answers = iter(["one two", "one other", "one other"])

    async def task(ctx: Context) -> AsyncGenerator[str]:
        for word in next(answers).split():
            yield word
            ctx.emit("said", word == "one")

    log = task_of(task)
    await log.attempt()
    await log.attempt()
    await log.attempt()
    assert text_of(log) == "oneother"
    # Back to "one": what was said behind it is void, and the first of it said again.
    assert [each["value"] for each in told(log, "said")] == [True, False, True, False]


async def test_only_progress_is_told() -> None:
    async def task(ctx: Context) -> None:
        for done in (1, 0, 1, 4):
            ctx.progress(done, 4)
        await ctx.gather(*(branch(ctx) for _ in range(2)))

    async def branch(ctx: Context) -> None:
        ctx.progress(1)

    def check(log: HandLog) -> None:
        assert told(log, "tailrace.progress") == [
            {"done": 1, "total": 4},
            {"done": 4, "total": 4},
            {"done": 1},
            {"done": 1},
        ]

    await cut_everywhere(lambda: task_of(task), check)


async def test_progress_is_told_ten_times_a_second_at_most() -> None:
    async def task(ctx: Context) -> None:
        for done in range(1000):
            ctx.progress(done, 999)

    log = task_of(task)
    await log.attempt()
    said = told(log, "tailrace.progress")
    assert said[0]["done"] == 0
    assert said[-1]["done"] == 999
    assert len(said) < 20


async def test_a_steps_thread_may_tell_too() -> None:
    def counts(ctx: Context) -> int:
        assert threading.current_thread() is not threading.main_thread()
        ctx.emit("from a thread", 1)
        ctx.progress(1, 2)
        return 1

    async def task(ctx: Context) -> int:
        return await ctx.step("counts", counts, ctx)

    log = task_of(task)
    await log.attempt()
    assert told(log, "from a thread") == [{"value": 1}]
    assert told(log, "tailrace.progress") == [{"done": 1, "total": 2}]


async def test_idempotency_keys_are_of_one_step_and_stay() -> None:
    runs: list[list[str]] = []

    async def pays(ctx: Context) -> None:
        runs[-1].append(ctx.idempotency_key)
        await ctx.step("inside", inside, ctx)
        if len(runs) == 1:
            raise ValueError

    def inside(ctx: Context) -> None:
        runs[-1].append(ctx.idempotency_key)

    async def task(ctx: Context) -> None:
        runs.append([ctx.idempotency_key])
        with suppress(StepFailed):
            await ctx.step("pays", pays, ctx)
        await ctx.gather(ctx.step("pays", pays, ctx), ctx.step("pays", pays, ctx))

    log = task_of(task)
    await log.failure()
    log.cut(2)
    await log.attempt()
    first, second = runs
    assert len(set(second)) == len(second) == 7
    assert set(first) <= set(second)
    other = task_of(task)
    other.record = other.record.model_copy(update={"incarnation": "another"})
    await other.attempt()
    assert not set(runs[-1]) & set(second)


class FailsOnce:
    """A child fails the first time that it is asked for."""

    def __init__(self, log: HandLog) -> None:
        self._jobs = log.jobs
        self.submitted = log.jobs.submitted

    async def submit(self, request: Any, job_id: str) -> None:
        await self._jobs.submit(request, job_id)

    async def result(self, job_id: str) -> Any:
        if len(self.submitted) == 1:
            raise JobFailed(job_id, ErrorDetail(type="broken", message="the child broke"))
        return await self._jobs.result(job_id)

    async def cancel(self, job_id: str) -> None:
        await self._jobs.cancel(job_id)


async def test_a_step_that_is_tried_again_asks_for_a_new_child() -> None:
    async def asks(ctx: Context) -> str:
        return (await ctx.child(task="other", input=1)).text

    async def task(ctx: Context) -> str:
        return await ctx.step("asks", asks, ctx, retries=1, backoff=0)

    def make() -> HandLog:
        log = task_of(task)
        log.jobs = FailsOnce(log)  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  # the same methods
        return log

    def check(log: HandLog) -> None:
        assert text_of(log) == "from the child"
        assert len(log.jobs.submitted) == 2

    await cut_everywhere(make, check)


async def test_a_childs_id_is_known_before_it_is_submitted_and_nobody_elses() -> None:
    ids: list[tuple[str, str]] = []

    async def task(ctx: Context) -> None:
        one, two = ctx.child(task="other", input=1), ctx.child(task="other", input=1)
        ids.append((one.job_id, two.job_id))
        await ctx.gather(one, two)

    log = task_of(task)
    await log.attempt()
    await log.attempt()
    assert ids[0] == ids[1]
    assert set(log.jobs.submitted) == set(ids[0])
    assert set(log.jobs.submitted.values()) == {1}
