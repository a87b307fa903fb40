"""Attempts at a task on a log that is a list: no server, no clock that anything waits for. The log is cut where a test says, as
a crash leaves it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from tailrace.joblog import LogRefusal
from tailrace.schemas import (
    FIRST,
    AttemptRecord,
    EndRecord,
    Entry,
    JobRecord,
    JobRequest,
    Position,
    Result,
    Status,
    position,
)
from tailrace.tasks import App
from tailrace.telemetry.metrics_catalogue import WORKER
from tailrace.telemetry.metrics_counts import Counts
from tailrace.telemetry.tracing_models import UNTRACED
from tailrace.views import EventsView, ResultView
from tailrace.worker.attempts import Failed
from tailrace.worker.job import Job
from tailrace.worker.memory import Line, Memory
from tailrace.worker.recorder import Recorder
from tailrace.worker.sources import Item, Outcome
from tailrace.worker.tasks import TaskAttempts
from tailrace.worker.tools import Tools


class HandWriter:
    """Writes into memory at once. `flushed` gives others their turn, as a round trip does."""

    refusal: LogRefusal | None = None
    has_room = True

    def __init__(self, memory: Memory, epoch: int) -> None:
        self._memory, self._epoch, self._seq = memory, epoch, 0

    def write(self, *lines: Line) -> None:
        for line in lines:
            self._seq += 1
            line.position = position(self._epoch, self._seq)
            self._memory.add(line)

    async def ready(self) -> None:
        return None

    async def flushed(self) -> None:
        await asyncio.sleep(0)


class HandUpstreams:
    """Says `<prompt>!` in words, each a read of its own; counts who was asked what."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.differs = False
        """Whether it says something else each time, from the second word on."""
        self.open_calls = self.most_open = 0
        self.counts, self.pieces = Counts(WORKER), 0

    def retries(self, name: str) -> int:  # noqa: ARG002 - the worker's own word
        return 2

    @asynccontextmanager
    async def open(
        self,
        request: JobRequest,
        *,
        continue_from: str | None = None,  # noqa: ARG002 - the worker's own word
        max_retries: int | None = None,  # noqa: ARG002
    ) -> AsyncGenerator["HandStream"]:
        assert request.messages is not None
        prompt = str(cast("Any", request.messages[0])["content"])
        self.asked[prompt] += 1
        first, space, rest = prompt.partition(" ")
        turn = f"({self.asked[prompt]})" if self.differs and space else ""
        self.open_calls += 1
        self.most_open = max(self.most_open, self.open_calls)
        try:
            yield HandStream(f"{first}{space}{turn}{rest}!")
        finally:
            self.open_calls -= 1


class HandStream:
    continued = False
    retries_taken = 0
    upstream = "hand"
    call = UNTRACED

    def __init__(self, text: str) -> None:
        self._words: list[Item] = [word + " " for word in text.split()]
        self.outcome = Outcome("stop", {"total_tokens": len(self._words)}, "hand", Status.COMPLETED)

    def __aiter__(self) -> "HandStream":
        return self

    async def __anext__(self) -> list[Item]:
        await asyncio.sleep(0)
        if not self._words:
            raise StopAsyncIteration
        return [self._words.pop(0)]


class HandJobs:
    """Children that have ended as soon as they are submitted."""

    def __init__(self) -> None:
        self.submitted: Counter[str] = Counter()

    async def submit(self, request: JobRequest, job_id: str) -> None:
        assert request.task is not None
        self.submitted[job_id] += 1

    async def result(self, job_id: str) -> Result:
        await asyncio.sleep(0)
        return Result(job_id=job_id, status=Status.COMPLETED, text="from the child", attempts=1, last=FIRST)

    async def cancel(self, job_id: str) -> None:
        raise AssertionError(job_id)


