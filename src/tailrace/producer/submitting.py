"""Submitting and cancelling jobs: a script each, no arq, no upstream."""

import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from tailrace.joblog import Broker, End, Gone, erase, in_our_words, look, seal
from tailrace.producer.inputs import TaskInputs
from tailrace.producer.placing import drawn, patiently
from tailrace.producer.storing import Storing, store
from tailrace.queue import CANCEL, control_message
from tailrace.schemas import (
    DEFAULT_QUEUE,
    FIRST,
    GRACE_S,
    JobConflict,
    JobNotFound,
    JobRecord,
    JobRequest,
    Keys,
    Position,
    QueueFull,
    Status,
    TailraceError,
    check_job_id,
    parse_position,
    position,
)
from tailrace.telemetry.tracing import carrier
from tailrace.telemetry.tracing_jobs import about, sending


class Stored(NamedTuple):
    """A job that is in the log and the queue."""

    job_id: str
    new: bool
    """Whether it was not there before."""


class Producer:
    """Puts jobs into the log and the queue of one namespace."""

    def __init__(self, broker: Broker, keys: Keys, *, queue_capacity: int = 0) -> None:
        self._broker, self._keys, self._capacity = broker, keys, queue_capacity
        self._inputs = TaskInputs(broker, keys)

    def new_id(self, prefix: str = "") -> str:
        """An id for a new job, on a server that answers, as far as is known."""
        return drawn(self._broker, self._keys, prefix)

    async def submit(self, request: JobRequest, *, job_id: str | None = None) -> str:
        """As `store`; the id."""
        return (await self.store(request, job_id=job_id)).job_id

    async def store(self, request: JobRequest, *, job_id: str | None = None, prefix: str = "") -> Stored:
        """Store and queue a job, in one script where log and queue share a server. The same id with the same request is
        the same job. `prefix`: what an id begins with that nobody chose.

        Raises: InvalidRequest, JobConflict, QueueFull, BrokerUnavailable, BrokerUnsuitable.
        """
        with sending(self._keys.queue_of(request.queue)) as span:
            storing = await self._storing(request, job_id, prefix)
            span.set(about(storing.job_id))
            (answer,) = await store(self._broker, self._keys, [storing], capacity=self._capacity)
            if isinstance(answer, Exception):
                raise in_our_words(answer) or answer
            stored = Stored(storing.job_id, new=self._is_new(storing.job_id, answer))
            span.set({**about(storing.job_id), "tailrace.job.new": stored.new})
            return stored

    async def submit_many(self, requests: Sequence[tuple[JobRequest, str | None]]) -> list[str]:
        """Submit in one round trip. Raises the first refusal after all were sent: those before and behind it are stored."""
        with sending(self._keys.queue, count=len(requests)):
            jobs = [await self._storing(request, given) for request, given in requests]
            answers = await store(self._broker, self._keys, jobs, capacity=self._capacity)
            for job, answer in zip(jobs, answers, strict=True):
                if isinstance(answer, Exception):
                    raise in_our_words(answer) or answer
                self._is_new(job.job_id, answer)
        return [job.job_id for job in jobs]

    async def cancel(self, job_id: str) -> Status:
        """Cancel a job: durable at once, whatever state it is in; the status it has ended with (which may be another).

        A running worker closes its upstream connection as soon as it hears of it, at the latest at its next append.
        Raises: InvalidRequest, JobNotFound, BrokerUnavailable.
        """
        before = await look(self._broker, self._keys, check_job_id(job_id))
        if before.status.ended:
            return before.status
        try:
            ending = await patiently(lambda: seal(self._broker, self._keys, job_id, End(Status.CANCELLED)))
        except Gone:
            raise JobNotFound(job_id) from None
        if ending.end is None:  # it ended since, and its snapshot is written: what does that say?
            return (await look(self._broker, self._keys, job_id)).status
        # The cancel stands already; a worker that does not get the word finds the log sealed.
        with suppress(TailraceError):
            await self._tell_worker(job_id, ending.end.last)
        return ending.end.status

    async def delete(self, job_id: str) -> None:
        """Remove a job's request and records; a running one is cancelled. Its id stays taken until its time is over.

        Raises: InvalidRequest, JobNotFound, BrokerUnavailable.
        """
        overview = await look(self._broker, self._keys, check_job_id(job_id))
        if not overview.status.ended:
            await self.cancel(job_id)
        while not await patiently(lambda: erase(self._broker, self._keys, job_id)):  # the server lost the end
            await self.cancel(job_id)
        if self._broker.apart:  # its log's server may lose that: the sweep forgets it, and looks once more
            await self._look_soon(job_id)
        else:
            await self._broker.queue.call("ZREM", self._keys.open, job_id)

    async def _tell_worker(self, job_id: str, last: Position) -> None:
        """A word to the worker of the last attempt. If it is lost, the next append finds the log sealed."""
        if last == FIRST:
            # Nobody has begun it, and it may be due only in an hour: the next sweep takes it out of the queue.
            await self._look_soon(job_id)
            return
        attempt = position(parse_position(last)[0], 0)
        for _, fields in await self._broker.call("XRANGE", self._keys.log(job_id), attempt, attempt):
            worker = json.loads(fields[b"attempt"])["worker"]
            await self._broker.queue.call("PUBLISH", self._keys.worker(worker), control_message(CANCEL, job_id))

    async def _look_soon(self, job_id: str) -> None:
        """The next sweep looks at it, if it is in the index."""
        now_ms = await self._broker.queue.now_ms()
        await self._broker.queue.call("ZADD", self._keys.open, "XX", now_ms, job_id)

    async def _storing(self, request: JobRequest, job_id: str | None, prefix: str = "") -> Storing:
        """Raises: InvalidRequest, BrokerUnavailable."""
        chosen = self.new_id(prefix) if job_id is None else check_job_id(job_id)
        await self._inputs.check(request)
        digest = request.digest()
        record = JobRecord(
            position=FIRST,
            digest=digest,
            incarnation=secrets.token_hex(8),
            retention_ms=_ms(request.retention_s),
            api=request.api,
            model=request.model,
            task=request.task,
            queue=None if request.queue == DEFAULT_QUEUE else request.queue,
            then=request.then,
            max_attempts=request.max_attempts,
            on_restart=request.on_restart,
            metadata=request.metadata,
            tags=request.tags,
            tenant=request.tenant,
        )
        # The digest comes first: the submit script reads it there. The trace is none of the request, nor of its digest.
        stored: dict[str, Any] = {"digest": digest, "request": request.model_dump(mode="json", exclude_defaults=True)}
        if trace := carrier():
            stored["trace"] = trace
        return Storing(
            chosen,
            named=job_id is not None,
            prefix=prefix,
            request=json.dumps(stored, ensure_ascii=False, separators=(",", ":")),
            record=record.model_dump_json(exclude={"position", "kind", "ts", "deadline"}, exclude_none=True),
            digest=digest,
            queue_name=request.queue,
            delay_ms=_ms(request.delay_s),
            deadline_ms=_ms(request.deadline_s),
            grace_ms=_ms(GRACE_S),
            retention_ms=_ms(request.retention_s),
        )

    def _is_new(self, job_id: str, answer: Sequence[bytes]) -> bool:
        match answer[0]:
            case b"stored" | b"same" as word:
                return bool(word == b"stored")
            case b"conflict":
                raise JobConflict(job_id)
            case b"full":
                raise QueueFull(self._capacity)
            case other:
                raise TailraceError(f"the submit script answered {other!r}")


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000)) if seconds else 0
