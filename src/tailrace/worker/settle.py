"""What is left to do when a job has ended: its snapshot, the hand-off. Anyone may do it, any number of times."""

import asyncio
import json
from typing import Final

from tailrace.joblog import Broker, encode_snapshot, hand_off, read_log, store_snapshot
from tailrace.schemas import Entry, JobNotFound, Keys, Status

#: Above this, compressing is left to a thread: 1 MiB takes some 30 ms, which a thousand streams would feel.
_THREAD_CHARACTERS: Final = 64 * 1024
#: How long the word of an end is kept when its job does not say.
_TTL_MS: Final = 3_600_000


async def settle(broker: Broker, keys: Keys, job_id: str) -> bool:
    """Store the snapshot of a job that has ended and hand it off. False if it has not ended.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    try:
        entries: list[Entry] = [entry async for page in read_log(broker, keys, job_id) for entry in page]
    except JobNotFound:
        entries = []
    if not entries:
        await broker.call("ZREM", keys.open, job_id)
        return True
    if entries[-1].field != "end":
        return False
    status = Status(json.loads(entries[-1].value)["status"])
    if entries[0].field != "job":  # trimmed from outside: there is no whole to keep
        await hand_off(broker, keys, job_id, status, ttl_ms=_TTL_MS)
        return True
    job = json.loads(entries[0].value)
    if sum(len(entry.value) for entry in entries) > _THREAD_CHARACTERS:
        blob = await asyncio.to_thread(encode_snapshot, entries)
    else:
        blob = encode_snapshot(entries)
    incarnation, end = str(job["incarnation"]), entries[-1].value
    await store_snapshot(broker, keys, job_id, incarnation=incarnation, blob=blob, end=end)
    await hand_off(broker, keys, job_id, status, ttl_ms=int(job["retention_ms"]))
    return True