class HandLog:
    """A job and its log."""

    def __init__(self, app: App, task: str, given: Any = None, *, on_restart: Any = "splice") -> None:
        self.app = app
        self.request = JobRequest.of(input=given, task=task, on_restart=on_restart)
        self.record = JobRecord(
            position=FIRST, digest="d", incarnation="i", retention_ms=1, api="task", task=task, ts=1
        )
        self.entries = [Entry(FIRST, "job", self.record.value())]
        self.upstreams, self.jobs = HandUpstreams(), HandJobs()
        self.epoch = 0

    async def attempt(self, *, output_bytes: int = 1 << 20) -> Outcome:
        """One attempt, from the log as it stands. Raises: what ends an attempt."""
        self.epoch += 1
        record = AttemptRecord(
            position=position(self.epoch, 0),
            attempt=self.epoch,
            worker="w",
            nonce=str(self.epoch),
            incarnation="i",
            ts=1,
            after=self.entries[-1].position,
        )
        self.entries.append(Entry(record.position, "attempt", record.value()))
        memory = Memory(self.entries)
        job = Job("job", self.record, self.request, memory, ended=False, now_ms=0)
        writer = HandWriter(memory, self.epoch)
        recorder = Recorder(job, cast("Any", writer), clock_ahead_ms=0, output_bytes=output_bytes)
        task = self.app.get(self.record.task or "")
        assert task is not None
        attempts = TaskAttempts(job, task, Tools(cast("Any", self.upstreams), self.app, self.jobs))
        try:
            return await attempts.attempt(recorder, self.epoch)
        finally:
            self.entries = [Entry(_position(line), line.field, line.value) for line in memory.lines]

    async def failure(self, **how: Any) -> Failed:
        """The failure that an attempt ends with."""
        try:
            outcome = await self.attempt(**how)
        except Failed as failed:
            return failed
        raise AssertionError(f"it went well: {outcome}")

    def cut(self, length: int) -> None:
        """A worker died when so many records stood."""
        del self.entries[max(1, length) :]

    def finish(self) -> list[Entry]:
        """The whole log, with its end."""
        end = EndRecord(status=Status.COMPLETED, last=self.entries[-1].position, ts=2)
        return [*self.entries, Entry(end.position, "end", end.value())]

    def ended_steps(self, entries: Sequence[Entry] | None = None) -> set[str]:
        """The paths of the steps that the log has finished."""
        begun: dict[int, str] = {}
        ended: set[str] = set()
        for fields in map(_event, self.entries if entries is None else entries):
            if str(fields.get("event")).endswith("_start") and fields.get("step"):
                begun[fields["run"]] = str(fields["step"]).rpartition("#")[0]
            elif str(fields.get("event")).endswith("_end") and fields["run"] in begun:
                ended.add(begun[fields["run"]])
        return ended


def _event(entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(entry.value) if entry.field == "event" else {}
    return {"run": 0, **fields}


def _position(line: Line) -> Position:
    assert line.position is not None
    return line.position


def task_of(body: Callable[..., Any], **how: Any) -> HandLog:
    """A log for a task with this body."""
    app = App()
    app.task(name="task")(body)
    return HandLog(app, "task", **how)


def text_of(log: HandLog) -> str:
    view = ResultView("job")
    view.feed(log.finish())
    return view.result().text


def output_of(log: HandLog) -> Any:
    view = ResultView("job")
    view.feed(log.finish())
    return view.result().output


def told(log: HandLog, name: str) -> list[Any]:
    events = EventsView("job").feed(log.finish())
    return [event["data"] for event in events if (event["event"], event["name"]) == ("on_custom_event", name)]


async def cut_everywhere(make: Callable[[], HandLog], check: Callable[[HandLog], None]) -> None:
    """The task, died after each record in turn and run again."""
    whole = make()
    await whole.attempt()
    check(whole)
    for cut in range(1, len(whole.entries)):
        log = make()
        await log.attempt()
        log.cut(cut)
        await log.attempt()
        check(log)


def same(one: object, other: object) -> None:
    """For lambdas."""
    assert one == other
