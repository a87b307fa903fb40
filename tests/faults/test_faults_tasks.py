"""Pipelines whose workers die: finished steps are not paid for again, readers see one well-formed whole."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fault_world import LEASE_S, Process, World, world
from pipeline_app import PACE_S, TOKENS, whole_text
from witness import AnyRecord, Witness

from engine import wait_until
from event_streams import check_events
from tailrace import Status, StreamEvent
from tailrace.client import AsyncJob
from tailrace.schemas import ChunkRecord, EventRecord, JobEnded

fast = pytest.mark.faults_fast
APP = "pipeline_app:tailrace"
LONGEST_S = 2 * LEASE_S + 5


class Pipeline:
    """A pipeline under way, and what is seen of it."""

    def __init__(self, w: World, job: AsyncJob, witness: Witness, calls: Path) -> None:
        self.w, self.job, self.witness, self._calls = w, job, witness, calls
        self.events: list[StreamEvent] = []

    async def read_events(self) -> None:
        try:
            async for event in self.job.stream_events():
                self.events.append(event)
        except JobEnded:
            return

    async def until(self, condition: Callable[[list[AnyRecord]], bool]) -> None:
        """Wait until the log is so, as a reader has it."""
        await wait_until("the pipeline has come so far", lambda: condition(self.witness.records), 20)

    def calls(self) -> Counter[str]:
        """How often each step was really carried out."""
        asked: Counter[str] = Counter()
        for call in self.w.rehearsal.calls:
            messages = cast("Any", call.body)["messages"]
            asked[str(messages[0]["content"])] += 1
        if self._calls.exists():
            asked["merge"] = len(self._calls.read_text().splitlines())
        return asked

    def check_calls(self) -> None:
        """No step was carried out once more after the attempt that finished it. (It may have been in an attempt that died before
        its start was stored: a call is not held back for that.)"""
        attempts = [_epoch(record) for record in self.witness.attempts if not record.replay]
        ended = _spans(self.witness.records)[1]
        calls = self.calls()
        assert set(calls) == {*TOKENS, "merge"}
        for name, count in calls.items():
            # A child is a job of its own, which may have lost its worker too.
            until = sum(epoch <= ended[name] or name == "child" for epoch in attempts)
            assert 1 <= count <= until, (
                f"{name!r} was carried out {count} times in {until} attempts: {calls}, {attempts}"
            )

    async def check(self, **how: Any) -> None:
        """Everything that must hold when it has ended well."""
        await self.witness.check(whole_text(), **how)
        late = [event async for event in self.job.stream_events()]
        check_events(late)
        assert self.events == late, "who was there and who comes late see other events"
        assert [event["event"] for event in late if event["event"].endswith("_error")] == []
        names = Counter(event["name"] for event in late if event["event"].endswith("_end"))
        assert names == dict.fromkeys((*TOKENS, "merge", "pipeline"), 1)
        assert sum(event["name"] == "planned" for event in late) == 1
        self.check_calls()


def _epoch(record: AnyRecord) -> int:
    return int(record.position.partition("-")[0])


def _spans(records: list[AnyRecord]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """By name of the step: the epoch of the attempt that has begun it, and of the one that has finished it."""
    names: dict[int, str] = {}
    begun: dict[str, int] = {}
    ended: dict[str, int] = {}
    for record in records:
        if isinstance(record, EventRecord) and record.event.endswith("_start"):
            names[record.run] = str(record.name)
            begun[str(record.name)] = _epoch(record)
        elif isinstance(record, EventRecord) and record.event.endswith("_end"):
            ended[names[record.run]] = _epoch(record)
    return begun, ended


def begun(name: str) -> Callable[[list[AnyRecord]], bool]:
    return lambda records: name in _spans(records)[0]


def ended(name: str) -> Callable[[list[AnyRecord]], bool]:
    return lambda records: name in _spans(records)[1]


def said(name: str, count: int) -> Callable[[list[AnyRecord]], bool]:
    """So many pieces of a step's answer."""

    def has_said(records: list[AnyRecord]) -> bool:
        run = next(
            (one.run for one in records if isinstance(one, EventRecord) and (one.name, one.run > 0) == (name, True)),
            None,
        )
        return run is not None and sum(isinstance(one, ChunkRecord) and one.run == run for one in records) >= count

    return has_said


