"""The connections of one transport: those that wait for a request, and all that are open."""

import asyncio
from typing import Final

from tailrace.worker.push.connection import Connection

#: A connection that nobody needs is closed after this time: most servers do so after some more.
KEEP_ALIVE_S: Final = 15.0
_READ_BYTES: Final = 64 * 1024


class Pool:
    """The youngest idle connection first, so that those not needed come of age. No limit: capacity is the worker's."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self.closings = 0
        """How often it was closed: a connection that was being opened meanwhile is not wanted any more."""
        self._open: set[Connection] = set()
        # By origin: each with when it is to be closed, the oldest first.
        self._idle: dict[bytes, dict[Connection, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    def take(self, origin: bytes) -> Connection | None:
        """A connection that can take a request."""
        idle = self._idle.get(origin, {})
        now = asyncio.get_running_loop().time()
        while idle:
            connection, until = idle.popitem()
            if until > now and connection.idle():
                return connection
            connection.abort()
        return None

    async def aclose(self) -> None:
        """Close all connections, those in use as well, and wait until they are."""
        self.closings += 1
        for connection in list(self._open):
            connection.close()
        if self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, connection: Connection) -> None:
        """Know a new one. Not by its own word: uvloop tells those whose opening is cancelled of no end."""
        if not connection.gone():
            self._open.add(connection)

    # What connections tell.

    def freed(self, connection: Connection) -> None:
        until = asyncio.get_running_loop().time() + KEEP_ALIVE_S
        self._idle.setdefault(connection.origin, {})[connection] = until
        if self._timer is None:
            self._wait(until)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin, {})
        idle.pop(connection, None)
        if not idle:
            self._idle.pop(connection.origin, None)
        if not self._open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _wait(self, until: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(until, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        oldest: list[float] = []
        for idle in self._idle.values():
            for connection, until in list(idle.items()):
                if until > now:
                    oldest.append(until)
                    break
                del idle[connection]
                connection.abort()
        if oldest:
            self._wait(min(oldest))
