"""How often a step is tried, how long a try may take, what is said of one that failed."""

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, TypeVar

from tailrace.schemas import ErrorDetail, JobRequest
from tailrace.worker.discretion import told_of, without_prompt

T = TypeVar("T")

_LONGEST_PAUSE_S: Final = 30.0


class Limit:
    """A time that several awaits share. Unlike `asyncio.timeout` it may be open across the yields of a generator."""

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def within(self, awaited: Awaitable[T]) -> T:
        """Raises: TimeoutError when the time is over."""
        if self._until is None:
            return await awaited
        async with asyncio.timeout_at(self._until):
            return await awaited


@dataclass(frozen=True, slots=True)
class Policy:
    """How one step is tried."""

    path: str
    request: JobRequest
    """The job's own, and that of the step's model: what must not be quoted."""
    asked: JobRequest | None
    retries: int
    backoff_s: float
    timeout_s: float | None

    def limit(self) -> Limit:
        """A try's time, which begins now."""
        return Limit(self.timeout_s)

    async def pause(self, tries: int) -> None:
        """Wait before the next try: longer each time, and never all at once."""
        longest = min(self.backoff_s * 2 ** (tries - 1), _LONGEST_PAUSE_S)
        await asyncio.sleep(longest * random.uniform(0.5, 1))  # noqa: S311 - jitter

    def timed_out(self) -> ErrorDetail:
        return ErrorDetail(
            type="step_timeout", message=f"step {self.path!r} took longer than {self.timeout_s:g} s", retryable=True
        )

    def raised(self, error: BaseException) -> ErrorDetail:
        """What is said of an exception of the author's."""
        return self.discreet(ErrorDetail(type="step_error", message=told_of(error), retryable=True))

    def discreet(self, detail: ErrorDetail) -> ErrorDetail:
        for request in (self.request, self.asked):
            if request is not None:
                detail = without_prompt(detail, request)
        return detail