def attempted(records: list[AnyRecord]) -> bool:
    return len(records) >= 2


POINTS: Mapping[str, Callable[[list[AnyRecord]], bool]] = {
    "as it is taken": attempted,
    "within the first answer": said("plan", 3),
    "behind the first answer": ended("plan"),
    "within both of the pair": said("right", 2),
    "behind one of the pair": ended("left"),
    "behind the pair": ended("right"),
    "within the function": begun("merge"),
    "behind the function": ended("merge"),
    "within the child": begun("child"),
    "behind the child": ended("child"),
    "within the text": said("write", 4),
    "behind the text": ended("write"),
}


@asynccontextmanager
async def pipeline(
    tmp_path: Path, check: Callable[[Pipeline], Awaitable[None]], *, workers: int = 2, **submit: Any
) -> AsyncGenerator[Pipeline]:
    """A pipeline with workers that can carry it out, read from its beginning to its end, then checked."""
    async with world() as w:
        calls = tmp_path / "calls"
        await asyncio.gather(*(start_worker(w, calls) for _ in range(workers)))
        job = await w.tailrace.submit(task="pipeline", **submit)
        async with w.watching(job) as witness:
            made = Pipeline(w, job, witness, calls)
            reading = asyncio.create_task(made.read_events())
            try:
                yield made
                await asyncio.wait_for(reading, 30)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        await check(made)


async def start_worker(w: World, calls: Path) -> Process:
    return await w.start_worker(app=APP, env={"FAULTS_CALLS": str(calls)})


@pytest.mark.parametrize("point", [pytest.param(name, marks=fast) if "pair" in name else name for name in POINTS])
async def test_a_worker_killed_at_any_step_costs_no_finished_step_again(
    point: str, chance: random.Random, tmp_path: Path
) -> None:
    async with pipeline(tmp_path, settled) as p:
        await p.until(POINTS[point])
        await asyncio.sleep(chance.uniform(0, 2 * PACE_S))
        p.w.owner(p.witness).kill()


async def settled(p: Pipeline) -> None:
    """It has ended well, and is as it should be."""
    await p.check(silence_s=LONGEST_S)


async def test_a_pipeline_survives_kills_at_any_moment(chance: random.Random, tmp_path: Path) -> None:
    async with pipeline(tmp_path, settled, workers=3, max_attempts=3) as p:
        for attempt in (1, 2):
            await p.witness.until_attempt(attempt)
            await asyncio.sleep(chance.uniform(0, 0.6))
            if p.witness.errors or not p.witness.attempts or p.witness.records[-1].kind == "end":
                break
            p.w.owner(p.witness).kill()


async def test_a_server_restarted_in_the_middle_of_a_pipeline_loses_no_step(
    chance: random.Random, tmp_path: Path
) -> None:
    async def check(p: Pipeline) -> None:
        await p.check(silence_s=10)

    async with pipeline(tmp_path, check, workers=1) as p:
        await p.until(POINTS[chance.choice(list(POINTS)[:-2])])
        await p.w.kill_server()
        await p.w.restart_server()


async def test_a_cancelled_pipeline_leaves_no_call_and_no_child(chance: random.Random, tmp_path: Path) -> None:
    point = chance.choice(["within both of the pair", "within the child", "within the text"])

    async def check(p: Pipeline) -> None:
        await p.witness.check(None, status=Status.CANCELLED)
        check_events(p.events)
        assert "write" not in p.calls() or point == "within the text"

    async with pipeline(tmp_path, check) as p:
        await p.until(POINTS[point])
        if point == "within the child":
            await p.w.rehearsal.wait_until(lambda: p.w.rehearsal.open_streams > 0, "the child asks")
        await p.job.cancel()
        await p.w.rehearsal.wait_until(lambda: p.w.rehearsal.open_streams == 0, "no call is open", timeout=3)
