"""The end of a claim: what its handler's error means, and giving the lease back, however long that takes."""

import asyncio
import logging
import traceback
from typing import Final

from redis.exceptions import RedisError

from tailrace.queue.claimed import CancelReason, Claimed
from tailrace.queue.leases import Leases
from tailrace.queue.outage import Outage
from tailrace.queue.renewal import Renewal

# As the worker's own lines: nobody looks for them elsewhere.
logger = logging.getLogger("tailrace.queue.leased")

LONGEST_ERROR_DELAY_S: Final = 60.0


class Ending:
    """Ends the claims of one worker."""

    def __init__(self, leases: Leases, renewal: Renewal, outage: Outage, *, lease_s: float) -> None:
        self._leases, self._renewal, self._outage, self._lease_s = leases, renewal, outage, lease_s
        self.closed = False
        """While Redis is away nothing is tried again any more: the leases run out."""

    async def settle(self, claimed: Claimed) -> None:
        """End a claim as its `delay_ms` says, if it is still ours; while Redis is away, try again."""
        claimed.settling = True
        if claimed.reason is CancelReason.LEASE_LOST:
            return
        while True:
            deadline_ms = self._renewal.deadline_ms(claimed.queued_id, claimed.number)
            try:
                async with asyncio.timeout(self._lease_s):
                    kept = await self._leases.settle(
                        claimed.queued_id, queue=claimed.queue, deadline_ms=deadline_ms, delay_ms=claimed.delay_ms
                    )
            except (RedisError, OSError) as error:
                pause_s = self._outage.failed(error)
                if self.closed:
                    return
                await asyncio.sleep(pause_s)
            else:
                self._outage.over()
                if not kept:
                    logger.info(
                        "job %r: its lease was lost before its end was written",
                        claimed.job_id,
                        extra=fields_of(claimed),
                    )
                return


def error_delay_ms(claimed: Claimed, first_s: float) -> int:
    """How long a job waits whose handler raised an error: longer with each claim."""
    return int(1000 * min(LONGEST_ERROR_DELAY_S, first_s * 2 ** min(claimed.claims - 1, 16)))


def log_error(claimed: Claimed, error: Exception, delay_ms: int) -> None:
    """Where it was raised and what it was, not its message: that may quote the prompt."""
    logger.error(
        "job %r: its handler raised %s; it runs again in %.1f s\n%s",
        claimed.job_id,
        type(error).__qualname__,
        delay_ms / 1000,
        "".join(traceback.format_tb(error.__traceback__)),
        extra=fields_of(claimed),
    )


def fields_of(claimed: Claimed) -> dict[str, str]:
    """The fields of a log line about it."""
    return {"job_id": claimed.job_id, "worker": claimed.worker}
