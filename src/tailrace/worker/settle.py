"""What is left to do when a job has ended: its snapshot, the hand-off. Anyone may do it, any number of times."""

import asyncio
import json
from collections.abc import Callable
from typing import Final

from tailrace.joblog import (
    STANDS_MS,
    Broker,
    End,
    Gone,
    Word,
    encode_snapshot,
    hand_off,
    read_whole,
    seal,
    store_snapshot,
)
from tailrace.queue import IN_PROGRESS_PREFIX, RETRY_PREFIX, payload_key
from tailrace.schemas import ErrorDetail, JobNotFound, JsonObject, Keys, Status
from tailrace.tasks import Jobs
from tailrace.telemetry.tracing import carrier
from tailrace.worker.following import end_children, start_follow_up
from tailrace.worker.sweep_scripts import FORGET, LEAVE, OVER

#: Above this, compressing is left to a thread: 1 MiB takes some 30 ms, which a thousand streams would feel.
_THREAD_CHARACTERS: Final = 64 * 1024
#: How long the word of an end is kept when its job does not say.
_TTL_MS: Final = 3_600_000


async def settle(
    broker: Broker,
    keys: Keys,
    job_id: str,
    *,
    queue: str | None = None,
    jobs: Jobs | None = None,
    seen_off: Callable[[Status], None] = lambda _: None,
) -> bool:
    """Store the snapshot of a job that has ended and hand it off. False if it has not ended, or not any more.

    `queue`: where it is, if it is queued, as `Keys.queue_of` spells it. `jobs` ends the jobs that it had submitted and that
    nobody awaits any more, and starts the one that is to follow. `seen_off` is told how the job ended when all of that is done.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    try:
        entries = await read_whole(broker, keys, job_id)
    except JobNotFound:
        entries = []
    if not entries:
        return await leave(broker, keys, job_id, queue=queue, deleted=True)
    if entries[-1].field != "end":
        return False
    end = json.loads(entries[-1].value)
    status = Status(end["status"])
    if entries[0].field != "job":  # trimmed from outside: there is no whole to keep
        handed_off = await hand_off(broker, keys, job_id, status, ttl_ms=_TTL_MS, trimmed=True)
        if handed_off:
            seen_off(status)
        return handed_off
    job = json.loads(entries[0].value)
    await end_children(job, entries, jobs)
    if not await start_follow_up(job_id, job, entries, jobs):
        return False
    if sum(len(entry.value) for entry in entries) > _THREAD_CHARACTERS:
        blob = await asyncio.to_thread(encode_snapshot, entries)
    else:
        blob = encode_snapshot(entries)
    incarnation = str(job["incarnation"])
    snapshot = store_snapshot(broker, keys, job_id, incarnation=incarnation, blob=blob, end=entries[-1].value)
    ttl_ms, told = int(job["retention_ms"]), _told(job, end)
    # In one write. A log without its snapshot is not handed off: it may have come later, from a server that had to be
    # told its script first.
    _, handed_off = await asyncio.gather(snapshot, hand_off(broker, keys, job_id, status, ttl_ms=ttl_ms, told=told))
    handed_off = handed_off or await hand_off(broker, keys, job_id, status, ttl_ms=ttl_ms, told=told)
    if handed_off:
        seen_off(status)
    return handed_off


def _told(job: JsonObject, end: JsonObject) -> dict[str, str]:
    """What those who wait for ends can choose by without reading the job: nothing that readers may not know."""
    told = {"incarnation": str(job["incarnation"]), "at": str(end.get("ts", 0))}
    if trace := carrier():
        told["trace"] = trace["traceparent"]
    if job.get("task"):
        told["task"] = str(job["task"])
    if job.get("tags"):
        told["tags"] = json.dumps(job["tags"], ensure_ascii=False, separators=(",", ":"))
    return told


async def leave(broker: Broker, keys: Keys, job_id: str, *, queue: str | None = None, deleted: bool = False) -> bool:
    """Take a job out of its queue whose log is sealed or gone, unless somebody holds it. False if its log is open.

    One without a log leaves the index of open jobs too; `deleted`: so does a tombstone, there is nothing to hand off.
    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    queued_id = keys.queued(job_id)
    names = [
        keys.open,
        queue or keys.queue,
        IN_PROGRESS_PREFIX + queued_id,
        payload_key(keys, job_id),
        RETRY_PREFIX + queued_id,
    ]
    args = [job_id, queued_id, "1" if deleted else "0"]
    if not broker.apart:
        return bool(await broker.run(LEAVE, [keys.log(job_id), *names], args))
    over = await broker.run(OVER, [keys.log(job_id)], [])
    if over:
        again: list[Word] = [keys.handed_as(job_id), STANDS_MS]
        await broker.queue.run(FORGET, [*names, keys.handed], [*args, over, *again])
    return bool(over)


async def end_damaged(broker: Broker, keys: Keys, job_id: str) -> None:
    """End a job of whose log something is missing: nobody can run it, and its readers must not wait for the deadline."""
    message = "records of the job's log are missing: were they trimmed or deleted from outside?"
    try:
        await seal(
            broker,
            keys,
            job_id,
            End(Status.FAILED, error=ErrorDetail(type="history_lost", message=message, retryable=True)),
        )
    except Gone:
        return
