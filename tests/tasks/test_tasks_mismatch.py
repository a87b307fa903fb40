"""A task that takes another path than the attempt before is stopped, whether it takes notice or not."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hand_log import HandLog

from tailrace import App, Context
from tailrace.worker.attempts import Failed

Body = Callable[[Context], Awaitable[Any]]


async def changed(before: Body, after: Body, *, keep: int = 0) -> Failed:
    """One body's attempt dies at its end (or when `keep` records stood), the next attempt has the other's code."""
    app = App()
    app.task(name="task")(before)
    log = HandLog(app, "task")
    with suppress(Failed):
        await log.attempt()
    if keep:
        log.cut(keep)
    log.app = App()
    log.app.task(name="task")(after)
    return await log.failure()


async def steps(ctx: Context, *names: str) -> None:
    for name in names:
        await ctx.step(name, len, name)


async def abc(ctx: Context) -> None:
    await steps(ctx, "a", "b", "c")


async def another_input(ctx: Context) -> None:
    await ctx.step("a", len, "another")
    await steps(ctx, "b", "c")


async def another_function(ctx: Context) -> None:
    await ctx.step("a", str, "a")
    await steps(ctx, "b", "c")


async def added_before(ctx: Context) -> None:
    await steps(ctx, "new", "a", "b", "c")


async def added_between(ctx: Context) -> None:
    await steps(ctx, "a", "new", "b", "c")


async def removed(ctx: Context) -> None:
    await steps(ctx, "a", "c")


async def removed_last(ctx: Context) -> None:
    await steps(ctx, "a", "b")


async def removed_all(_: Context) -> None:
    return


async def renamed(ctx: Context) -> None:
    await steps(ctx, "a", "other", "c")


async def into_a_gather(ctx: Context) -> None:
    await ctx.gather(steps(ctx, "a"), steps(ctx, "b"), steps(ctx, "c"))


async def takes_no_notice(ctx: Context) -> str:
    for name in ("a", "changed", "c"):
        with suppress(Exception):
            await ctx.step(name, len, name)
    return "all well"


async def input_changed_and_no_notice(ctx: Context) -> str:
    for name in ("a", "b", "c"):
        with suppress(Exception):
            await ctx.step(name, len, "changed")
    return "all well"


@pytest.mark.parametrize(
    ("after", "at"),
    [
        (another_input, "a.0"),
        (another_function, "a.0"),
        (added_before, "new.0"),
        (added_between, "new.0"),
        (removed, "b.0"),
        (removed_last, "c.0"),
        (removed_all, "a.0"),
        (renamed, "other.0"),
        (takes_no_notice, "changed.0"),
        (input_changed_and_no_notice, "a.0"),
    ],
)
async def test_a_changed_task_fails_and_names_the_step(after: Body, at: str) -> None:
    failed = await changed(abc, after)
    assert (failed.detail.type, failed.again) == ("step_mismatch", False)
    # A step that is left out is noticed at the latest where the scope ends.
    assert failed.detail.code == at
    assert at in failed.detail.message


async def test_steps_that_moved_into_a_gather_are_others() -> None:
    failed = await changed(abc, into_a_gather)
    assert failed.detail.type == "step_mismatch"
    assert failed.detail.code == "a.0"


async def test_reordered_steps_are_a_change_where_a_step_was_still_to_come() -> None:
    async def reordered(ctx: Context) -> None:
        await steps(ctx, "a", "c", "b")

    died_after_b = 2 + 2 * 2 + 1  # job, attempt, root's start, two steps of two records
    failed = await changed(abc, reordered, keep=died_after_b)
    assert failed.detail.type == "step_mismatch"
    assert failed.detail.code == "c.0"


class _Same:
    """A function that hashes as any other of its class."""

    def __init__(self, function: Body) -> None:
        self._function = function

    def __call__(self, ctx: Context) -> Awaitable[Any]:
        return self._function(ctx)


async def test_a_change_within_a_step_names_the_inner_one() -> None:
    def outer(*names: str, fails: bool) -> Body:
        async def inner(ctx: Context) -> None:
            await steps(ctx, *names)
            if fails:
                raise asyncio.CancelledError

        async def task(ctx: Context) -> None:
            await ctx.step("outer", _Same(inner), ctx)

        return task

    app = App()
    app.task(name="task")(outer("a", "b", fails=True))
    log = HandLog(app, "task")
    with pytest.raises(asyncio.CancelledError):
        await log.attempt()
    log.app = App()
    log.app.task(name="task")(outer("a", "other", fails=False))
    failed = await log.failure()
    assert (failed.detail.type, failed.detail.code) == ("step_mismatch", "outer.0/other.0")


async def test_a_return_value_that_does_not_fit_its_new_type_is_a_change() -> None:
    def before() -> str:
        return "text"

    before_name = before.__qualname__

    def after() -> int:
        return 1

    after.__qualname__ = before_name

    async def one(ctx: Context) -> None:
        await ctx.step("value", before)

    async def two(ctx: Context) -> None:
        await ctx.step("value", after)

    failed = await changed(one, two)
    assert (failed.detail.type, failed.detail.code) == ("step_mismatch", "value.0")


async def test_a_change_is_told_even_if_the_task_goes_on_as_if_nothing_was() -> None:
    def before() -> str:
        return "text"

    before_name = before.__qualname__

    def after() -> int:
        return 1

    after.__qualname__ = before_name

    async def one(ctx: Context) -> None:
        await ctx.step("value", before)

    async def two(ctx: Context) -> str:
        with suppress(Exception):
            await ctx.step("value", after)
        return "all well"

    failed = await changed(one, two)
    assert (failed.detail.type, failed.detail.code) == ("step_mismatch", "value.0")


async def test_a_task_that_decides_by_chance_is_stopped_not_mixed() -> None:
    turns = iter(["heads", "tails"])

    async def task(ctx: Context) -> None:
        await ctx.step(next(turns), print)
        await ctx.step("last", print)

    failed = await changed(task, task)
    assert failed.detail.code == "tails.0"


async def test_more_of_the_same_steps_are_no_change() -> None:
    async def more(ctx: Context) -> str:
        await steps(ctx, "a", "b", "c", "d")
        return "more"

    app = App()
    app.task(name="task")(abc)
    log = HandLog(app, "task")
    await log.attempt()
    log.app = App()
    log.app.task(name="task")(more)
    await log.attempt()
    assert "d.0" in log.ended_steps()
