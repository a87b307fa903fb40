"""Which jobs there are: those that have not ended, which are indexed, and those that were handed off last."""

import asyncio
from typing import Final

from tailrace.gateway.access import Principal
from tailrace.gateway.gateway import Gateway
from tailrace.joblog import Overview
from tailrace.schemas import HistoryLost, JobNotFound

#: How many of the index are looked at for one listing.
LOOKED_AT: Final = 2000
#: How many ended jobs are looked at for one listing, in each of their streams. A look at one reads its snapshot.
ENDED_LOOKED_AT: Final = 500
_TOGETHER: Final = 16
#: Entries of a stream of ended jobs that are read at a time.
_PAGE: Final = 64

#: Jobs by their ids.
_Found = dict[str, Overview]


async def open_jobs(gateway: Gateway, principal: Principal, limit: int) -> tuple[list[tuple[str, Overview]], bool]:
    """Jobs of theirs that have not ended, at most `limit`, and whether there may be more. Raises: BrokerUnavailable.

    By the time of their next check: that of a new job is just after it is due.
    """
    tailrace = gateway.tailrace
    ids = [
        each.decode() for each in await tailrace.broker.queue.call("ZRANGE", tailrace.settings.keys.open, 0, LOOKED_AT)
    ]
    found: list[tuple[str, Overview]] = []
    for begin in range(0, min(len(ids), LOOKED_AT), _TOGETHER):
        for job_id, overview in await _theirs(gateway, principal, ids[begin : begin + _TOGETHER]):
            if overview.status.ended:
                continue
            if len(found) == limit:
                return found, True
            found.append((job_id, overview))
    return found, len(ids) > LOOKED_AT


async def ended_jobs(gateway: Gateway, principal: Principal, limit: int) -> list[tuple[str, Overview]]:
    """Jobs of theirs that have ended, at most `limit`, the last one first. Raises: BrokerUnavailable.

    A job is there once a worker has handed it off, moments after its end; of all tenants' jobs the last
    `ENDED_LOOKED_AT` are looked at.
    """
    if not limit:
        return []
    streams = gateway.tailrace.settings.keys.ended_streams
    parts = await asyncio.gather(*(_ended_in(gateway, principal, stream, limit) for stream in streams))
    found = {job_id: overview for part in parts for job_id, overview in part.items()}
    return sorted(found.items(), key=_ended_at, reverse=True)[:limit]


async def _ended_in(gateway: Gateway, principal: Principal, stream: str, limit: int) -> _Found:
    """The last of theirs in one of the streams."""
    found: _Found = {}
    seen: set[str] = set()
    last = "+"
    while len(seen) < ENDED_LOOKED_AT and len(found) < limit:
        page = await gateway.tailrace.broker.queue.call("XREVRANGE", stream, last, "-", "COUNT", _PAGE)
        if not page:
            break
        last = f"({page[-1][0].decode()}"
        # The same job can be there twice: handed off again, or another one under its id.
        told = dict.fromkeys(fields[b"job"].decode() for _, fields in page if b"job" in fields)
        ids = [job_id for job_id in told if job_id not in seen]
        seen.update(ids)
        for begin in range(0, len(ids), _TOGETHER):
            if len(found) >= limit:
                break
            theirs = await _theirs(gateway, principal, ids[begin : begin + _TOGETHER])
            found.update((job_id, overview) for job_id, overview in theirs if overview.status.ended)
    return found


def _ended_at(job: tuple[str, Overview]) -> int:
    at = (job[1].end or {}).get("ts")
    return at if isinstance(at, int) else 0


async def _theirs(gateway: Gateway, principal: Principal, ids: list[str]) -> list[tuple[str, Overview]]:
    """Those of the jobs that are there and theirs, in the same order."""
    looked = await asyncio.gather(*(_look(gateway, each) for each in ids))
    return [
        (job_id, overview)
        for job_id, overview in zip(ids, looked, strict=True)
        if overview is not None and principal.owns(overview.job.get("tenant"))
    ]


async def _look(gateway: Gateway, job_id: str) -> Overview | None:
    try:
        return await gateway.tailrace.consumer.look(job_id)
    except (JobNotFound, HistoryLost):  # the index is a hint, and one damaged job is no reason to show none
        return None
