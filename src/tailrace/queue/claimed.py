"""One job in the hands of one worker: what its handler is told, and the only way to cancel it."""

import asyncio
from enum import StrEnum
from typing import Final


class CancelReason(StrEnum):
    """Why a handler was cancelled; also the message of the CancelledError that it sees."""

    LEASE_LOST = "lease lost"
    """The job is somebody else's now, or gone from the queue: write nothing more for it there, not even a hand-back."""

    DRAIN = "drain"
    """The worker stops: the job is handed back when the handler lets the cancellation through."""

    CANCELLED = "cancelled"
    """Somebody cancelled the job."""

    TIMEOUT = "timeout"
    """The job ran longer than the worker allows."""


DONE_MS: Final = -1
"""The delay that means: the job leaves the queue."""


class Claimed:
    """A claim of a job, from taking it off the queue until it is done, handed back or lost.

    The handler gets it to learn about the claim, and others to cancel the handler. However many ask for that, and for
    whatever reasons, the handler's task is cancelled once: a second cancellation that hits an HTTP client while it closes
    a response leaves the upstream's connection open.
    """

    def __init__(
        self,
        *,
        job_id: str,
        queued_id: str,
        number: int,
        worker: str,
        due_ms: int,
        payload: bytes = b"",
        claims: int = 1,
        queue: str = "",
    ) -> None:
        self.job_id = job_id
        self.queued_id = queued_id
        self.number = number
        """Tells it from the worker's other claims."""
        self.worker = worker
        self.due_ms = due_ms
        """When the job was to run; after a lost lease, when that lease ended."""
        self.payload = payload
        self.claims = claims
        """The how-manieth claim of the job this is, as far as the queue knows: hand-backs count, so these are not attempts."""
        self.queue = queue
        """The queue that it was taken from, as `Keys.queue_of` spells it."""
        self.delay_ms = 0
        """How the claim ends: hand back after so many milliseconds, or DONE_MS. The worker's, not the handler's."""
        self.settling = False
        self.starting: asyncio.Timeout | None = None
        """The worker's limit for what comes before the handler."""
        self._reason: CancelReason | None = None
        self._task: asyncio.Task[object] | None = None

    @property
    def reason(self) -> CancelReason | None:
        """Why the handler is cancelled, None if it is not. LEASE_LOST overrides any other: look again after each await."""
        return self._reason

    def cancel(self, reason: CancelReason) -> bool:
        """Cancel the handler, or see to it that it does not start. True if this call was the one that did."""
        first = self._reason is None
        if first or reason is CancelReason.LEASE_LOST:
            self._reason = reason
        if first and self._task is not None:
            self._task.cancel(reason.value)
        return first

    def begin(self, task: "asyncio.Task[object]") -> None:
        """The handler's task starts. Raises: CancelledError if it was cancelled before."""
        self._task = task
        if self._reason is not None:
            raise asyncio.CancelledError(self._reason.value)

    def __repr__(self) -> str:
        return f"Claimed(job_id={self.job_id!r}, claims={self.claims}, reason={self._reason!r})"
