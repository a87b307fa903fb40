"""Reading a job's log: pages of records, from the log while it has them, else from its snapshot."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from tailrace.joblog.connections import Broker
from tailrace.joblog.snapshot import decode_snapshot
from tailrace.joblog.translation import in_our_words
from tailrace.joblog.writing import End, Gone, seal
from tailrace.schemas import (
    END,
    FIRST,
    GRACE_S,
    START,
    BrokerUnsuitable,
    Entry,
    ErrorDetail,
    HistoryLost,
    JobNotFound,
    JsonObject,
    Keys,
    Position,
    Status,
    parse_position,
)

#: Records a page. An unpaged XRANGE of 500,000 entries blocked a server for 114 ms.
PAGE: Final = 1000


class Page(NamedTuple):
    """Records in order, and where the log's top was just afterwards."""

    entries: list[Entry]
    top: Position


class Overview(NamedTuple):
    """What a glance at a log tells."""

    status: Status
    top: Position
    job: JsonObject
    """The fields of the job record."""
    end: JsonObject | None
    """The fields of the end record."""


def _entries(answer: Sequence[Any]) -> list[Entry]:
    # One record is one field, so the dict that redis-py makes of an entry has one item.
    return [
        Entry(Position(position.decode()), field.decode(), value.decode("utf-8", "replace"))
        for position, fields in answer
        for field, value in fields.items()
    ]


async def read_page(broker: Broker, keys: Keys, job_id: str, *, after: Position = START, count: int = PAGE) -> Page:
    """Up to `count` records after a position (a snapshot comes whole). No records: nothing is there yet.

    Raises: JobNotFound, HistoryLost (a damaged or evicted snapshot), BrokerUnavailable.
    Source: redis.io/docs/latest/commands/xrange.
    """
    if after == END:  # XRANGE (MAX + is an error
        return Page([], END)
    log = keys.log(job_id)
    start = "-" if after == START else f"({after}"
    found, top = _answers(
        await broker.many([("XRANGE", log, start, "+", "COUNT", count), ("XREVRANGE", log, "+", "-", "COUNT", 1)])
    )
    if found:
        entries = _entries(found)
        return Page(entries, Position(top[0][0].decode()) if top else entries[-1].position)
    if top:
        return Page([], Position(top[0][0].decode()))
    # XLEN before GET: a snapshot is written in the same script that empties the log.
    *answers, request = await broker.many(
        [("XLEN", log), ("GET", keys.snapshot(job_id)), ("EXISTS", log), ("EXISTS", keys.request(job_id))]
    )
    length, blob, tombstone = _answers(answers)
    if isinstance(request, Exception) and isinstance(in_our_words(request), BrokerUnsuitable):
        request = 0  # a consumer's access list keeps requests from it: to it, a lost snapshot is a job not found
    (request,) = _answers([request])
    if blob is not None:
        entries = decode_snapshot(job_id, blob)
        beyond = parse_position(after)
        return Page([entry for entry in entries if parse_position(entry.position) > beyond], END)
    if length:
        return Page([], START)
    if request and tombstone:
        # Deleting takes the request too: here somebody has taken the snapshot only, and there was one.
        raise HistoryLost(job_id, after=START, until=END)
    raise JobNotFound(job_id)


async def read_log(broker: Broker, keys: Keys, job_id: str) -> AsyncGenerator[list[Entry]]:
    """The whole log as it stands, in pages. Raises: as `read_page`."""
    after = START
    while True:
        page = await read_page(broker, keys, job_id, after=after)
        if not page.entries:
            return
        yield page.entries
        after = page.entries[-1].position
        if after in (page.top, END):
            return


async def read_whole(broker: Broker, keys: Keys, job_id: str) -> list[Entry]:
    """As `read_log`, in one list: for those who hold the whole log anyway."""
    return [entry async for page in read_log(broker, keys, job_id) for entry in page]


async def look(broker: Broker, keys: Keys, job_id: str) -> Overview:
    """Where a job stands. A job past its deadline that nobody ended is sealed as expired here; who may not write
    (a consumer by its access list) is told the same and leaves the sealing to others.

    Raises: JobNotFound, BrokerUnavailable.
    """
    log = keys.log(job_id)
    top, first, time = _answers(
        await broker.many([("XREVRANGE", log, "+", "-", "COUNT", 1), ("XRANGE", log, FIRST, FIRST), ("TIME",)])
    )
    if not top:
        page = await read_page(broker, keys, job_id)
        if not page.entries:
            raise JobNotFound(job_id)
        return _overview(page.entries[0], page.entries[-1])
    overview = _overview(_entries(first)[0] if first else None, _entries(top)[0])
    if not overview.status.ended and expired(overview.job, int(time[0]) * 1000):
        try:
            await seal_expired(broker, keys, job_id, incarnation_of(overview.job))
        except BrokerUnsuitable:
            return overview._replace(status=Status.EXPIRED)
        return await look(broker, keys, job_id)
    return overview


def expired(job: JsonObject, now_ms: int) -> bool:
    """Whether a job's deadline and grace are over, by the server's clock."""
    deadline = job.get("deadline")
    return isinstance(deadline, int) and now_ms > deadline + GRACE_S * 1000


def incarnation_of(job: JsonObject) -> str | None:
    """Which job under its id this is, by the fields of its job record."""
    incarnation = job.get("incarnation")
    return incarnation if isinstance(incarnation, str) else None


async def seal_expired(broker: Broker, keys: Keys, job_id: str, incarnation: str | None) -> None:
    """End a job whose time is over. Anyone may; the first end stands.

    Nothing, if the log is gone meanwhile, or is another incarnation's, whose time may not be over.
    """
    error = ErrorDetail(type="deadline_exceeded", message="the job passed its deadline before it ended", retryable=True)
    with suppress(Gone):
        await seal(broker, keys, job_id, End(Status.EXPIRED, error=error), incarnation=incarnation)


def _overview(first: Entry | None, last: Entry) -> Overview:
    job: JsonObject = json.loads(first.value) if first is not None and first.field == "job" else {}
    if last.field == "end":
        end: JsonObject = json.loads(last.value)
        return Overview(Status(str(end["status"])), last.position, job, end)
    return Overview(Status.QUEUED if last.field == "job" else Status.IN_PROGRESS, last.position, job, None)


def _answers(answers: Sequence[Any]) -> Sequence[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            ours = in_our_words(answer)
            raise answer if ours is None else ours from answer
    return answers
