"""Keeps the books of an attempt at a task: which step is which run, what is written of it."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import JsonValue

from tailrace.schemas import ErrorDetail, JsonObject, StepFailed, StepMismatch
from tailrace.tasks.identity import Identity
from tailrace.telemetry.tracing import NOTHING
from tailrace.telemetry.tracing_jobs import RETRY, stepping
from tailrace.worker.attempts import Failed, add_usage
from tailrace.worker.memory import Line
from tailrace.worker.recorder import Recorder
from tailrace.worker.tasks.history import History, StepRun
from tailrace.worker.tasks.scope import Scope


class Called(NamedTuple):
    """A step as it was called."""

    scope: Scope
    identity: Identity


@dataclass(eq=False, slots=True)
class Reading:
    """An answer that is being iterated over."""

    scope: Scope
    step: StepRun
    kind: str
    left: bool = False
    """Whoever iterated has stopped before its end."""


class Again(BaseException):
    """What a task was given cannot be taken back: it is run again, from its beginning. Not an Exception: it is nothing that a
    task may deal with."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(detail.type)
        self.detail = detail


class Ledger:
    """One attempt's books. Steps that run side by side share it."""

    def __init__(self, recorder: Recorder, history: History) -> None:
        self.recorder, self.history = recorder, history
        self.usage: dict[str, int] = {}
        """Of all answers of models, those of earlier attempts included."""
        self.mismatch: StepMismatch | None = None
        self.failed_attempt: Failed | None = None
        """What ends the attempt, should the task take no notice of it."""
        self._readings: dict[int, Reading] = {}
        self._under_way: dict[int, StepRun] = {}
        self._answers = WeakKeyDictionary[AsyncGenerator[str], Scope]()
        recorder.rewound = history.rewound

    @property
    def job_id(self) -> str:
        return self.recorder.job.job_id

    def call(self, scope: Scope, name: str, given: str) -> Called:
        """Fix a step's identity. Raises: InvalidRequest, StepMismatch, RuntimeError."""
        scope.called()
        self._go_on(scope, over=False)
        called = Called(scope, Identity(scope.paths.step(name), given))
        known = self.history.steps.get(called.identity.path)
        if known is not None and known.identity != called.identity:
            self.differs(called.identity.path)
        return called

    def differs(self, path: str) -> None:
        """Raises: StepMismatch, now and, should the task take no notice, at its end."""
        self.mismatch = self.mismatch or StepMismatch(self.job_id, path)
        raise self.mismatch

    def begin(
        self,
        called: Called,
        kind: str,
        name: str,
        *,
        tags: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
        data: JsonObject | None = None,
    ) -> StepRun:
        """The step's run: the one that stands, finished or not, else a new one, its start written.

        Raises: StepMismatch if the earlier attempt came to other steps here; Failed if the job must not be gone on with.
        """
        history, path = self.history, called.identity.path
        step = history.steps.get(path)
        if step is not None:
            step.resumed = True
            if step.ended is None and step.error is None and step.output and self._must_not_restart():
                message = 'an attempt died after a step had begun to answer, and on_restart="fail"'
                detail = ErrorDetail(type="restarted", message=message, retryable=True)
                self.failed_attempt = Failed(detail, again=False)
                raise self.failed_attempt
            self._count(step)
            if step.ended is None and step.error is None:
                self._carry_out(step, kind, name, resumed=True)
            return step
        if next(history.passed_over(called.scope.path), None) is not None:
            self.differs(path)
        runs = history.runs_of(path)
        number, run_id = history.next_run(), self.recorder.run_id(f"{path}~{runs}" if runs else path)
        start = self.recorder.event(
            f"on_{kind}_start",
            run=number,
            name=name,
            run_id=run_id,
            parents=list(called.scope.above),
            tags=list(tags) if tags else None,
            metadata=dict(metadata) if metadata else None,
            data=data,
            step=str(called.identity),
        )
        step = StepRun(number, run_id, called.identity, start, resumed=True)
        history.begun(step)
        self.recorder.write(start)
        self._carry_out(step, kind, name, resumed=False)
        return step

    def _carry_out(self, step: StepRun, kind: str, name: str, *, resumed: bool) -> None:
        step.span = stepping(kind, name, path=step.identity.path, resumed=resumed)
        if step.span is not NOTHING:
            self._under_way[step.number] = step

    def _over(self, step: StepRun, error: str | None = None) -> None:
        """It is over, as far as this attempt is concerned."""
        if self._under_way.pop(step.number, None) is not None:
            if error is not None:
                step.span.fail(error)
            step.span.end()

    def _count(self, step: StepRun) -> None:
        """What an earlier attempt has said counts in this one too. Raises: OutputLimit."""
        if step.ended is None:
            return
        for line in step.output:
            self.recorder.said(line.text)
        if "output" in step.ended:
            self.recorder.said(str(step.ended["output"]))

    def _must_not_restart(self) -> bool:
        return self.recorder.job.request.on_restart == "fail"

    async def end(self, step: StepRun, kind: str, data: JsonObject) -> None:
        """Write that a step is finished; once this returns, no attempt runs it again."""
        step.ended = data
        self.recorder.write(self.recorder.event(f"on_{kind}_end", run=step.number, data=data))
        await self.recorder.writer.flushed()
        self._over(step)

    def reads(self, scope: Scope, step: StepRun, kind: str) -> Reading:
        """Somebody begins to iterate over an answer."""
        reading = self._readings[step.number] = Reading(scope, step, kind)
        return reading

    def read(self, step: StepRun) -> None:
        """It has come to its end, or failed."""
        self._readings.pop(step.number, None)

    def _go_on(self, scope: Scope, *, over: bool) -> None:
        """A task that goes on has left the answers it has stopped to read: what it has read of them is all that it is to get in
        the next attempt. Only now: when they are closed it is not known whether it was the task's will or a blow."""
        for number, reading in list(self._readings.items()):
            if reading.scope is scope and (reading.left or over):
                del self._readings[number]
                reading.step.ended = {"left": True}
                left = self.recorder.event(f"on_{reading.kind}_end", run=number, data={"left": True})
                self.recorder.write(left)
                self._over(reading.step)

    async def fail(self, step: StepRun, kind: str, error: ErrorDetail, cause: BaseException | None) -> StepFailed:
        """Write that a step has failed; the error to raise."""
        self.history.failed(step, error)
        data: dict[str, JsonValue] = {"error": error.model_dump(mode="json")}
        self.recorder.write(self.recorder.event(f"on_{kind}_error", run=step.number, data=data))
        await self.recorder.writer.flushed()
        self._over(step, error.type)
        return self.failed(step, cause)

    def failed(self, step: StepRun, cause: BaseException | None = None) -> StepFailed:
        """The error of a step that has failed, in this attempt or an earlier one."""
        if step.error is None:
            raise RuntimeError("only of a step that has failed")
        error = StepFailed(self.job_id, step.identity.path, step.error)
        error.__cause__ = cause
        return error

    async def again(self, step: StepRun, error: ErrorDetail) -> list[Line]:
        """Write that a step is tried again; its output that stands."""
        step.span.event(RETRY, {"error.type": error.type})
        self.recorder.write(self.recorder.retry(counted=True, error=error, run=step.number))
        await self.recorder.writer.flushed()
        return self.recorder.job.memory.output(step.number)

    def again_whole(self, error: ErrorDetail) -> Again:
        """What is to be raised so that the task is run again, from its beginning."""
        self.failed_attempt = Failed(error, again=True)
        return Again(error)

    def answering(self, scope: Scope, answer: AsyncGenerator[str]) -> None:
        """Somebody iterates over an answer, and may leave before its end."""
        self._answers[answer] = scope

    async def close(self, path: str = "") -> None:
        """What was called here is over: whatever is still being asked for, nobody waits for it any more. (An error holds the
        frames it came through, so that what they iterate over is not closed by itself.)"""
        for answer, scope in list(self._answers.items()):
            if not path or scope.path == path or scope.path.startswith(f"{path}/"):
                with suppress(RuntimeError):  # a coroutine that the task has left behind is at it
                    await answer.aclose()
        if not path:
            for step in list(self._under_way.values()):
                self._over(step, "stopped")

    def complete(self, scope: Scope) -> None:
        """A scope has come to its end. Raises: StepMismatch if an earlier attempt came to steps that this one has not."""
        missed = next(self.history.passed_over(scope.path), None)
        if missed is not None:
            self.differs(missed.identity.path)
        self._go_on(scope, over=True)

    def used_by(self, step: StepRun) -> None:
        """Add up what a finished step says that it used."""
        ended: Any = step.ended or {}
        output = ended.get("output")
        # An answer's usage is the end's own, a child's is in its result.
        self.used(
            output.get("usage") if "job_id" in json.loads(step.start.text).get("data", {}) else ended.get("usage")
        )

    def used(self, usage: Mapping[str, Any] | None) -> None:
        """Add up what models say that they used."""
        add_usage(self.usage, usage)
