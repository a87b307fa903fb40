"""One job in the hands of one worker: from its claim to its end, over as many attempts as it takes here.

    load -> [claim -> upstream -> splice -> relay]* -> seal -> snapshot

Whatever ends a run, the log decides what becomes of the job: a run that finds it sealed stops, one that is fenced gives
the job back to the queue, and only a run that holds the log can end it as completed or failed.
"""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

from arq.worker import Retry

from tailrace.joblog import Broker, End, Ending, Fenced, Gone, LogRefusal, Sealed, seal, seal_expired
from tailrace.queue import CancelReason, Claimed, offered
from tailrace.schemas import (
    BrokerUnavailable,
    BrokerUnsuitable,
    ErrorDetail,
    HistoryLost,
    JobNotFound,
    Keys,
    Status,
    Timings,
    WorkerSettings,
)
from tailrace.tasks import RunnableTask
from tailrace.telemetry import metrics_catalogue as metrics
from tailrace.worker.attempts import Attempts, Failed, PromptAttempts
from tailrace.worker.discretion import without_prompt
from tailrace.worker.job import Job, RequestLost, load
from tailrace.worker.log_writer import LogWriter
from tailrace.worker.quarantine import Quarantine
from tailrace.worker.recorder import OutputLimit, Recorder
from tailrace.worker.relay import Relay
from tailrace.worker.settle import end_damaged, settle
from tailrace.worker.sources import Outcome
from tailrace.worker.tasks import TaskAttempts
from tailrace.worker.telling import Attempted, Telling, tell_of_end
from tailrace.worker.tools import Tools

logger = logging.getLogger(__name__)

_RETRY_PAUSE_CAP_S: Final = 30.0
#: The logs may be away as the queue was.
_HAND_BACK_S: Final = 5.0
#: What upstreams call their counts of tokens, in completions and in responses.
_USAGE: Final = {"input": ("prompt_tokens", "input_tokens"), "output": ("completion_tokens", "output_tokens")}


