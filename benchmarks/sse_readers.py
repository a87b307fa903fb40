"""Any number of SSE connections on one job as a process of the benchmarks: it counts events, as cheaply as can be.

Two more are bad readers: one takes nothing after its first event, one takes something once a second. They count for
nothing. A hundred of the others look at the clock. The text of an event is when it was sent.
"""

import asyncio
import re
import socket
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from urllib.parse import urlsplit

from benchmarks.ages import Ages
from benchmarks.loops import FASTEST, Orders, answer_at_once, asked_at_once, run_child
from benchmarks.processes import Child, child, say

#: An event is one JSON object without another in it: counting this byte is exact, however the bytes are cut.
_EVENT: Final = b"{"
_SENT: Final = re.compile(rb'"text": ?"(\d+)"')
_WATCHES: Final = 100
_OPENING: Final = 50
_SLOW_S: Final = 1.0
#: What the system keeps for a bad reader: the least, so that what it leaves is soon the server's affair.
_BAD_BUFFER_BYTES: Final = 4096


class _Counting(asyncio.Protocol):
    """What all connections share that have their first event."""

    def __init__(self) -> None:
        self.events = self.lost = 0

    def data_received(self, data: bytes) -> None:
        self.events += data.count(_EVENT)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.lost += 1


class _Watching(asyncio.Protocol):
    """The same for those that look at the clock."""

    def __init__(self, counting: _Counting) -> None:
        self._counting, self.ages = counting, Ages()

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        self._counting.data_received(data)
        # A stamp that is cut in two is not seen: there are enough.
        self.ages.now += [now_ns - int(sent) for sent in _SENT.findall(data)]

    def connection_lost(self, exc: Exception | None) -> None:
        self._counting.connection_lost(exc)


class _Slow(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  # it is not looked at
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(_SLOW_S, self._go_on)

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()


class _Beginning(asyncio.Protocol):
    """A connection until its first event."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.begun: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if _EVENT in data and not self.begun.done():
            self.transport.pause_reading()  # until somebody else goes on
            self.begun.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(exc or ConnectionError("the server closed the connection before an event"))


class _Opening:
    def __init__(self, configuration: dict[str, Any]) -> None:
        url = urlsplit(cast("str", configuration["url"]))
        self._address = (url.hostname or "", url.port or 80)
        asked = f"GET {url.path} HTTP/1.1\r\nhost: {url.netloc}\r\naccept: text/event-stream\r\n\r\n"
        self._request = asked.encode()
        self._at_once = asyncio.Semaphore(_OPENING)

    async def one(self, *, bad: bool = False) -> asyncio.Transport:
        """A connection that has had its first event, and takes no more until it is told to."""
        async with self._at_once:
            connected = socket.socket()
            connected.setblocking(False)
            if bad:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BAD_BUFFER_BYTES)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connected, self._address)
            _, beginning = await loop.create_connection(lambda: _Beginning(self._request), sock=connected)
            head = await beginning.begun
            if b" 200 " not in head.partition(b"\r\n")[0] and head.startswith(b"HTTP/"):
                raise RuntimeError(head.decode(errors="replace"))
            return beginning.transport


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    counting = _Counting()
    watching = _Watching(counting)

    def count() -> tuple[int, int]:
        watching.ages.next_window()
        return counting.events, counting.lost

    async def ages() -> None:
        for window in watching.ages.windows():
            say(*window)

    orders.on("ages", ages)
    answer_at_once(count)
    say("ready")
    opening, readers = _Opening(configuration), configuration["connections"]
    opened = await asyncio.gather(*(opening.one() for _ in range(readers)))
    hung, slow = [await opening.one(bad=True) for _ in range(2)]  # `hung` stays as it is
    slow.set_protocol(_Slow(slow))
    slow.resume_reading()
    every = max(1, readers // _WATCHES)
    for number, transport in enumerate(opened):
        transport.set_protocol(counting if number % every else watching)
        transport.resume_reading()
    say("open")
    try:
        await asyncio.Event().wait()
    finally:
        hung.abort()


# The benchmark's side.


class Readers:
    """The process, as the benchmark sees it."""

    def __init__(self, process: Child) -> None:
        self._process, self._counts = process, 0

    @property
    def pid(self) -> int:
        return self._process.pid

    async def count(self) -> int:
        """How many events have come until now; a window begins. Raises: RuntimeError if a connection was lost."""
        self._counts += 1
        events, lost = map(int, await asked_at_once(self._process))
        if lost:
            raise RuntimeError(f"{lost} connections were lost")
        return events

    async def ages_ms(self) -> list[list[float]]:
        """By window between two counts: how old events were when they came."""
        await self._process.tell("ages")
        return [[int(age) / 1e6 for age in await self._process.line()] for _ in range(self._counts - 1)]


@asynccontextmanager
async def sse_readers(url: str, connections: int, cores: Iterable[int]) -> AsyncGenerator[Readers]:
    """So many connections on this stream, each with its first event, and the two bad ones."""
    configuration: dict[str, Any] = {
        "url": url,
        "connections": connections,
        "loop": FASTEST,
        "cores": sorted(cores),
    }
    async with child("benchmarks.sse_readers", configuration) as process:
        await process.line()
        yield Readers(process)


if __name__ == "__main__":
    run_child(_main)
