"""What an attempt does with a job it has claimed, by the kind of job. Life and death of the job are `run`'s."""

from collections.abc import Mapping
from typing import Any, Protocol

from tailrace.schemas import ErrorDetail, Status
from tailrace.worker.answer import Answer
from tailrace.worker.job import Job
from tailrace.worker.recorder import Recorder
from tailrace.worker.sources import Outcome, UpstreamError
from tailrace.worker.upstreams import Upstreams


class Failed(Exception):  # an attempt's end, not a fault of ours
    """The attempt failed; `again`: another one may go well."""

    def __init__(self, detail: ErrorDetail, *, again: bool) -> None:
        super().__init__(detail.type)
        self.detail, self.again = detail, again


class Attempts(Protocol):
    """The attempts that one worker makes at one job, one after the other."""

    first_s: float | None
    """From the beginning of the last attempt to its first text."""

    async def attempt(self, recorder: Recorder, number: int) -> Outcome:
        """Raises: Failed, OutputLimit, LogRefusal."""
        ...


def completed(usage: Mapping[str, int]) -> Outcome:
    """The outcome of a task that has come to its end; `usage`: of all its answers of models."""
    return Outcome(finish_reason=None, usage={**usage} or None, model=None, status=Status.COMPLETED)


def add_usage(total: dict[str, int], used: Mapping[str, Any] | None) -> None:
    """Add to `total` what a model says that it used: its counts, not what they are made up of."""
    for name, count in (used or {}).items():
        if isinstance(count, int) and not isinstance(count, bool):
            total[name] = total.get(name, 0) + count


class PromptAttempts:
    """A prompt: one answer of one upstream, into the root run."""

    def __init__(self, job: Job, upstreams: Upstreams) -> None:
        self.first_s: float | None = None
        self._job, self._upstreams = job, upstreams
        self._retries_left: int | None = None

    async def attempt(self, recorder: Recorder, number: int) -> Outcome:  # noqa: ARG002 - the protocol's
        request, memory = self._job.request, self._job.memory
        answer = Answer(
            request,
            recorder=recorder,
            upstreams=self._upstreams,
            base=recorder.start(),
            on_restart=request.on_restart,
            retries_left=self._retries_left,
        )
        try:
            await answer.write(memory.output())
        except UpstreamError as error:
            raise Failed(error.detail, again=error.detail.retryable) from error
        finally:
            self._retries_left, self.first_s = answer.retries_left, answer.first_s
        if answer.outcome is None:
            raise RuntimeError("an answer that ended well has an outcome")
        return answer.outcome
