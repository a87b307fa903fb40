"""One job in the hands of one worker: from its claim to its end, over as many attempts as it takes here.

    load -> [claim -> upstream -> splice -> relay]* -> seal -> snapshot

Whatever ends a run, the log decides what becomes of the job: a run that finds it sealed stops, one that is fenced gives
the job back to the queue, and only a run that holds the log can end it as completed or failed.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from arq.worker import Retry

from tailrace.joblog import Broker, End, Ending, Fenced, Gone, LogRefusal, Sealed, seal, seal_expired
from tailrace.queue import CancelReason, Claimed
from tailrace.schemas import (
    RETRY_EVENT,
    ROOT,
    BrokerUnavailable,
    BrokerUnsuitable,
    ErrorDetail,
    EventRecord,
    HistoryLost,
    JobNotFound,
    JsonObject,
    Keys,
    OpenPart,
    Position,
    Status,
    Timings,
    WorkerSettings,
)
from tailrace.worker.discretion import without_prompt
from tailrace.worker.job import Job, RequestLost, load
from tailrace.worker.memory import Line, chunk
from tailrace.worker.relay import LogWriter, Relay
from tailrace.worker.settle import end_damaged, settle
from tailrace.worker.sources import Item, Outcome, UpstreamError
from tailrace.worker.splice import Splice
from tailrace.worker.upstreams import Upstreams

logger = logging.getLogger(__name__)

_RUN_IDS: Final = uuid.UUID("6c0f5c1e-7b1a-5f5e-9a3e-0d1c7a11ace5")
_RETRY_PAUSE_CAP_S: Final = 30.0


class OutputLimit(Exception):  # a limit, not a fault of ours
    """The job has said more than it may."""


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
        upstreams: Upstreams,
        settings: WorkerSettings,
    ) -> None:
        self._job_id, self._claimed = job_id, claimed
        self._broker, self._keys, self._relay = broker, keys, relay
        self._upstreams, self._settings = upstreams, settings
        self._writer: LogWriter | None = None
        self._refusal: LogRefusal | None = None
        self._retries_left = 2
        self._clock_ahead_ms = 0.0
        self._output_bytes = 0

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
            await self._end_without_request(lost.incarnation)
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
        if not await settle(self._broker, self._keys, self._job_id):
            # The server lost the end, or it is another incarnation's log by now: the queue must not forget it.
            raise Retry(defer=self._settings.retry_delay_s)

    async def _until_deadline(self, job: Job) -> None:
        self._clock_ahead_ms = time.time() * 1000 - job.now_ms
        left_s = (job.record.deadline - job.now_ms) / 1000
        if left_s <= 0:
            await seal_expired(self._broker, self._keys, self._job_id, job.record.incarnation)
            return
        # Not asyncio.timeout: whatever comes together, the upstream call may be cancelled only once.
        timer = asyncio.get_running_loop().call_later(left_s, self._claimed.cancel, CancelReason.TIMEOUT)
        try:
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
            case _:
                raise

    async def _hand_back(self) -> None:
        writer = self._writer
        if writer is None or writer.refusal is not None:
            return
        try:
            writer.write(self._retry_event(counted=False))
            await writer.flushed()
        except LogRefusal:
            return

    async def _attempts(self, job: Job) -> None:
        request = job.request
        self._retries_left = 2
        number = job.next_attempt()
        stands = job.memory.output()
        if request.api == "task":
            message = f"this worker knows no task {request.task!r}"
            await self._give_up(ErrorDetail(type="unknown_task", message=message))
            return
        if number > request.max_attempts:
            message = f"all {request.max_attempts} attempts are used up: {job.died()}"
            await self._give_up(ErrorDetail(type="attempts_exhausted", message=message, retryable=True))
            return
        if stands and request.on_restart == "fail":
            message = 'an attempt died after it had begun to answer, and on_restart="fail"'
            await self._give_up(ErrorDetail(type="restarted", message=message, retryable=True))
            return
        while True:
            began = time.monotonic()
            writer = self._writer = await self._relay.open(
                self._job_id,
                incarnation=job.record.incarnation,
                attempt=number,
                memory=job.memory,
                refused=self._refused,
            )
            try:
                outcome, first_s = await self._attempt(job, writer)
            except UpstreamError as error:
                if error.phase == "request":
                    self._retries_left = 0  # the openai package has used them up: ours never multiply with its own
                detail = without_prompt(error.detail, request)
                if not detail.retryable or number >= request.max_attempts or request.on_restart == "fail":
                    await self._end(job, writer, Status.FAILED, number, began, error=detail)
                    return
                logger.info("job %r: attempt %d failed (%s), trying again", self._job_id, number, detail.type)
                writer.write(self._retry_event(counted=True, error=detail))
                await writer.flushed()
                await asyncio.sleep(min(self._settings.retry_delay_s * 2 ** (number - 1), _RETRY_PAUSE_CAP_S))
                number += 1
            except OutputLimit:
                limit = self._settings.output_bytes
                detail = ErrorDetail(
                    type="output_limit",
                    message=f"the output is over the limit of {limit} bytes; what came before stands "
                    "(worker.output_bytes sets it)",
                )
                await self._end(job, writer, Status.FAILED, number, began, error=detail)
                return
            else:
                await self._end(job, writer, outcome.status, number, began, outcome=outcome, first_s=first_s)
                return

    async def _attempt(self, job: Job, writer: LogWriter) -> tuple[Outcome, float | None]:
        """One upstream call into the log. Raises: UpstreamError, OutputLimit, LogRefusal."""
        base = job.start_line() or self._write_start(job, writer)
        stands = job.memory.output()
        began, first_s = time.monotonic(), None
        go_on_from = _plain_text(stands) if job.request.on_restart == "continue" else None
        async with self._upstreams.open(
            job.request, continue_from=go_on_from or None, max_retries=self._retries_left
        ) as stream:
            self._retries_left = max(0, self._retries_left - stream.retries_taken)
            continued = stream.continued
            splice = Splice([] if continued else stands, base=base)
            self._output_bytes = sum(len(line.text.encode()) for line in stands) if continued else 0
            async for items in stream:
                for item in items:
                    if first_s is None and isinstance(item, str):
                        first_s = time.monotonic() - began
                    writer.write(*splice.feed(self._line(item)))
                await writer.ready()
            outcome = stream.outcome
        writer.write(*splice.close())
        return outcome, first_s

    def _line(self, item: Item) -> Line:
        if isinstance(item, str):
            line = chunk(item)
        else:
            line = Line("delta", json.dumps({"run": ROOT, "delta": item.model_dump(mode="json", exclude_none=True)}))
        self._output_bytes += len(line.text.encode())
        if self._output_bytes > self._settings.output_bytes:
            raise OutputLimit
        return line

    def _write_start(self, job: Job, writer: LogWriter) -> Line:
        event, name = job.start_event()
        line = self._event(
            event,
            name=name,
            run_id=str(uuid.uuid5(_RUN_IDS, f"{job.record.incarnation}/{self._job_id}/root")),
            parents=[],
            tags=job.record.tags,
            metadata=job.record.metadata,
        )
        writer.write(line)
        return line

    def _retry_event(self, *, counted: bool, error: ErrorDetail | None = None) -> Line:
        data: JsonObject = {"counted": counted, "reason": "failed" if error else "drain"}
        if error is not None:
            data["error"] = error.model_dump(mode="json")
        return self._event("on_custom_event", name=RETRY_EVENT, data=data)

    def _event(
        self,
        event: str,
        *,
        name: str,
        run_id: str | None = None,
        parents: list[int] | None = None,
        tags: list[str] | None = None,
        metadata: JsonObject | None = None,
        data: JsonObject | None = None,
    ) -> Line:
        record = EventRecord(
            position=Position(""),
            event=event,
            name=name,
            run_id=run_id,
            parents=parents,
            tags=tags,
            metadata=metadata,
            data=data or {},
            ts=round(time.time() * 1000 - self._clock_ahead_ms),
        )
        return Line("event", record.value())

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
        return await writer.seal(
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

    async def _give_up(self, error: ErrorDetail) -> None:
        """End a job that this worker does not even begin."""
        await seal(self._broker, self._keys, self._job_id, End(Status.FAILED, error=error))

    async def _end_without_request(self, incarnation: str) -> None:
        """Nobody can run it any more: its readers must not wait for the deadline."""
        message = "the server no longer has the job's request: does it evict keys (maxmemory-policy)?"
        error = ErrorDetail(type="request_lost", message=message, retryable=True)
        with suppress(Gone):  # deleted since, or another job under the same id
            await seal(self._broker, self._keys, self._job_id, End(Status.FAILED, error=error), incarnation=incarnation)

    def _refused(self, refusal: LogRefusal) -> None:
        """The log takes no more: stop the upstream call now, not at its next word."""
        self._refusal = refusal
        self._claimed.cancel(CancelReason.CANCELLED)


def _dealt_with() -> None:
    """This cancellation ends here. (In a task that counts as being cancelled, redis-py does not work on Python 3.11.0 to
    3.11.2: its zero timeouts come out as cancellations.)"""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _plain_text(stands: Sequence[Line]) -> str | None:
    """The text that stands, if there is nothing but text of the job's output."""
    text: list[str] = []
    for line in stands:
        if line.field == "chunk":
            text.append(line.text)
        elif json.loads(line.text)["delta"] != OpenPart().model_dump(mode="json", exclude_none=True):
            return None
    return "".join(text)
