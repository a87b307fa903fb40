"""Keeps the books of an attempt at a task: which step is which run, what is written of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import JsonValue

from tailrace.schemas import ErrorDetail, JsonObject, StepFailed, StepMismatch
from tailrace.tasks.identity import Identity
from tailrace.worker.attempts import Failed
from tailrace.worker.memory import Line
from tailrace.worker.recorder import Recorder
from tailrace.worker.tasks.history import History, StepRun
from tailrace.worker.tasks.scope import Scope


class Called(NamedTuple):
    """A step as it was called."""

    scope: Scope
    identity: Identity


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
        recorder.rewound = history.rewound

    @property
    def job_id(self) -> str:
        return self.recorder.job.job_id

    def call(self, scope: Scope, name: str, given: str) -> Called:
        """Fix a step's identity. Raises: InvalidRequest, StepMismatch, RuntimeError."""
        scope.called()
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
                raise Failed(ErrorDetail(type="restarted", message=message, retryable=True), again=False)
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
        return step

    def _must_not_restart(self) -> bool:
        return self.recorder.job.request.on_restart == "fail"

    async def end(self, step: StepRun, kind: str, data: JsonObject) -> None:
        """Write that a step is finished; once this returns, no attempt runs it again."""
        step.ended = data
        self.recorder.write(self.recorder.event(f"on_{kind}_end", run=step.number, data=data))
        await self.recorder.writer.flushed()

    def end_soon(self, step: StepRun, kind: str, data: JsonObject) -> None:
        """As `end`, where there is no waiting."""
        step.ended = data
        self.recorder.write(self.recorder.event(f"on_{kind}_end", run=step.number, data=data))

    async def fail(self, step: StepRun, kind: str, error: ErrorDetail, cause: BaseException | None) -> StepFailed:
        """Write that a step has failed; the error to raise."""
        step.error = error
        data: dict[str, JsonValue] = {"error": error.model_dump(mode="json")}
        self.recorder.write(self.recorder.event(f"on_{kind}_error", run=step.number, data=data))
        await self.recorder.writer.flushed()
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
        self.recorder.write(self.recorder.retry(counted=True, error=error, run=step.number))
        await self.recorder.writer.flushed()
        return self.recorder.job.memory.output(step.number)

    def complete(self, scope: Scope) -> None:
        """A scope has come to its end. Raises: StepMismatch if an earlier attempt came to steps that this one has not."""
        missed = next(self.history.passed_over(scope.path), None)
        if missed is not None:
            self.differs(missed.identity.path)

    def used(self, usage: Mapping[str, Any] | None) -> None:
        """Add up what models say that they used."""
        for name, count in (usage or {}).items():
            if isinstance(count, int) and not isinstance(count, bool):
                self.usage[name] = self.usage.get(name, 0) + count
