"""Steps that are tried again, timed out, left, streamed; what ends a job. On a log in the hand."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import pytest
from hand_log import HandLog, cut_everywhere, same, task_of, text_of, told

from tailrace import Context, InvalidRequest, StepFailed
from tailrace.schemas import RETRY_EVENT
from tailrace.tasks import Answered
from tailrace.views import EventsView
from tailrace.worker.recorder import OutputLimit


async def test_a_step_is_tried_again_and_its_finished_steps_are_not() -> None:
    calls: list[str] = []

    async def inner(ctx: Context) -> str:
        answer = await ctx.llm("inner", name="inner")
        await ctx.step("breaks", breaks)
        return answer

    def breaks() -> None:
        calls.append("breaks")
        if len(calls) < 3:
            raise ValueError(len(calls))

    async def task(ctx: Context) -> str:
        return await ctx.step("outer", inner, ctx, retries=2, backoff=0)

    log = task_of(task)
    await log.attempt()
    assert text_of(log) == "inner! "
    assert len(calls) == 3
    assert log.upstreams.asked["inner"] == 1
    retries = told(log, RETRY_EVENT)
    assert [each["error"]["message"] for each in retries] == ["ValueError: 1", "ValueError: 2"]


async def test_what_only_an_earlier_try_came_to_is_no_mismatch_after_a_crash() -> None:
    tries = 0

    async def inner(ctx: Context) -> str:
        nonlocal tries
        tries += 1
        try:
            await ctx.step("first", fails_once)
        except StepFailed:
            await ctx.step("only once", lambda: 1)
            raise
        return "well"

    failures: list[int] = []

    def fails_once() -> None:
        if not failures:
            failures.append(1)
            raise ValueError

    async def task(ctx: Context) -> str:
        text = await ctx.step("outer", inner, ctx, retries=1, backoff=0)
        return text + await ctx.step("last", lambda: "!")

    def make() -> HandLog:
        failures.clear()
        return task_of(task)

    await cut_everywhere(make, lambda log: same(text_of(log), "well!"))


async def test_retries_are_used_up_and_the_failure_is_caught_and_replayed() -> None:
    calls = 0

    def breaks() -> None:
        nonlocal calls
        calls += 1
        raise ValueError("never")

    async def task(ctx: Context) -> str:
        try:
            await ctx.step("breaks", breaks, retries=2, backoff=0)
        except StepFailed as error:
            return f"{error.step} {error.error.type} {error.error.message}"
        return "?"

    log = task_of(task)
    await log.attempt()
    assert calls == 3
    log.cut(len(log.entries) - 1)  # the task's own text
    await log.attempt()
    assert calls == 3, "a failure is finished too"
    assert text_of(log) == "breaks.0 step_error ValueError: never"


async def test_the_cause_of_a_failure_is_there_in_the_attempt_that_saw_it() -> None:
    def breaks() -> None:
        raise ValueError("why")

    causes: list[BaseException | None] = []

    async def task(ctx: Context) -> None:
        try:
            await ctx.step("breaks", breaks)
        except StepFailed as error:
            causes.append(error.__cause__)

    log = task_of(task)
    await log.attempt()
    await log.attempt()
    assert isinstance(causes[0], ValueError)
    assert causes[1] is None


async def test_a_try_that_takes_too_long_is_ended_and_tried_again() -> None:
    calls = 0

    async def hangs() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            await asyncio.Event().wait()
        return "at last"

    async def task(ctx: Context) -> str:
        return await ctx.step("hangs", hangs, timeout=0.01, retries=2, backoff=0)

    log = task_of(task)
    await log.attempt()
    assert text_of(log) == "at last"
    assert [each["error"]["type"] for each in told(log, RETRY_EVENT)] == ["step_timeout"] * 2


async def test_a_timeout_of_the_authors_own_is_an_error_like_any_other() -> None:
    async def impatient() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    async def task(ctx: Context) -> None:
        await ctx.step("impatient", impatient, timeout=30)

    assert (await task_of(task).failure()).detail.type == "step_error"


async def test_a_step_that_was_timed_out_in_the_middle_of_an_answer_gets_the_whole_one_next_time() -> None:
    tries = 0

    async def reads(ctx: Context) -> str:
        nonlocal tries
        tries += 1
        text = ""
        # Held by the frame, and the frame by the error.
        pieces = aiter(ctx.llm("one two three", name="answer"))
        async for piece in pieces:
            text += piece
            if tries == 1:
                await asyncio.Event().wait()
        return text

    async def task(ctx: Context) -> str:
        return await ctx.step("reads", reads, ctx, timeout=0.02, retries=1, backoff=0)

    log = task_of(task)
    await log.attempt()
    assert text_of(log) == "one two three! "
    assert log.upstreams.most_open == 1, "the try before still asked"


async def test_an_answer_that_was_left_is_finished_once_the_task_goes_on() -> None:
    async def task(ctx: Context) -> AsyncGenerator[str]:
        async for piece in ctx.llm("one two three", name="left"):
            yield piece
            if piece == "two ":
                break
        yield await ctx.step("after", lambda: "after")

    def check(log: HandLog) -> None:
        assert text_of(log) == "one two after"
        assert "left.0" in log.ended_steps()

    await cut_everywhere(lambda: task_of(task), check)
    log = task_of(task)
    await log.attempt()
    await log.attempt()
    assert log.upstreams.asked["one two three"] == 1


async def test_a_step_with_a_generator_streams_and_is_spliced() -> None:
    async def pieces() -> AsyncGenerator[str]:
        for piece in ("one ", "two ", "three"):
            yield piece

    async def task(ctx: Context) -> str:
        return await ctx.step("pieces", pieces, kind="parser", tags=["t"], metadata={"m": 1})

    def check(log: HandLog) -> None:
        assert text_of(log) == "one two three"
        events = [event for event in EventsView("job").feed(log.finish()) if event["name"] == "pieces"]
        assert {(tuple(event["tags"]), str(event["metadata"])) for event in events} == {(("t",), "{'m': 1}")}
        kinds = [event["event"] for event in events]
        assert kinds == ["on_parser_start", *["on_parser_stream"] * 3, "on_parser_end"]

    await cut_everywhere(lambda: task_of(task), check)


async def test_a_generator_that_breaks_is_tried_again_without_a_word_twice() -> None:
    tries: list[int] = []

    async def pieces() -> AsyncGenerator[str]:
        tries.append(1)
        yield "one "
        yield "two "
        if len(tries) < 2:
            raise ValueError
        yield "three"

    async def task(ctx: Context) -> str:
        return await ctx.step("pieces", pieces, retries=1, backoff=0)

    log = task_of(task)
    await log.attempt()
    assert text_of(log) == "one two three"
    written = [entry.value for entry in log.entries if entry.field.startswith("chunk:")]
    assert written == ["one ", "two ", "three"]


async def test_an_answer_knows_the_rest_of_itself_in_every_attempt() -> None:
    answers: list[Answered] = []

    async def task(ctx: Context) -> None:
        answer = await ctx.llm("hello you", name="ask")
        assert isinstance(answer, Answered)
        answers.append(answer)

    log = task_of(task)
    assert (await log.attempt()).usage == {"total_tokens": 2}
    assert (await log.attempt()).usage == {"total_tokens": 2}
    first, second = answers
    assert first == second == "hello you! "
    for answer in answers:
        assert (answer.finish_reason, answer.usage) == ("stop", {"total_tokens": 2})
        assert answer.choices[0].text == "hello you! "
        assert answer.run_id == first.run_id
        assert answer.tool_calls == []


async def test_a_call_of_a_model_is_taken_once() -> None:
    async def task(ctx: Context) -> None:
        step = ctx.llm("once")
        await step
        await step

    assert "awaited or iterated over once" in (await task_of(task).failure()).detail.message


async def test_the_context_refuses_what_makes_no_sense() -> None:
    async def task(ctx: Context) -> str:
        said: list[str] = []
        calls: list[Callable[[], Any]] = [
            lambda: ctx.llm(input=1, task="other"),
            lambda: ctx.llm(),
            lambda: ctx.step("", print),
            lambda: ctx.step("x", print, timeout=0),
            lambda: ctx.step("x", print, backoff=-1),
            lambda: ctx.emit("tailrace.mine"),
            lambda: ctx.emit("odd", object()),
            lambda: ctx.emit(""),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest) as refused:
                call()
            said.append(str(refused.value))
        return "\n".join(said)

    log = task_of(task)
    await log.attempt()
    assert len(text_of(log).splitlines()) >= 8


async def test_the_output_limit_counts_what_earlier_attempts_have_said() -> None:
    async def task(ctx: Context) -> None:
        for _ in range(4):
            await ctx.step("says", lambda: "x" * 100)

    log = task_of(task)
    with pytest.raises(OutputLimit):
        await log.attempt(output_bytes=350)
    log.cut(len(log.entries) - 1)
    with pytest.raises(OutputLimit):
        await log.attempt(output_bytes=350)
    assert len(log.ended_steps()) == 3


async def test_the_output_limit_ends_a_task_that_takes_no_notice() -> None:
    async def task(ctx: Context) -> None:
        for _ in range(10):
            with suppress(Exception):
                await ctx.step("says", lambda: "x" * 100)

    with pytest.raises(OutputLimit):
        await task_of(task).attempt(output_bytes=350)


async def test_on_restart_fail_ends_a_job_whose_step_had_begun_to_answer() -> None:
    async def task(ctx: Context) -> str:
        try:
            return await ctx.llm("one two three", name="ask")
        except Exception:
            return "took no notice"

    log = task_of(task, on_restart="fail")
    await log.attempt()
    chunk = next(number for number, entry in enumerate(log.entries) if entry.field.startswith("chunk:"))
    log.cut(chunk + 1)
    failed = await log.failure()
    assert (failed.detail.type, failed.again) == ("restarted", False)


async def test_what_a_step_returned_must_be_storable() -> None:
    async def task(ctx: Context) -> None:
        await ctx.step("opaque", object)

    failed = await task_of(task).failure()
    assert "returned a object, which cannot be stored" in failed.detail.message


async def test_an_error_does_not_quote_the_input() -> None:
    secret = "the secret launch code is 4711"

    def breaks(text: str) -> None:
        raise ValueError(f"cannot read {text!r}")

    async def task(ctx: Context, given: str) -> None:
        await ctx.step("breaks", breaks, given)

    log = task_of(task, given=secret)
    failed = await log.failure()
    assert secret not in json.dumps([entry.value for entry in log.entries])
    assert "4711" not in failed.detail.message