class Run:
    """Runs one claimed job. `await Run(...).carry_out()` once."""

    def __init__(
        self,
        job_id: str,
        claimed: Claimed,
        *,
        broker: Broker,
        keys: Keys,
        relay: Relay,
        tools: Tools,
        settings: WorkerSettings,
        quarantine: Quarantine,
    ) -> None:
        self._job_id, self._claimed = job_id, claimed
        self._quarantine = quarantine
        self._broker, self._keys, self._relay = broker, keys, relay
        self._tools, self._settings = tools, settings
        self._writer: LogWriter | None = None
        self._recorder: Recorder | None = None
        self._refusal: LogRefusal | None = None
        self._clock_ahead_ms = 0.0
        self._telling = Telling(keys, claimed)

    async def carry_out(self) -> None:
        """Run the job until it ends or is not ours any more. Returning takes it off the queue.

        Raises: arq.Retry or CancelledError to leave it there.
        """
        try:
            await self._carry_out()
        except BrokerUnavailable as error:
            # A thousand jobs find out that Redis is away: who waits for it says so, once.
            logger.debug("job %r: %s", self._job_id, error)
            raise Retry(defer=self._settings.retry_delay_s) from None
        except BrokerUnsuitable as error:
            # Out of memory, say: it may pass, and needs no stack trace for each job.
            logger.warning("job %r: %s", self._job_id, error)
            raise Retry(defer=self._settings.lease_s) from None

    async def _carry_out(self) -> None:
        try:
            job = await load(self._broker, self._keys, self._job_id)
        except JobNotFound:
            logger.info("job %r is gone, nothing to do", self._job_id)
            return
        except RequestLost as lost:
            await self._end_without_request(lost)
            job = None
        except HistoryLost:
            await end_damaged(self._broker, self._keys, self._job_id)
            job = None
        if job is not None and not job.ended:
            try:
                await self._until_deadline(job)
            except (Sealed, Gone):
                pass
            except Fenced:
                # We hold the lease, but another worker claimed the log: let it show whether it lives.
                raise Retry(defer=self._settings.lease_s) from None
        with self._telling.last.entered():
            settled = await settle(
                self._broker,
                self._keys,
                self._job_id,
                queue=self._claimed.queue,
                jobs=self._tools.jobs,
                seen_off=self._seen_off,
            )
        if not settled:
            # The server lost the end, or it is another incarnation's log by now: the queue must not forget it.
            raise Retry(defer=self._settings.retry_delay_s)

    def _seen_off(self, status: Status) -> None:
        self._tools.counts.add(metrics.JOBS_ENDED, status.value)

    async def _until_deadline(self, job: Job) -> None:
        self._clock_ahead_ms = time.time() * 1000 - job.now_ms
        if self._claimed.claims == 1:
            wait_ms = max(0.0, job.now_ms - self._claimed.due_ms)
            self._tools.counts.distribution(metrics.JOB_WAIT).observe(wait_ms / 1000)
        left_s = (job.record.deadline - job.now_ms) / 1000
        if left_s <= 0:
            await seal_expired(self._broker, self._keys, self._job_id, job.record.incarnation)
            tell_of_end(self._job_id, Status.EXPIRED)
            return
        # Not asyncio.timeout: whatever comes together, the upstream call may be cancelled only once.
        timer = asyncio.get_running_loop().call_later(left_s, self._claimed.cancel, CancelReason.TIMEOUT)
        try:
            with self._quarantine.place(job):
                await self._attempts(job)
        except asyncio.CancelledError:
            await self._cancelled(job)
        finally:
            timer.cancel()

    async def _cancelled(self, job: Job) -> None:
        """Why were we stopped? Raises: CancelledError if the queue must know, the refusal that the log gave."""
        match self._claimed.reason:
            case CancelReason.TIMEOUT:
                _dealt_with()
                await seal_expired(self._broker, self._keys, self._job_id, job.record.incarnation)
            case CancelReason.CANCELLED:
                _dealt_with()
                if self._refusal is not None:
                    raise self._refusal
            case CancelReason.DRAIN:
                await self._hand_back()
                raise
            case CancelReason.LEASE_LOST:
                # This worker lives, so the attempt does not count, unless another one has claimed the log by now: then this
                # is refused, as all that we write. Until it is there our own next claim waits.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HAND_BACK_S):
                        await self._hand_back()
                raise
            case _:
                raise

    async def _hand_back(self) -> None:
        writer, recorder = self._writer, self._recorder
        if writer is None or recorder is None or writer.refusal is not None:
            return
        try:
            writer.write(recorder.retry(counted=False))
            await writer.flushed()
        except LogRefusal:
            return

    async def _attempts(self, job: Job) -> None:
        request = job.request
        number = job.next_attempt()
        attempts = await self._kind(job)
        if attempts is None:
            return
        if number > request.max_attempts:
            message = f"all {request.max_attempts} attempts are used up: {job.died()}"
            await self._give_up(ErrorDetail(type="attempts_exhausted", message=message, retryable=True))
            return
        if request.on_restart == "fail" and job.memory.output():
            message = 'an attempt died after it had begun to answer, and on_restart="fail"'
            await self._give_up(ErrorDetail(type="restarted", message=message, retryable=True))
            return
        while True:
            with self._telling.attempt(job, number) as told:
                pause_s = await self._attempt(job, attempts, number, told)
            if pause_s is None:
                return
            await asyncio.sleep(pause_s)
            number += 1

    async def _attempt(self, job: Job, attempts: Attempts, number: int, told: Attempted) -> float | None:
        """One attempt. None if it has ended the job; else the pause before the next one."""
        request = job.request
        began = time.monotonic()
        self._tools.counts.add(metrics.ATTEMPTS, "first" if number == 1 else "again")
        writer = self._writer = await self._relay.open(
            self._job_id,
            incarnation=job.record.incarnation,
            attempt=number,
            memory=job.memory,
            refused=self._refused,
        )
        recorder = self._recorder = Recorder(
            job, writer, clock_ahead_ms=self._clock_ahead_ms, output_bytes=self._settings.output_bytes
        )
        first_s: float | None = None
        outcome: Outcome | None = None
        error: ErrorDetail | None = None
        status = Status.FAILED
        try:
            outcome = await attempts.attempt(recorder, number)
        except Failed as failed:
            error = without_prompt(failed.detail, request)
            if failed.again and number < request.max_attempts and request.on_restart != "fail":
                pause_s: float = min(self._settings.retry_delay_s * 2 ** (number - 1), _RETRY_PAUSE_CAP_S)
                told.again(error, pause_s)
                writer.write(recorder.retry(counted=True, error=error))
                await writer.flushed()
                return pause_s
        except OutputLimit:
            limit = self._settings.output_bytes
            error = ErrorDetail(
                type="output_limit",
                message=f"the output is over the limit of {limit} bytes; what came before stands "
                "(worker.output_bytes sets it)",
            )
        else:
            status, first_s = outcome.status, attempts.first_s
        await self._end(job, writer, status, number, began, error=error, outcome=outcome, first_s=first_s)
        told.ended(status, error=error, outcome=outcome, first_s=first_s)
        return None

    async def _kind(self, job: Job) -> Attempts | None:
        """How this job is carried out. None if it was ended because nobody can.

        Raises: arq.Retry if other workers can.
        """
        name = job.request.task
        if job.request.api != "task" or name is None:
            return PromptAttempts(job, self._tools.upstreams)
        task = self._tools.app.get(name)
        if isinstance(task, RunnableTask):
            # Loads LangChain: only a worker that has such a task needs it.
            from tailrace.worker.runnables import RunnableAttempts

            return RunnableAttempts(job, task, output_bytes=self._settings.output_bytes)
        if task is not None:
            return TaskAttempts(job, task, self._tools)
        if await offered(self._broker, self._keys, name) is not None:
            raise Retry(defer=self._settings.retry_delay_s)
        message = (
            f"no worker knows a task {name!r}: start one with the module that registers it "
            "(`tailrace worker my_module:app`)"
        )
        await self._give_up(ErrorDetail(type="unknown_task", message=message, retryable=True))
        return None

    async def _end(
        self,
        job: Job,
        writer: LogWriter,
        status: Status,
        number: int,
        began: float,
        *,
        error: ErrorDetail | None = None,
        outcome: Outcome | None = None,
        first_s: float | None = None,
    ) -> Ending:
        ending = await writer.seal(
            End(
                status,
                finish_reason=outcome.finish_reason if outcome else None,
                usage=outcome.usage if outcome else None,
                error=error,
                attempts=number,
                timings=Timings(
                    created=job.record.ts,
                    first_chunk_ms=None if first_s is None else round(first_s * 1000),
                    total_ms=round((time.monotonic() - began) * 1000),
                ),
            )
        )
        self._told(time.monotonic() - began, outcome)
        return ending

    def _told(self, took_s: float, outcome: Outcome | None) -> None:
        counts = self._tools.counts
        counts.distribution(metrics.JOB_DURATION).observe(took_s)
        for kind, names in _USAGE.items():
            used = ((outcome.usage if outcome else None) or {}).get
            counts.add(metrics.USAGE_TOKENS, kind, by=next((count for name in names if (count := used(name))), 0))

    async def _give_up(self, error: ErrorDetail) -> None:
        """End a job that this worker does not even begin."""
        tell_of_end(self._job_id, Status.FAILED, error)
        await seal(self._broker, self._keys, self._job_id, End(Status.FAILED, error=error))

    async def _end_without_request(self, lost: RequestLost) -> None:
        """Nobody can run it any more: its readers must not wait for the deadline."""
        tell_of_end(self._job_id, Status.FAILED, lost.detail)
        end = End(Status.FAILED, error=lost.detail)
        with suppress(Gone):  # deleted since, or another job under the same id
            await seal(self._broker, self._keys, self._job_id, end, incarnation=lost.incarnation)

    def _refused(self, refusal: LogRefusal) -> None:
        """The log takes no more: stop the upstream call now, not at its next word."""
        self._refusal = self._telling.refusal = refusal
        self._claimed.cancel(CancelReason.CANCELLED)


def _dealt_with() -> None:
    """This cancellation ends here. (In a task that counts as being cancelled, redis-py does not work on Python 3.11.0 to
    3.11.2: its zero timeouts come out as cancellations.)"""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
