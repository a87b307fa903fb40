"""Which jobs there are: those that have not ended, which are indexed, and those that were handed off last.

Each look at a page of jobs is bounded, and so is what a caller keeps: both indexes may have any length.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from tailrace.consumer.ended import Notice, notice_of
from tailrace.joblog import Broker, Overview
from tailrace.schemas import BrokerUnavailable, HistoryLost, InvalidRequest, JobNotFound, Keys, Status

#: How many of the index are looked at for one listing.
LOOKED_AT: Final = 2000
#: How many ended jobs are looked at for one listing, in each of their streams. A look at one reads its snapshot.
ENDED_LOOKED_AT: Final = 500
_TOGETHER: Final = 16
#: Entries of a stream of ended jobs that are read at a time.
_PAGE: Final = 64
#: A server that hangs must not keep one from the jobs of the others.
_PATIENCE_S: Final = 3.0
#: Entries of the index that are read at a time, where all of it is.
_SCANNED: Final = 500


class Looking(Protocol):
    """Who looks at one job: a consumer."""

    async def look(self, job_id: str) -> Overview:
        """Raises: JobNotFound, HistoryLost, BrokerUnavailable."""
        ...


class Listed(NamedTuple):
    """A job in a listing."""

    job_id: str
    overview: Overview


class OpenJobs(NamedTuple):
    """Jobs that have not ended."""

    jobs: list[Listed]
    more: bool
    """Whether there may be others that are wanted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs somebody wants to see. What is not set, or empty, is no condition."""

    statuses: Collection[Status] = ()
    model: str | None = None
    task: str | None = None
    tag: str | None = None
    tenant: str | None = None
    since_ms: int | None = None
    """Submitted (of those that have ended: ended) no earlier, by the server's clock."""
    before_ms: int | None = None
    """The same, earlier."""

    @property
    def open(self) -> bool:
        """Whether a job that has not ended can be one of them."""
        return not self.statuses or any(not status.ended for status in self.statuses)

    @property
    def ended(self) -> bool:
        """Whether a job that has ended can be one of them."""
        return not self.statuses or any(status.ended for status in self.statuses)

    def takes(self, overview: Overview) -> bool:
        """Whether a job is one of them."""
        job = overview.job
        tags = job.get("tags")
        return (
            (not self.statuses or overview.status in self.statuses)
            and (self.model is None or job.get("model") == self.model)
            and (self.task is None or job.get("task") == self.task)
            and (self.tag is None or (isinstance(tags, list) and self.tag in tags))
            and (self.tenant is None or job.get("tenant") == self.tenant)
            and self._in_time(_number((overview.end or job).get("ts")))
        )

    def may_take(self, notice: Notice) -> bool:
        """Whether an ended job can be one of them, by what its hand-off says: most need not be looked at."""
        at_ms = None if notice.ended_at is None else round(notice.ended_at.timestamp() * 1000)
        return (
            (not self.statuses or notice.status in self.statuses)
            and (self.task is None or notice.task == self.task)
            and (self.tag is None or self.tag in notice.tags)
            and (at_ms is None or self._in_time(at_ms))
        )

    def _in_time(self, at_ms: int) -> bool:
        return (self.since_ms is None or at_ms >= self.since_ms) and (self.before_ms is None or at_ms < self.before_ms)


