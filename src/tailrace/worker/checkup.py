"""What is wrong with a job that is not finished, told from a glance at its log and its place in the queue."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

from tailrace.joblog import Broker, expired, in_our_words, incarnation_of
from tailrace.schemas import DEFAULT_QUEUE, END, FIRST, GRACE_S, BrokerUnavailable, JsonObject, Keys, queue_said

#: No pause between two runs of a job is that long, nor a lease by default: who waits longer in the queue after having
#: been due waits for a clock that went back.
LONGEST_WAIT_MS: Final = 150_000
_COMMANDS: Final = 3


class Finding(StrEnum):
    """What a check of one job finds."""

    WELL = "well"
    """It waits for a worker, or one has it."""

    UNQUEUED = "unqueued"
    """The log is open, and the queue does not know the job: the server lost the entry, or the log's end."""

    STUCK = "stuck"
    """It is queued for a time that no lease and no pause explains: the server's clock went back."""

    OVERDUE = "overdue"
    """Its deadline and grace are over, and nobody has ended it."""

    ENDED = "ended"
    """It has ended and is not handed off: the worker died in between, or nobody had the job."""

    DAMAGED = "damaged"
    """The log is open, but its first record is gone: trimmed from outside. Nobody can run it."""

    GONE = "gone"
    """There is no log any more."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What the server has of a job."""

    job_id: str
    top: str | None
    """None: no records."""
    begun: bool
    """Whether an attempt has claimed the log."""
    job: JsonObject | None
    """The job record."""
    there: bool
    """Whether there is a log at all; without records it is the tombstone of a job that has ended."""
    queued_ms: float | None
    """Its score in the queue that it is in."""
    queue: str | None = None
    """That queue, as `Keys.queue_of` spells it."""

    def finding(self, now_ms: int, *, longest_wait_ms: int = LONGEST_WAIT_MS) -> Finding:
        """What is wrong, by the server's clock."""
        if not self.there:
            return Finding.GONE
        if self.top is None or self.top == END:
            return Finding.ENDED
        if self.job is None:
            return Finding.DAMAGED
        if expired(self.job, now_ms):
            return Finding.OVERDUE
        if self.queued_ms is None:
            return Finding.UNQUEUED
        return Finding.STUCK if self.queued_ms > now_ms + longest_wait_ms else Finding.WELL

    @property
    def incarnation(self) -> str | None:
        """Which job under its id this is."""
        return incarnation_of(self.job or {})

    @property
    def queue_name(self) -> str:
        """The queue that it belongs into."""
        return queue_said(self.job or {})

    def last_check_ms(self, now_ms: int) -> int:
        """When it must have ended, whoever ends it."""
        deadline = (self.job or {}).get("deadline")
        return (deadline if isinstance(deadline, int) else now_ms) + int(GRACE_S * 1000) + 1000


async def glance(
    broker: Broker, keys: Keys, job_ids: Sequence[str], queues: Sequence[str] | None = None
) -> list[Glance | BrokerUnavailable | None]:
    """Look at many jobs in one round trip, in the queues of these names (None: the default one); None for one whose keys hold
    something that is none of ours. Of several servers one may be away: what its jobs have is not known, and the others' are
    looked at.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    commands: list[tuple[str | int, ...]] = []
    for job_id in job_ids:
        log = keys.log(job_id)
        commands += [
            ("XREVRANGE", log, "+", "-", "COUNT", 1),
            ("XRANGE", log, FIRST, FIRST),
            ("EXISTS", log),
        ]
    if not commands:
        return []
    places = [keys.queue_of(name) for name in queues or [DEFAULT_QUEUE]]
    queued = [("ZSCORE", place, keys.queued(job_id)) for job_id in job_ids for place in places]
    # The queue first: a job that ends meanwhile is not taken for one that the queue has forgotten.
    if broker.apart:
        scores = await broker.queue.many(queued)
        try:
            answers = await broker.many(commands)
        except BrokerUnavailable as error:
            if not broker.spread:
                raise
            return [error] * len(job_ids)  # those that were asked are all away; there are others
    else:
        both = await broker.many([*queued, *commands])
        scores, answers = both[: len(queued)], both[len(queued) :]
    found = [
        _glance(job_id, answers[number * _COMMANDS : (number + 1) * _COMMANDS], _placed(places, scores, number))
        for number, job_id in enumerate(job_ids)
    ]
    away = [each for each in found if isinstance(each, BrokerUnavailable)]
    if away and not broker.spread:
        raise away[0]
    return found


def _placed(places: Sequence[str], scores: Sequence[Any], number: int) -> tuple[str | None, Any]:
    """Where the `number`-th job is, and what was said of it there."""
    for place, score in zip(places, scores[number * len(places) : (number + 1) * len(places)], strict=True):
        if score is not None:
            return place, score
    return None, None


def _glance(job_id: str, answers: Sequence[Any], placed: tuple[str | None, Any]) -> Glance | BrokerUnavailable | None:
    queue, score = placed
    for answer in [*answers, score]:
        if isinstance(answer, Exception):
            ours = in_our_words(answer)
            if ours is None:
                raise answer
            return ours if isinstance(ours, BrokerUnavailable) else None
    top, first, there = answers
    try:
        job = json.loads(first[0][1][b"job"]) if first and b"job" in first[0][1] else None
    except ValueError:
        return None
    if not isinstance(job, dict | None):
        return None
    return Glance(
        job_id=job_id,
        top=top[0][0].decode() if top else None,
        begun=bool(top) and b"job" not in top[0][1],
        job=cast("JsonObject | None", job),
        there=bool(there),
        queued_ms=None if score is None else float(score),
        queue=queue,
    )
