"""Looking through the index of open jobs for what a crash left behind: stored but not queued, ended but not handed off,
past its deadline with nobody there. Every worker does it; doing it twice does no harm."""

import asyncio
import logging
from typing import Final

from tailrace.joblog import Broker, look
from tailrace.queue import enqueue
from tailrace.schemas import GRACE_S, JobNotFound, Keys, TailraceError
from tailrace.worker.settle import settle

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 100
#: How long an open job that is in order is left alone.
_NEXT_CHECK_MS: Final = 30_000


async def sweep_for_ever(broker: Broker, keys: Keys, *, every_s: float) -> None:
    """Sweep again and again, until cancelled."""
    while True:
        try:
            await sweep(broker, keys)
        except TailraceError as error:
            logger.warning("sweep: %s", error)
        await asyncio.sleep(every_s)


async def sweep(broker: Broker, keys: Keys) -> int:
    """Check the open jobs whose check is due; how many were checked. Raises: BrokerUnavailable."""
    now_ms = await broker.now_ms()
    due = await broker.call("ZRANGEBYSCORE", keys.open, "-inf", now_ms, "LIMIT", 0, _AT_ONCE)
    for job_id in due:
        await _check(broker, keys, job_id.decode("utf-8", "replace"), now_ms)
    return len(due)


async def _check(broker: Broker, keys: Keys, job_id: str, now_ms: int) -> None:
    try:
        overview = await look(broker, keys, job_id)
    except JobNotFound:
        await broker.call("ZREM", keys.open, job_id)
        return
    if overview.status.ended:
        await settle(broker, keys, job_id)
        return
    deadline = overview.job.get("deadline")
    last = (deadline if isinstance(deadline, int) else now_ms) + int(GRACE_S * 1000) + 1000
    if await broker.call("ZSCORE", keys.queue, keys.queued(job_id)) is None:
        logger.warning("job %r was stored but not queued, queueing it", job_id)
        await enqueue(broker.redis, keys, job_id, ttl_ms=max(1000, last - now_ms))
    await broker.call("ZADD", keys.open, "XX", min(now_ms + _NEXT_CHECK_MS, last), job_id)
