"""Steps side by side and nested, on a log in the hand."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hand_log import HandLog, cut_everywhere, output_of, same, task_of, text_of

from tailrace import Context, StepFailed
from tailrace.views import EventsView


async def test_gather_gives_values_in_order_and_holds_its_limit() -> None:
    running = most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - number):
            await asyncio.sleep(0)
        running -= 1
        return number

    async def task(ctx: Context) -> list[int]:
        return await ctx.gather(*(ctx.step("work", work, number) for number in range(6)), limit=2)

    log = task_of(task)
    await log.attempt()
    assert output_of(log) == [0, 1, 2, 3, 4, 5]
    assert most == 2


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(limit: int) -> None:
    async def task(ctx: Context) -> None:
        await ctx.gather(limit=limit)

    assert (await task_of(task).failure()).detail.type == "invalid_request"


async def test_gathering_nothing_gives_nothing() -> None:
    async def task(ctx: Context) -> list[Any]:
        return await ctx.gather()

    log = task_of(task)
    await log.attempt()
    assert output_of(log) == []


async def test_a_branch_that_fails_ends_the_others_and_begins_no_more() -> None:
    begun: list[str] = []

    async def fails() -> None:
        begun.append("fails")
        raise ValueError("no")

    async def waits() -> None:
        begun.append("waits")
        await asyncio.Event().wait()

    async def late() -> None:
        begun.append("late")

    async def task(ctx: Context) -> str:
        with pytest.raises(StepFailed, match="ValueError: no"):
            await ctx.gather(ctx.step("waits", waits), ctx.step("fails", fails), ctx.step("late", late), limit=2)
        return await ctx.step("after", lambda: "went on")

    log = task_of(task)
    await log.attempt()
    assert begun == ["waits", "fails"]
    assert text_of(log) == "went on"


async def test_of_two_failures_every_attempt_raises_the_same() -> None:
    gate = asyncio.Event()

    async def slow() -> None:
        with suppress(TimeoutError):
            await gate.wait()
        raise ValueError("second")

    async def quick() -> None:
        gate.set()
        raise ValueError("first")

    async def task(ctx: Context) -> str:
        try:
            await ctx.gather(ctx.step("slow", slow), ctx.step("quick", quick))
        except StepFailed as error:
            return await ctx.step(error.error.message, lambda: "told")
        return "?"

    def make() -> HandLog:
        gate.clear()
        return task_of(task)

    whole = make()
    await whole.attempt()
    errors = [at for at, entry in enumerate(whole.entries) if "on_chain_error" in entry.value]
    assert len(errors) == 2, "both have failed"
    for cut in range(errors[1] + 1, len(whole.entries)):
        log = make()
        await log.attempt()
        log.cut(cut)
        await log.attempt()
        assert log.ended_steps() == {"ValueError: first.0"}


async def test_a_step_that_is_called_off_before_it_begins_again_is_no_mismatch() -> None:
    limits = iter([None, 1])

    async def fails() -> None:
        raise ValueError

    async def task(ctx: Context) -> str:
        with suppress(StepFailed):
            hang = [ctx.step("hangs", asyncio.Event().wait) for _ in range(3)]
            await ctx.gather(ctx.step("fails", fails), *hang, limit=next(limits))
        return "went on"

    log = task_of(task)
    await log.attempt()
    await log.attempt()
    assert text_of(log) == "went on"


async def test_nested_gathers_and_steps_have_places_of_their_own() -> None:
    async def leaf(ctx: Context, name: str) -> str:
        one, two = await ctx.gather(ctx.step("same", lambda: name + "1"), ctx.step("same", lambda: name + "2"))
        return await ctx.step("same", lambda: f"{one}{two}")

    async def branch(ctx: Context, name: str) -> str:
        return await ctx.step("leaf", leaf, ctx, name)

    async def task(ctx: Context) -> list[str]:
        return await ctx.gather(branch(ctx, "a"), branch(ctx, "b"), ctx.step("leaf", leaf, ctx, "c"))

    def check(log: HandLog) -> None:
        assert output_of(log) == ["a1a2", "b1b2", "c1c2"]
        events = EventsView("job").feed(log.finish())
        depth = {event["run_id"]: len(event["parent_ids"]) for event in events}
        assert sorted(depth.values()) == [0] + [1] * 3 + [2] * 9

    await cut_everywhere(lambda: task_of(task), check)


async def test_coroutines_that_take_turns_are_told_to_gather() -> None:
    async def branch(ctx: Context, number: int) -> None:
        await ctx.step("one", lambda: number)
        await ctx.step("two", lambda: number)

    async def both(ctx: Context) -> None:
        await asyncio.gather(branch(ctx, 1), branch(ctx, 2))

    async def beside(ctx: Context) -> None:
        other = asyncio.create_task(branch(ctx, 1))
        try:
            await ctx.step("one", lambda: 0)
            await ctx.step("two", lambda: 0)
            await ctx.step("three", lambda: 0)
        finally:
            other.cancel()
            await asyncio.wait([other])

    for body in (both, beside):
        failed = await task_of(body).failure()
        assert failed.detail.type == "task_error"
        assert "ctx.gather" in failed.detail.message


async def test_a_coroutine_that_waits_for_another_one_is_no_turn() -> None:
    async def branch(ctx: Context) -> int:
        return await ctx.step("one", lambda: 1)

    async def task(ctx: Context) -> int:
        first = await asyncio.wait_for(branch(ctx), 5)
        second = await asyncio.create_task(branch(ctx))
        return first + second + await ctx.step("one", lambda: 1)

    await cut_everywhere(lambda: task_of(task), lambda log: same(output_of(log), 3))
