"""A bound on single waits that costs nearly nothing when the wait is short."""

import asyncio
from types import TracebackType
from typing import Self


class Patience:
    """`with patience.at_most(seconds): await ...` raises TimeoutError, like asyncio.timeout, for one task at a time.

    One timer serves many waits: it is set again only when it fires, so that a stream with a thousand reads a second
    sets about one timer per timeout.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired = False

    def at_most(self, seconds: float) -> Self:
        """Bound the wait inside the `with` that follows."""
        self._seconds = seconds
        return self

    def close(self) -> None:
        """Drop the timer."""
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be interrupted")
        loop = task.get_loop()
        deadline = self._deadline = loop.time() + self._seconds
        self._task, self._cancelling, self._fired = task, task.cancelling(), False
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(deadline, self._look, loop)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadline = None
        task, self._task = self._task, None
        # Someone else's cancellation, also one that came together with ours, goes on.
        if (
            self._fired
            and task is not None
            and task.uncancel() <= self._cancelling
            and exc_type is asyncio.CancelledError
        ):
            raise TimeoutError from exc

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._deadline is None or self._task is None:
            return
        if loop.time() < self._deadline:
            self._timer = loop.call_at(self._deadline, self._look, loop)
        else:
            self._fired = True
            self._task.cancel()
