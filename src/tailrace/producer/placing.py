"""Where jobs go whose logs are on several servers: a server that is away costs its own jobs only, and a job that may be
anywhere goes where it is taken."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from tailrace.joblog import Broker, between_nodes
from tailrace.schemas import BrokerUnavailable, Keys, TailraceError

T = TypeVar("T")

#: While a slot is between two nodes, key by key: moments mostly, but as long as an operator likes. Then the caller is told.
_PAUSES_S: Final = (0.25, 0.5, 1.0, 1.25)
#: Ids that are drawn anew for one job, whose servers certainly did not take it.
_DRAWS: Final = 2
#: Ids that are looked at to find one whose server answers.
_CANDIDATES: Final = 16


class Placed(Protocol):
    """A job on its way into a log."""

    job_id: str
    named: bool
    prefix: str


J = TypeVar("J", bound=Placed)


class NotStored(Exception):
    """Its server certainly has not taken the job: it may be sent again, also under another id."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def new_job_id() -> str:
    """128 random bits: who knows an id may read the job, where whoever asks is not checked otherwise."""
    return secrets.token_hex(16)


def drawn(broker: Broker, keys: Keys, prefix: str = "") -> str:
    """A new id, of a job whose server answers, as far as is known."""
    job_id = prefix + new_job_id()
    for _ in range(_CANDIDATES):
        if broker.well(keys.log(job_id)):
            break
        job_id = prefix + new_job_id()
    return job_id


async def placed(
    broker: Broker, keys: Keys, jobs: Sequence[J], store: Callable[[Sequence[J]], Awaitable[Sequence[Any]]]
) -> list[Any]:
    """What became of jobs that are stored by `store`, each server's by themselves: one that hangs keeps no job of the others
    from the queue. A job without a name that was not stored gets another id; one with a name waits for a slot on its way.

    Never a job whose outcome is not known: it might be there twice.
    """
    answers: dict[int, Any] = {}
    waiting = list(range(len(jobs)))
    for tries, pause_s in enumerate((*_PAUSES_S, None)):
        by_place: dict[str, list[int]] = {}
        for number in waiting:
            by_place.setdefault(broker.place(keys.log(jobs[number].job_id)), []).append(number)
        groups = list(by_place.values())
        found = await asyncio.gather(*(_answers(store, [jobs[number] for number in group]) for group in groups))
        for group, theirs in zip(groups, found, strict=True):
            answers.update(zip(group, theirs, strict=True))
        undone = {number: answers[number].error for number in waiting if isinstance(answers[number], NotStored)}
        answers.update(undone)
        drawing = [number for number in undone if not jobs[number].named]
        if drawing:
            # What the index was told of them, no sweep could find out while their server is away.
            with suppress(TailraceError):
                await broker.queue.call("ZREM", keys.open, *(jobs[number].job_id for number in drawing))
        again = drawing if broker.spread and tries < _DRAWS else []
        for number in again:
            jobs[number].job_id = drawn(broker, keys, jobs[number].prefix)
        on_their_way = [number for number, error in undone.items() if jobs[number].named and between_nodes(error)]
        waiting = sorted([*again, *on_their_way])
        if not waiting or pause_s is None:
            break
        if on_their_way:
            await asyncio.sleep(pause_s)
    return [answers[number] for number in range(len(jobs))]


async def _answers(store: Callable[[Sequence[J]], Awaitable[Sequence[Any]]], jobs: Sequence[J]) -> Sequence[Any]:
    try:
        return await store(jobs)
    except TailraceError as error:
        return [error] * len(jobs)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of a call, which is made again while the slot of its keys is on its way. Raises: what it raises."""
    for pause_s in _PAUSES_S:
        try:
            return await call()
        except BrokerUnavailable as error:
            if not between_nodes(error):
                raise
        await asyncio.sleep(pause_s)
    return await call()
