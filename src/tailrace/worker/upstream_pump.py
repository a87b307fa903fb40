"""A body that calls back, read by one task: bytes are dealt with where they arrive, the task hears only of stops.

Waking a task for each piece of a body costs more than all that is done with the piece.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from tailrace.worker.push import PushBody


class Pump:
    """Gives a body's pieces to a callback. Enter it, `run` it as often as it stops; leaving it closes the body."""

    def __init__(self, body: PushBody, take: Callable[[bytes], bool]) -> None:
        """`take` says whether it wants more now; what it raises comes out of `run`."""
        self._body, self._take = body, take
        self._held: deque[bytes] = deque()
        self._stopped = True
        self._ended = False
        self._error: BaseException | None = None
        self.begun = False
        """Whether any byte has come."""
        self._wait_s = 0.0
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._body.listen(self._on_bytes, self._on_end)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._body.close()
        if self._timer is not None:
            self._timer.cancel()

    async def run(self, *, first_wait_s: float, stall_s: float) -> bool:
        """Pump until `take` wants no more for now (True) or the body has ended (False).

        Raises: TimeoutError if nothing comes for so long (before the first piece; between two), what broke the body,
        what `take` raised.
        """
        self._stall_s = stall_s
        self._give_held()
        if not (self._stopped or self._ended):
            self._wait_s = stall_s if self.begun else first_wait_s
            self._heard = self._loop.time()
            self._body.resume()
            self._waiter = self._loop.create_future()
            if self._timer is None or self._timer.when() > self._heard + self._wait_s:
                self._look_in(self._wait_s)
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error
        return self._stopped

    def _on_bytes(self, piece: bytes) -> None:
        if self._stopped:
            self._held.append(piece)  # what had been read when the body was told to pause
            return
        self.begun, self._wait_s = True, self._stall_s
        self._heard = self._loop.time()
        if not self._give(piece):
            self._body.pause()
            self._wake()

    def _give_held(self) -> None:
        self._stopped = False
        while self._held and self._give(self._held.popleft()):
            pass

    def _give(self, piece: bytes) -> bool:
        """Whether more is wanted now."""
        try:
            self._stopped = not self._take(piece)
        except Exception as error:
            self._stopped, self._error = True, error
        return not self._stopped

    def _on_end(self, error: Exception | None) -> None:
        self._ended = True
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """One timer serves many pieces: it is set again only when it fires."""
        self._timer = None
        if self._waiter is None:
            return
        left_s = self._heard + self._wait_s - self._loop.time()
        if left_s > 0:
            self._look_in(left_s)
        else:
            self._error = TimeoutError("nothing came")
            self._wake()
