"""A worker dies after any record: the next attempt goes on from what stands, and readers see one consistent whole."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hand_log import HandLog
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streams import check_events
from tailrace import StreamEvent
from tailrace.tasks import App, Context
from tailrace.views import EventsView, ResultView

BRANCHES = 3
TEXT = "plan it! counted 2 nested! bits from the child a0 b0 !done"


@dataclass
class Count:
    words: int


class Pipeline:
    """A task that takes steps of every kind; counts the calls of its functions."""

    def __init__(self) -> None:
        self.app = App()
        self.calls: Counter[str] = Counter()
        self.flaky: Callable[[], bool] = lambda: False
        calls, app = self.calls, self.app

        def count(text: str) -> Count:
            calls["count"] += 1
            return Count(len(text.split()))

        async def nested(ctx: Context) -> str:
            calls["nested"] += 1
            inner = await ctx.llm("nested", name="inner")
            await ctx.emit("nested", {"inner": inner})
            await ctx.step("flaky", flaky)
            return inner

        def flaky() -> None:
            calls["flaky"] += 1
            if self.flaky():
                raise ValueError("not now")

        async def bits() -> AsyncGenerator[str]:
            calls["bits"] += 1
            yield "bi"
            yield "ts"

        async def branch(ctx: Context, number: int) -> str:
            one = await ctx.step("one", lambda: f"a{number}")
            ctx.emit("branch", number)
            await ctx.llm(f"branch {number}", name="two")
            return one

        @app.task
        async def pipeline(ctx: Context) -> AsyncGenerator[str]:
            async for piece in ctx.llm("plan it", name="plan"):
                yield piece
            counted = await ctx.step("count", count, "plan it")
            ctx.progress(1, 3)
            yield f"counted {counted.words} "
            ctx.emit("counted", {"words": counted.words})
            yield await ctx.step("nest", nested, ctx, retries=2, backoff=0)
            one, two, *several = await ctx.gather(
                ctx.step("bits", bits),
                ctx.child(task="other", input=1),
                *(branch(ctx, number) for number in range(BRANCHES)),
                limit=3,
            )
            ctx.progress(3, 3)
            yield f"{one} {two.text} {several[0]} b0 "
            async for piece in ctx.llm("! said with many words", name="left"):
                yield piece.strip()
                break
            yield "done"


def events_of(log: HandLog) -> list[StreamEvent]:
    return EventsView("job").feed(log.finish())


def told_in(events: list[StreamEvent]) -> Counter[str]:
    names = ("nested", "branch", "counted")
    return Counter(event["name"] for event in events if event["name"] in names and event["event"] == "on_custom_event")


ONCE = Counter({"nested": 1, "counted": 1, "branch": BRANCHES})


async def test_a_pipeline_that_nothing_happens_to() -> None:
    pipeline = Pipeline()
    log = HandLog(pipeline.app, "pipeline")
    outcome = await log.attempt()
    view = ResultView("job")
    view.feed(log.finish())
    assert view.result().text == TEXT
    assert outcome.usage is not None
    events = events_of(log)
    check_events(events)
    assert told_in(events) == ONCE
    assert set(pipeline.calls.values()) == {1}
    assert set(log.upstreams.asked.values()) == {1}
    assert not [event for event in events if event["event"].endswith("_error")]


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, 50), max_size=4), flaky=st.sets(st.integers(1, 4), max_size=2), data=st.data())
def test_cut_anywhere_and_run_again_it_comes_to_the_same_end(cuts: list[int], flaky: set[int], data: Any) -> None:
    asyncio.run(_cut_and_run(cuts, flaky, data))


async def _cut_and_run(cuts: list[int], flaky: set[int], data: Any) -> None:
    pipeline = Pipeline()
    pipeline.flaky = lambda: pipeline.calls["flaky"] in flaky
    log = HandLog(pipeline.app, "pipeline")
    reader = EventsView("job")
    shown: list[StreamEvent] = []
    read, stood = 0, 1
    for further in [*cuts, None]:
        finished = log.ended_steps()
        before, asked = Counter(pipeline.calls), Counter(log.upstreams.asked)
        await log.attempt()
        for step, function in (("count.0", "count"), ("nest.0/flaky.0", "flaky"), ("*.0.0/bits.0", "bits")):
            if step in finished:
                assert pipeline.calls[function] == before[function], f"{step} was finished and has run again"
        for step, prompt in (("plan.0", "plan it"), ("nest.0/inner.0", "nested"), ("*.0.2/two.0", "branch 0")):
            if step in finished:
                assert log.upstreams.asked[prompt] == asked[prompt], f"{step} was finished and was asked again"
        if further is not None:
            stood += further
            log.cut(stood)
            stood = len(log.entries)
        # Somebody who was there all the time, now and then behind.
        until = data.draw(st.integers(read, len(log.entries)))
        shown += reader.feed(log.entries[read:until])
        read = until
    shown += reader.feed(log.finish()[read:])
    events = events_of(log)
    check_events(events)
    assert told_in(events) == ONCE
    assert shown == events
    view = ResultView("job")
    view.feed(log.finish())
    assert view.result().text == TEXT
    assert len(log.jobs.submitted) == 1, "one child, whatever happened"


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_models_that_say_something_else_each_time_leave_one_consistent_whole(cuts: list[int]) -> None:
    asyncio.run(_cut_and_differ(cuts))


async def _cut_and_differ(cuts: list[int]) -> None:
    log = HandLog(Pipeline().app, "pipeline")
    log.upstreams.differs = True
    reader = EventsView("job")
    shown: list[StreamEvent] = []
    read, stood = 0, 1
    for further in cuts:
        await log.attempt()
        log.cut(stood + further)
        shown += reader.feed(log.entries[read:])
        read = stood = len(log.entries)
    await log.attempt()
    shown += reader.feed(log.finish()[read:])
    events = events_of(log)
    assert shown == events
    check_events(events, told_once=False)
    ends: dict[str, Any] = {event["name"]: event["data"] for event in events if event["event"].endswith("_end")}
    plan = ends["plan"]["output"]["content"]
    assert ends["pipeline"]["output"] == plan + TEXT.removeprefix("plan it! ")
    assert set(told_in(events)) == set(ONCE)


@pytest.mark.parametrize("flaky", [{1}, {1, 2}])
async def test_every_single_cut_with_a_step_that_is_tried_again(flaky: set[int]) -> None:
    whole = HandLog(Pipeline().app, "pipeline")
    await whole.attempt()
    for cut in range(1, len(whole.entries) + 12):
        pipeline = Pipeline()
        pipeline.flaky = lambda pipeline=pipeline: pipeline.calls["flaky"] in flaky  # type: ignore[misc]  # bound early
        log = HandLog(pipeline.app, "pipeline")
        await log.attempt()
        log.cut(cut)
        inner = "nest.0/inner.0" in log.ended_steps()
        await log.attempt()
        view = ResultView("job")
        view.feed(log.finish())
        assert view.result().text == TEXT, cut
        check_events(events_of(log))
        assert log.upstreams.asked["nested"] == (1 if inner else 2), "a finished inner step was paid for again"
