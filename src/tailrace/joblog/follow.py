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
    follower = Follower(broker, keys, job_id, after=after, patience_s=patience_s)
    async for batch in follower.attend(Look(top=None)):
        yield batch
    while not follower.ended:
        news = await feed.next()
        batches = follower.take(news)
        if batches is None:
            async for batch in follower.attend(news):
                yield batch
        else:
            for batch in batches:
                yield batch


class Follower:
    """`follow`, driven from outside: `take` what comes without waiting, `attend` to what it could not take.

    Begins with `attend`, which may take all the time that it wants: what comes meanwhile is taken afterwards.
    """

    def __init__(
        self,
        broker: Broker,
        keys: Keys,
        job_id: str,
        *,
        after: Position = START,
        incarnation: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`incarnation`: for who has read up to `after` in the log of this very job. If `after` is not there, it was lost."""
        self._log = _Reader(broker, keys, job_id, patience_s)
        self._cursor = self._log.cursor
        self._resume = _Resume(job_id, after, incarnation)
        self._read_back = False

    @property
    def at(self) -> Position:
        """The record that was taken last."""
        return self._cursor.last

    @property
    def ended(self) -> bool:
        return self._cursor.ended

    @property
    def incarnation(self) -> str | None:
        """Which job under its id this is, as far as it was read."""
        return self._cursor.incarnation

    @property
    def went_back(self) -> bool:
        """Whether records were given that the server has lost since."""
        return self._cursor.went_back

    @property
    def straight(self) -> bool:
        """Whether the records given, stale and fresh, are those of the log from its first to `at`, and no others.

        Two straight followers of one incarnation at one position have given the same.
        """
        return self._resume.done and self._resume.stood and not self._cursor.went_back

    def take(self, news: Publication | Look) -> list[Batch] | None:
        """The records that the news bring; None: `attend` to it. Raises: HistoryLost."""
        if isinstance(news, Publication):
            taken = self._cursor.take_live(news.after, news.entries)
            if taken is None:
                return None
            return self._resume.split(self._cursor, taken) if taken else []
        if news.top == self._cursor.last and not expired(self._log.job, news.now_ms):
            return []
        return None

    async def attend(self, news: Publication | Look) -> AsyncGenerator[Batch]:
        """End a job whose time is over, or read what the log has beyond: the news say which. Raises: as `follow`."""
        if isinstance(news, Look) and news.top == self._cursor.last:
            await self._log.expire(news.now_ms)
            return
        async for entries in self._log.catch_up():
            for batch in self._resume.split(self._cursor, entries):
                yield batch
        if not self._read_back:
            self._read_back = True
            self._resume.caught_up(self._cursor)


class _Resume:
    """Splits what is read at the position to resume from, and checks that this log has it."""

    def __init__(self, job_id: str, after: Position, incarnation: str | None = None) -> None:
        self._job_id, self._after, self._incarnation = job_id, after, incarnation
        self._asked = parse_position(after)
        self.done = after == START
        self.stood = True
        """Whether the log had the position, as far as it is known."""

    def split(self, cursor: Cursor, entries: Sequence[Entry]) -> list[Batch]:
        """Batches of what the cursor has just taken."""
        if self.done:
            return [Batch(entries, fresh=True)]
        if self._incarnation is not None and cursor.incarnation != self._incarnation:
            raise HistoryLost(self._job_id, after=START, until=self._after)
        number = sum(parse_position(entry.position) <= self._asked for entry in entries)
        before, rest = entries[:number], entries[number:]
        batches = [Batch(before, fresh=False)] if before else []
        if rest:
            self.done = True
            if not cursor.stood(self._after):
                self.stood = False
                self._check_epoch(cursor, stands=before[-1].position if before else None)
                self._check_told(rest[0])
            batches.append(Batch(rest, fresh=True))
        return batches

    def caught_up(self, cursor: Cursor) -> None:
        """The log has no more: the position is in it, or it went back behind it and the position's attempt may go on."""
        if cursor.stood(self._after):
            self.done = True
        else:
            self._check_epoch(cursor, stands=cursor.last)

    def _check_epoch(self, cursor: Cursor, *, stands: Position | None) -> None:
        if self._incarnation is not None:
            return
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
        self.job: JsonObject = {}

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
                    self.job = json.loads(entries[0].value)
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
        if expired(self.job, now_ms):
            try:
                await seal_expired(self._broker, self._keys, self._job_id, incarnation_of(self.job))
            except BrokerUnavailable:
                return  # not now: the next look tries again
            except BrokerUnsuitable:
                # We may not write (a consumer's access list), and whoever may has not: it is over all the same.
                raise JobExpired(self._job_id) from None
