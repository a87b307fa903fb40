"""Following a job's log: read back, then live, without gaps and repeats, until its end.

Subscribe first, then read, then take what comes: `Cursor` decides. The live channel is a hint that makes things fast;
the log is what is true.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple, Protocol

from tailrace.joblog.connections import Broker
from tailrace.joblog.cursor import Cursor
from tailrace.joblog.publication import Publication
from tailrace.joblog.reading import PAGE, expired, incarnation_of, read_page, read_whole, seal_expired
from tailrace.schemas import (
    END,
    START,
    BrokerUnavailable,
    BrokerUnsuitable,
    Entry,
    HistoryLost,
    JobExpired,
    JobNotFound,
    JsonObject,
    Keys,
    Position,
    PositionLost,
    parse_position,
)

#: How long a reader that has already read something waits for a server that does not answer.
PATIENCE_S: Final = 60.0
_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Look(NamedTuple):
    """A reason to compare notes with the log: its top (None: not known) and the server's clock."""

    top: Position | None
    now_ms: int = 0


class Feed(Protocol):
    """What a job's live channel brings."""

    async def next(self) -> Publication | Look:
        """The next publication, or a reason to look. Raises: BrokerUnavailable when it has given up."""
        ...


class Batch(NamedTuple):
    """Records in order. Not `fresh`: they stand before the position that the reader resumes from."""

    entries: Sequence[Entry]
    fresh: bool


async def follow(
    broker: Broker,
    keys: Keys,
    job_id: str,
    feed: Feed,
    *,
    after: Position = START,
    patience_s: float = PATIENCE_S,
) -> AsyncGenerator[Batch]:
    """Yield a job's records in the order written, each once, and return after its end record.

    The whole log is read: what stands before `after` comes first, not fresh, so that a view knows what it goes on from.
    `feed` must be subscribed already.

    Raises: JobNotFound, PositionLost (no such position in this log), HistoryLost (records are missing), JobExpired (only if
    nobody has ended the job after its deadline and we may not),
    BrokerUnavailable (after `patience_s`; at once if nothing could be read yet).
    """
    reader = _Reader(broker, keys, job_id, patience_s)
    resume = _Resume(job_id, after)
    async for entries in reader.catch_up():
        for batch in resume.split(reader.cursor, entries):
            yield batch
    resume.caught_up(reader.cursor)
    while not reader.cursor.ended:
        news = await feed.next()
        if isinstance(news, Publication):
            taken = reader.cursor.take_live(news.after, news.entries)
            if taken is not None:
                if taken:
                    for batch in resume.split(reader.cursor, taken):
                        yield batch
                continue
        elif news.top == reader.cursor.last:
            await reader.expire(news.now_ms)
            continue
        async for entries in reader.catch_up():
            for batch in resume.split(reader.cursor, entries):
                yield batch


class _Resume:
    """Splits what is read at the position to resume from, and checks that this log has it."""

    def __init__(self, job_id: str, after: Position) -> None:
        self._job_id, self._after = job_id, after
        self._asked = parse_position(after)
        self._done = after == START

    def split(self, cursor: Cursor, entries: Sequence[Entry]) -> list[Batch]:
        """Batches of what the cursor has just taken."""
        if self._done:
            return [Batch(entries, fresh=True)]
        number = sum(parse_position(entry.position) <= self._asked for entry in entries)
        before, rest = entries[:number], entries[number:]
        batches = [Batch(before, fresh=False)] if before else []
        if rest:
            self._done = True
            if not cursor.stood(self._after):
                self._check_epoch(cursor, stands=before[-1].position if before else None)
                self._check_told(rest[0])
            batches.append(Batch(rest, fresh=True))
        return batches

    def caught_up(self, cursor: Cursor) -> None:
        """The log has no more: the position is in it, or it went back behind it and the position's attempt may go on."""
        if cursor.stood(self._after):
            self._done = True
        else:
            self._check_epoch(cursor, stands=cursor.last)

    def _check_epoch(self, cursor: Cursor, *, stands: Position | None) -> None:
        if self._asked[0] == 0 or not cursor.knows_epoch(self._after):
            raise PositionLost(self._job_id, asked=self._after, stands=stands)

    def _check_told(self, first: Entry) -> None:
        """What the reader was shown is gone: a later attempt must say what stands instead."""
        if first.position == END:
            last = Position(json.loads(first.value)["last"])
            raise HistoryLost(self._job_id, after=last, until=self._after)


class _Reader:
    """Reads the log for one cursor, patient with a server that is away for a while."""

    def __init__(self, broker: Broker, keys: Keys, job_id: str, patience_s: float) -> None:
        self._broker, self._keys, self._job_id, self._patience_s = broker, keys, job_id, patience_s
        self.cursor = Cursor(job_id)
        self._job: JsonObject = {}

    async def catch_up(self) -> AsyncGenerator[Sequence[Entry]]:
        """What the log has beyond the cursor, in pages."""
        since: float | None = None
        pauses = iter(_PAUSES_S)
        while not self.cursor.ended:
            try:
                full, entries = await self._read()
            except BrokerUnavailable:
                now = asyncio.get_running_loop().time()
                since = now if since is None else since
                if self.cursor.last == START or now - since > self._patience_s:
                    raise
                await asyncio.sleep(next(pauses, _PAUSES_S[-1]))
                continue
            if entries:
                if entries[0].field == "job":
                    self._job = json.loads(entries[0].value)
                yield entries
            if not full:
                return

    async def _read(self) -> tuple[bool, Sequence[Entry]]:
        """Whether there may be more, and what to take."""
        page = await read_page(self._broker, self._keys, self._job_id, after=self.cursor.last)
        if not page.entries and page.top == self.cursor.last:
            return False, []
        taken = self.cursor.take_read(page.entries) if page.entries else None
        if taken is not None:
            return len(page.entries) >= PAGE, taken
        whole = await read_whole(self._broker, self._keys, self._job_id)
        if not whole:
            raise JobNotFound(self._job_id)
        return False, self.cursor.take_whole(whole)

    async def expire(self, now_ms: int) -> None:
        """End the job if its time is over and nobody else has."""
        if expired(self._job, now_ms):
            try:
                await seal_expired(self._broker, self._keys, self._job_id, incarnation_of(self._job))
            except BrokerUnavailable:
                return  # not now: the next look tries again
            except BrokerUnsuitable:
                # We may not write (a consumer's access list), and whoever may has not: it is over all the same.
                raise JobExpired(self._job_id) from None
