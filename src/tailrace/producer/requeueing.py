"""Doing a job once more, or sooner. For operators: nothing in tailrace depends on it.

A log is sealed once and for ever, so a job that has ended is not run again: a new job is made of its stored request. Its id
derives from the old job's, so that doing it twice, or by two people at once, makes one new job.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError

from tailrace.joblog import Broker, Overview, Script, incarnation_of, look, translated
from tailrace.producer.submitting import Producer
from tailrace.queue import IN_PROGRESS_PREFIX, WAKE_LUA, enqueue
from tailrace.schemas import (
    GRACE_S,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    JobRequest,
    Keys,
    check_job_id,
    queue_said,
)


class Requeued(StrEnum):
    """What was done, or would be."""

    NEW = "new"
    """It had ended: a new job with the same request is queued."""

    AGAIN = "again"
    """It had ended, and the new job was there already."""

    FORWARD = "forward"
    """It was queued for later, or not at all: it is due now."""

    WAITING = "waiting"
    """It is due already: it waits for a worker like others."""

    TAKEN = "taken"
    """It was running, and is taken from its worker: another attempt will go on."""

    RUNNING = "running"
    """It is running, and was left alone."""


@dataclass(frozen=True, slots=True)
class Requeueing:
    """What became of one job."""

    job_id: str
    done: Requeued
    new_id: str | None = None
    """The new job's, for one that had ended."""


#: KEYS queue, in-progress, wake; ARGV 1 queued id, 2 '1' to take it from whoever holds it. Answers whether it was queued at
#: all, and what it is now.
_FORWARD: Final = Script(
    WAKE_LUA
    + """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '')
if not score then return 'absent' end
if score <= now then
  wake_up(KEYS[3])
  return 'waiting'
end
local held = redis.call('EXISTS', KEYS[2]) == 1
if held and ARGV[2] ~= '1' then return 'running' end
redis.call('DEL', KEYS[2])
redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', now), ARGV[1])
wake_up(KEYS[3])
return held and 'taken' or 'forward'
"""
)


def requeued_id(incarnation: str, job_id: str) -> str:
    """The id of the job that does an ended one again: the same whoever asks, for others not to be guessed."""
    return hashlib.sha256(f"{incarnation}/{job_id}/again".encode()).hexdigest()[:32]


class Requeuer:
    """Does jobs of one namespace again."""

    def __init__(self, broker: Broker, keys: Keys, producer: Producer) -> None:
        self._broker, self._keys, self._producer = broker, keys, producer

    async def requeue(self, job_id: str, *, take: bool = False) -> Requeueing:
        """Have a job done now: a queued one is due, an ended one is submitted anew, a running one is left alone.

        `take`: a running one loses its worker's lease instead. The worker finds itself fenced at its next append or renewal,
        and stops; what is written stands, as after a crash.
        Raises: JobNotFound (never was, deleted, or its time is over), InvalidRequest (a request that this version does not
        know), QueueFull, BrokerUnavailable, BrokerUnsuitable.
        """
        overview = await look(self._broker, self._keys, check_job_id(job_id))
        if overview.status.ended:
            return await self._anew(job_id, overview)
        keys, queued_id = self._keys, self._keys.queued(job_id)
        queue = keys.queue_of(queue_said(overview.job))
        names = [queue, IN_PROGRESS_PREFIX + queued_id, keys.wake_of(queue)]
        answer = (await self._broker.queue.run(_FORWARD, names, [queued_id, "1" if take else "0"])).decode()
        if answer == "absent":
            await self._enqueue(job_id, overview)
            answer = "forward"
        return Requeueing(job_id, Requeued(answer))

    async def _enqueue(self, job_id: str, overview: Overview) -> None:
        """As a sweep does that finds an open log which the queue does not know."""
        now_ms = await self._broker.now_ms()
        deadline = overview.job.get("deadline")
        last_ms = (deadline if isinstance(deadline, int) else now_ms) + int(GRACE_S * 1000) + 1000
        with translated():
            ttl_ms = max(1000, last_ms - now_ms)
            await enqueue(self._broker.queue.redis, self._keys, job_id, ttl_ms=ttl_ms, queue=queue_said(overview.job))

    async def _anew(self, job_id: str, overview: Overview) -> Requeueing:
        incarnation = incarnation_of(overview.job)
        stored = await self._broker.call("GET", self._keys.request(job_id))
        if stored is None or incarnation is None:
            raise JobNotFound(job_id)
        request = _request_of(job_id, stored)
        new_id = requeued_id(incarnation, job_id)
        try:
            done = await self._producer.store(request, job_id=new_id)
        except JobConflict as error:
            raise InvalidRequest(f"job {job_id!r} cannot be done again: {error}") from error
        return Requeueing(job_id, Requeued.NEW if done.new else Requeued.AGAIN, new_id)


def _request_of(job_id: str, stored: bytes) -> JobRequest:
    """What was asked, due at once. Raises: InvalidRequest."""
    try:
        request: Any = json.loads(stored)["request"]
        return JobRequest.model_validate(request).model_copy(update={"delay_s": 0.0})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"][:2]))
        raise InvalidRequest(
            f"job {job_id!r} was asked in a way that this version does not know ({where}: {first['msg']}): requeue it with the "
            "tailrace that submitted it"
        ) from None
    except (ValueError, LookupError, TypeError):
        raise InvalidRequest(f"the request of job {job_id!r} is none of tailrace's") from None
