"""What operators hear of a job while it is run here: a span and some lines in the log for each attempt.

The lines name the job, never what it says. They are a logger of their own, since there may be thousands a second.
"""

import asyncio
import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from tailrace.joblog import Fenced, Gone, LogRefusal, Sealed
from tailrace.queue import CancelReason, Claimed
from tailrace.schemas import RETRY_EVENT, ErrorDetail, Keys, Status
from tailrace.telemetry import tracing
from tailrace.telemetry.current import working_for
from tailrace.telemetry.logs import JOBS
from tailrace.telemetry.tracing_jobs import OUTCOME, STATUS, processing
from tailrace.telemetry.tracing_models import name_of, tokens_of
from tailrace.worker.job import Job
from tailrace.worker.sources import Outcome

logger = logging.getLogger(JOBS)

#: What became of an attempt that neither ended its job nor failed.
_REASONS: Final = {
    CancelReason.DRAIN: "handed_back",
    CancelReason.LEASE_LOST: "lease_lost",
    CancelReason.TIMEOUT: "expired",
    CancelReason.CANCELLED: "sealed",  # cancelled, deleted or expired: somebody has ended it
}


class Attempted:
    """One attempt as it is told of."""

    def __init__(self, job: Job, number: int, span: tracing.Span, claimed: Claimed) -> None:
        self._job, self._number, self._claimed = job, number, claimed
        self.span = span
        self._began = time.monotonic()

    def began(self) -> None:
        if logger.isEnabledFor(logging.INFO):
            request = self._job.request
            logger.info(
                "job %r: attempt %d",
                self._job.job_id,
                self._number,
                extra=self._fields(
                    api=request.api,
                    task=name_of(request.task),
                    model=name_of(request.model),
                    upstream=name_of(request.upstream),
                ),
            )

    def again(self, detail: ErrorDetail, pause_s: float) -> None:
        """It failed, and another one follows after a pause."""
        logger.info(
            "job %r: attempt %d failed (%s), trying again",
            self._job.job_id,
            self._number,
            detail.type,
            extra=self._fields(**_of_error(detail), pause_s=pause_s),
        )
        self.span.set({OUTCOME: "retried", "http.response.status_code": detail.http_status})
        self.span.event(RETRY_EVENT, {"error.type": detail.type, "tailrace.retry.pause": pause_s})
        self.span.fail(detail.type)

    def ended(
        self, status: Status, *, error: ErrorDetail | None, outcome: Outcome | None, first_s: float | None
    ) -> None:
        """It has ended its job."""
        self.span.set({OUTCOME: "ended", STATUS: status.value})
        if error is not None:
            self.span.fail(error.type)
        level = logging.WARNING if status is Status.FAILED else logging.INFO
        if not logger.isEnabledFor(level):
            return
        tokens_in, tokens_out = tokens_of(outcome.usage if outcome else None)
        took_s = time.monotonic() - self._began
        logger.log(
            level,
            "job %r: %s%s (attempt %d, %.3f s)",
            self._job.job_id,
            status.value,
            "" if error is None else f", {error.type}",
            self._number,
            took_s,
            extra=self._fields(
                status=status.value,
                duration_ms=round(took_s * 1000),
                first_chunk_ms=None if first_s is None else round(first_s * 1000),
                finish_reason=name_of(outcome.finish_reason) if outcome else None,
                input_tokens=tokens_in,
                output_tokens=tokens_out,
                **({} if error is None else _of_error(error)),
            ),
        )

    def stopped(self, error: BaseException) -> None:
        """It was stopped before either."""
        match error:
            case Fenced():
                word, level = "fenced", logging.WARNING
            case Sealed():
                word, level = "sealed", logging.INFO
            case Gone() | LogRefusal():
                word, level = "gone", logging.INFO
            case asyncio.CancelledError():
                reason = self._claimed.reason
                word, level = "cancelled" if reason is None else _REASONS[reason], logging.INFO
            case _:  # whoever takes it from here says what it is
                self.span.set({OUTCOME: "error"})
                self.span.fail(tracing.word_for(error))
                return
        self.span.set({OUTCOME: word})
        logger.log(
            level,
            "job %r: attempt %d: %s",
            self._job.job_id,
            self._number,
            word.replace("_", " "),
            extra=self._fields(outcome=word),
        )

    def _fields(self, **fields: object) -> Mapping[str, object]:
        return {"job_id": self._job.job_id, "attempt": self._number, "worker": self._claimed.worker, **fields}


class Telling:
    """Tells of the attempts that one worker makes at one job."""

    def __init__(self, keys: Keys, claimed: Claimed) -> None:
        self._keys, self._claimed = keys, claimed
        self.last = tracing.NOTHING
        """The span of the last attempt: what the job's end brings about is below it."""
        self.refusal: LogRefusal | None = None
        """Why the log takes no more: the attempt only sees that it is cancelled."""

    @contextmanager
    def attempt(self, job: Job, number: int) -> Generator[Attempted]:
        """One attempt at the job: its span, and what runs in it works for this job."""
        fields: dict[str, str | int] = {"job_id": job.job_id, "attempt": number, "worker": self._claimed.worker}
        with working_for(fields):
            span = tracing.NOTHING
            if tracing.tracing():
                span = self.last = processing(
                    self._claimed.queue,
                    job_id=job.job_id,
                    parent=tracing.received(job.trace),
                    worker=self._claimed.worker,
                    number=number,
                    restarted=any(line.field == "attempt" for line in job.memory.lines),
                    api=job.request.api,
                    task=job.request.task,
                )
            told = Attempted(job, number, span, self._claimed)
            try:
                with span.entered():
                    told.began()
                    yield told
            except BaseException as error:
                told.stopped(self.refusal or error)
                raise
            finally:
                span.end()


def tell_of_end(job_id: str, status: Status, error: ErrorDetail | None = None) -> None:
    """A line for a job that ends without an attempt of this worker's."""
    level = logging.WARNING if status is Status.FAILED else logging.INFO
    fields: dict[str, Any] = {} if error is None else _of_error(error)
    logger.log(
        level,
        "job %r: %s without an attempt%s",
        job_id,
        status.value,
        "" if error is None else f", {error.type}",
        extra={"job_id": job_id, "status": status.value, **fields},
    )


def _of_error(detail: ErrorDetail) -> dict[str, object]:
    """Its kind, not its message: that may be somebody's words."""
    return {"error_type": detail.type, "http_status": detail.http_status, "retryable": detail.retryable}