class Listing:
    """Lists the jobs of one namespace."""

    def __init__(self, broker: Broker, keys: Keys, looking: Looking) -> None:
        self._broker, self._keys, self._looking = broker, keys, looking

    async def open_jobs(
        self, limit: int, wanted: Callable[[Overview], bool], *, looked_at: int = LOOKED_AT
    ) -> OpenJobs:
        """At most `limit` of the wanted jobs that have not ended. Raises: BrokerUnavailable, BrokerUnsuitable.

        By the time of their next check: that of a new job is just after it is due.
        """
        answer = await self._broker.queue.call("ZRANGE", self._keys.open, 0, looked_at)
        ids = [each.decode(errors="replace") for each in answer]
        found: list[Listed] = []
        for begin in range(0, min(len(ids), looked_at), _TOGETHER):
            for listed in await self._look_at(ids[begin : min(begin + _TOGETHER, looked_at)], wanted):
                if listed.overview.status.ended:
                    continue
                if len(found) == limit:
                    return OpenJobs(found, more=True)
                found.append(listed)
        return OpenJobs(found, more=len(ids) > looked_at)

    async def all_open_jobs(self, wanted: Callable[[Overview], bool]) -> AsyncGenerator[Listed]:
        """Every wanted job that has not ended, in no order, page by page; those that end or come meanwhile may be missing.

        Raises: BrokerUnavailable, BrokerUnsuitable.
        """
        seen: set[str] = set()  # the server may tell one twice while its index shrinks
        cursor = 0
        while True:
            cursor, scored = await self._broker.queue.call("ZSCAN", self._keys.open, cursor, "COUNT", _SCANNED)
            ids = [job_id for each, _ in scored if (job_id := each.decode(errors="replace")) not in seen]
            seen.update(ids)
            for begin in range(0, len(ids), _TOGETHER):
                for listed in await self._look_at(ids[begin : begin + _TOGETHER], wanted):
                    if not listed.overview.status.ended:
                        yield listed
            if not int(cursor):
                return

    async def ended_jobs(
        self,
        limit: int,
        wanted: Callable[[Overview], bool],
        *,
        may_take: Callable[[Notice], bool] | None = None,
        looked_at: int = ENDED_LOOKED_AT,
    ) -> list[Listed]:
        """At most `limit` of the wanted jobs that have ended, the last one first. Raises: BrokerUnavailable, BrokerUnsuitable.

        A job is there once a worker has handed it off, moments after its end; of all jobs the last `looked_at` are looked
        at, in each of their streams.
        """
        if not limit:
            return []
        parts = await asyncio.gather(
            *(self._some_ended(each, limit, wanted, may_take, looked_at) for each in self._keys.ended_streams)
        )
        found = {listed.job_id: listed for part in parts for listed in part}
        return heapq.nlargest(limit, found.values(), key=_ended_at)

    async def all_ended_jobs(
        self, wanted: Callable[[Overview], bool], *, may_take: Callable[[Notice], bool] | None = None
    ) -> AsyncGenerator[Listed]:
        """Every wanted job that the hand-off still knows, stream by stream, the last one of each first.

        Raises: BrokerUnavailable, BrokerUnsuitable.
        """
        for stream in self._keys.ended_streams:
            async with aclosing(self._ended_in(stream, wanted, may_take, None)) as jobs:
                async for listed in jobs:
                    yield listed

    async def _some_ended(
        self,
        stream: str,
        limit: int,
        wanted: Callable[[Overview], bool],
        may_take: Callable[[Notice], bool] | None,
        looked_at: int,
    ) -> list[Listed]:
        found: list[Listed] = []
        async with aclosing(self._ended_in(stream, wanted, may_take, looked_at)) as jobs:
            async for listed in jobs:
                found.append(listed)
                if len(found) == limit:
                    break
        return found

    async def _ended_in(
        self,
        stream: str,
        wanted: Callable[[Overview], bool],
        may_take: Callable[[Notice], bool] | None,
        looked_at: int | None,
    ) -> AsyncGenerator[Listed]:
        """Those in one of the streams, the last one first."""
        seen: set[str] = set()
        last = "+"
        while looked_at is None or len(seen) < looked_at:
            page = await self._broker.queue.call("XREVRANGE", stream, last, "-", "COUNT", _PAGE)
            if not page:
                return
            last = f"({page[-1][0].decode()}"
            # The same job can be there twice: handed off again, or another one under its id.
            told = dict.fromkeys(
                fields[b"job"].decode(errors="replace") for _, fields in page if _may_be(fields, may_take)
            )
            ids = [job_id for job_id in told if job_id not in seen]
            seen.update(fields[b"job"].decode(errors="replace") for _, fields in page if b"job" in fields)
            for begin in range(0, len(ids), _TOGETHER):
                for listed in await self._look_at(ids[begin : begin + _TOGETHER], wanted):
                    if listed.overview.status.ended:
                        yield listed

    async def _look_at(self, ids: list[str], wanted: Callable[[Overview], bool]) -> list[Listed]:
        """Those of the jobs that are there and wanted, in the same order."""
        looked = await asyncio.gather(*(self._look(each) for each in ids))
        return [
            Listed(job_id, overview)
            for job_id, overview in zip(ids, looked, strict=True)
            if overview is not None and wanted(overview)
        ]

    async def _look(self, job_id: str) -> Overview | None:
        if self._broker.hangs(self._keys.log(job_id)):
            return None
        try:
            async with asyncio.timeout(_PATIENCE_S if self._broker.spread else None):
                return await self._looking.look(job_id)
        # The index is a hint, and one damaged job, or an id that somebody planted, is no reason to show none.
        except (JobNotFound, HistoryLost, InvalidRequest, ValueError):
            return None
        except (BrokerUnavailable, TimeoutError):
            if not self._broker.spread:
                raise
            return None  # of several servers, its own is away


def _may_be(fields: dict[bytes, bytes], may_take: Callable[[Notice], bool] | None) -> bool:
    if b"job" not in fields:
        return False
    notice = None if may_take is None else notice_of(fields)
    return may_take is None or notice is None or may_take(notice)


def _ended_at(listed: Listed) -> int:
    return _number((listed.overview.end or {}).get("ts"))


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
