"""Putting a job into the log and the queue: in one script where they share a server, else in three steps.

    admit (queue's server: the index knows of the job)  ->  store (log's)  ->  queue (queue's)

Each step may be repeated. A producer that dies between them leaves an entry in the index, which the sweep looks into: a job
that is stored is queued then, one that is not is forgotten. It was not accepted: only the last step's answer is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from tailrace.joblog import ADMIT, STORE, Broker, Script, Word, not_carried_out, queue_source, submit_source
from tailrace.producer.placing import NotStored, placed
from tailrace.queue import ENQUEUE_LUA, payload_key, queue_payload
from tailrace.schemas import BrokerUnavailable, Keys

SUBMIT: Final = Script(submit_source(ENQUEUE_LUA))
_ADMIT: Final = Script(ADMIT)
_STORE: Final = Script(STORE)
_QUEUE: Final = Script(queue_source(ENQUEUE_LUA))
#: When a job is looked at first, should whoever took it from the queue have died over it.
_FIRST_CHECK_MS: Final = 10_000

Call = tuple[list[str], list[Word]]
"""A script's keys and arguments."""


@dataclass(eq=False, slots=True)
class Storing:
    """A job on its way."""

    job_id: str
    """Another one afterwards, if nobody named it and its server would not take it."""
    named: bool
    """Whether the caller chose the id: then the job may be there already."""
    prefix: str
    """What an id that nobody chose begins with."""
    request: str
    record: str
    """Of the log's first record what does not depend on when it is written."""
    digest: str
    queue_name: str
    delay_ms: int
    deadline_ms: int
    grace_ms: int
    retention_ms: int

    @property
    def ttl_ms(self) -> int:
        return self.delay_ms + self.deadline_ms + self.grace_ms + self.retention_ms

    @property
    def times(self) -> list[Word]:
        return [self.delay_ms, self.deadline_ms, self.grace_ms, self.retention_ms]

    def submit(self, keys: Keys, capacity: int) -> Call:
        names = [*self._log(keys), *self._places(keys)]
        queued: list[Word] = [keys.queued(self.job_id), queue_payload(0), capacity, self.job_id, _FIRST_CHECK_MS]
        return names, [self.request, self.record, self.digest, *self.times, *queued, self.queue_name]

    def admit(self, keys: Keys, capacity: int) -> Call:
        return [keys.open, keys.queue_of(self.queue_name)], [
            self.job_id,
            self.delay_ms + _FIRST_CHECK_MS,
            self.ttl_ms,
            capacity,
        ]

    def look(self, keys: Keys) -> Call:
        return self._log(keys), ["", "", self.digest, *self.times]

    def store(self, keys: Keys) -> Call:
        return self._log(keys), [self.request, self.record, self.digest, *self.times]

    def queue(self, keys: Keys) -> Call:
        queued: list[Word] = [keys.queued(self.job_id), queue_payload(0)]
        return self._places(keys), [
            *(*queued, self.delay_ms, self.ttl_ms, self.job_id, _FIRST_CHECK_MS),
            self.queue_name,
        ]

    def _places(self, keys: Keys) -> list[str]:
        """What of the queue's server a script needs to put the job into its queue."""
        queue = keys.queue_of(self.queue_name)
        # Only for one with a name: users that were made for a producer before there were any may not write there.
        named = [] if queue == keys.queue else [keys.queues]
        return [queue, payload_key(keys, self.job_id), keys.wake_of(queue), keys.open, *named]

    def _log(self, keys: Keys) -> list[str]:
        return [keys.log(self.job_id), keys.request(self.job_id)]


async def store(broker: Broker, keys: Keys, jobs: Sequence[Storing], *, capacity: int) -> list[Any]:
    """Store and queue jobs in as few round trips as it takes. What became of each: `[b"stored"]`, `[b"same"]`,
    `[b"conflict"]`, `[b"full"]`, or the error that it met.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    if broker.apart:
        return await placed(broker, keys, jobs, partial(_store_apart, broker, keys, capacity))
    if len(jobs) == 1:
        return [await broker.run(SUBMIT, *jobs[0].submit(keys, capacity))]
    return await broker.run_many(SUBMIT, [job.submit(keys, capacity) for job in jobs])


async def _store_apart(broker: Broker, keys: Keys, capacity: int, jobs: Sequence[Storing]) -> list[Any]:
    answers: dict[Storing, Any] = {}
    named = [job for job in jobs if job.named]
    # Before the queue is asked for a place: a job that is there already needs none.
    answers.update(await _at_log(broker, {job: job.look(keys) for job in named}))
    new = [job for job in jobs if job not in answers or _word(answers[job]) == "none"]
    admitted = await _all(broker.queue, _ADMIT, {job: job.admit(keys, capacity) for job in new})
    answers.update(admitted)
    admitted_jobs = [job for job in new if _word(admitted[job]) == "ok"]
    answers.update(await _at_log(broker, {job: job.store(keys) for job in admitted_jobs}))
    # Also one that was there and has not ended: who stored it may have died before it was queued.
    stored = [job for job in jobs if _word(answers[job]) in ("stored", "same") and answers[job][1]]
    queued = await _all(broker.queue, _QUEUE, {job: job.queue(keys) for job in stored})
    answers.update((job, answer) for job, answer in queued.items() if isinstance(answer, Exception))
    return [answers[job] for job in jobs]


async def _at_log(broker: Broker, calls: dict[Storing, Call]) -> dict[Storing, Any]:
    """NotStored for those that their server certainly has not taken. Raises: BrokerUnsuitable."""
    try:
        found = await _all(broker, _STORE, calls)
    except BrokerUnavailable as error:
        found = dict.fromkeys(calls, cast("Any", error))
    return {
        job: NotStored(answer) if isinstance(answer, Exception) and not_carried_out(answer) else answer
        for job, answer in found.items()
    }


async def _all(broker: Broker, script: Script, calls: dict[Storing, Call]) -> dict[Storing, Any]:
    if len(calls) == 1:
        ((job, call),) = calls.items()
        return {job: await broker.run(script, *call)}
    return dict(zip(calls, await broker.run_many(script, list(calls.values())), strict=True)) if calls else {}


def _word(answer: Any) -> str:
    return cast("list[bytes]", answer)[0].decode() if isinstance(answer, list) else ""
