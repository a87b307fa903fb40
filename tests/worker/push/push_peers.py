"""Servers that say exactly what a test tells them, and a listener that notes what it is told."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2

from tailrace.worker.push import PushBody, PushTransport, body_of

PATIENCE_S: Final = 5.0
EMPTY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


class Line:
    """One connection, seen by the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer = reader, writer
        self.number = number
        """1 for the first connection that the peer accepted."""

    async def request(self) -> bytes:
        """A request, whole."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        return head + await self.reader.readexactly(length)

    async def say(self, *pieces: bytes) -> None:
        """Write each piece by itself, as far as the event loop lets them be seen apart."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def closed(self) -> bool:
        """Wait until the client has closed: True. False if it sends something instead."""
        try:
            return not await self.reader.read(1)
        except ConnectionError:
            return True


class Peer:
    """A server with a script."""

    def __init__(self) -> None:
        self.port = 0
        self.heard: list[bytes] = []
        """Requests, by those scripts that note them."""
        self.lines = 0
        """How many connections came."""
        self.hung_up: list[bool] = []
        """Of each script that asked at its end: whether the client closed."""
        self.host = "127.0.0.1"
        self.scheme = "http"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@asynccontextmanager
async def serving(
    script: Callable[[Line], Awaitable[object]], *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncGenerator[Peer]:
    """Run the script for each connection, which is closed when it returns. What a script raises fails the test."""
    peer = Peer()
    tasks: set[asyncio.Task[None]] = set()
    failures: list[Exception] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer.lines += 1
        try:
            await script(Line(reader, writer, peer.lines))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:
            failures.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()
            tasks.discard(task)

    server = await asyncio.start_server(connected, host, 0, ssl=tls)
    peer.host, peer.port = server.sockets[0].getsockname()[:2]
    peer.scheme = "https" if tls else "http"
    try:
        yield peer
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failures:
            raise failures[0]


def answering(*pieces: bytes, close: bool = False) -> Callable[[Line], Awaitable[object]]:
    """Each request gets the same answer, said in these pieces; then the connection is closed, or waits for the next."""

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.say(*pieces)
            if close:
                return

    return script


@asynccontextmanager
async def client_over(transport: PushTransport) -> AsyncGenerator[httpx2.AsyncClient]:
    timeout = httpx2.Timeout(None, connect=PATIENCE_S)
    async with httpx2.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
        yield client


async def opened(http: httpx2.AsyncClient, url: str, method: str = "GET", **request: bytes) -> httpx2.Response:
    """A response of which only the head has been read."""
    built = http.build_request(method, url, content=request.get("content"))
    async with asyncio.timeout(PATIENCE_S):
        return await http.send(built, stream=True)


def pushed(response: httpx2.Response) -> PushBody:
    body = body_of(response)
    assert body is not None
    return body


class Heard:
    """What a listener was told."""

    def __init__(self, response: httpx2.Response) -> None:
        self.body = pushed(response)
        self.pieces: list[bytes] = []
        self.ends: list[Exception | None] = []
        self._news = asyncio.Event()
        self.body.listen(self._bytes, self._end)

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces)

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.text:
                self._news.clear()
                await self._news.wait()

    async def end(self) -> Exception | None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.ends:
                self._news.clear()
                await self._news.wait()
        assert len(self.ends) == 1
        return self.ends[0]

    def _bytes(self, piece: bytes) -> None:
        assert not self.ends
        self.pieces.append(piece)
        self._news.set()

    def _end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self._news.set()


async def read(http: httpx2.AsyncClient, url: str) -> bytes:
    """A whole response, read by listening. Raises: what its listener is told."""
    response = await opened(http, url)
    try:
        heard = Heard(response)
        if error := await heard.end():
            raise error
        return heard.text
    finally:
        await response.aclose()


async def pulled(http: httpx2.AsyncClient, url: str) -> bytes:
    """A whole response, read by iterating."""
    response = await opened(http, url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return b"".join([piece async for piece in response.aiter_raw()])
    finally:
        await response.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def cancelled_at_every_step(ask: Callable[[], Coroutine[Any, Any, object]], enough: Callable[[], bool]) -> None:
    """Ask and cancel, each time one turn of the event loop later: 60 times, and on until what happened is enough."""
    step = 0
    async with asyncio.timeout(4 * PATIENCE_S):
        while step < 60 or not enough():
            task = asyncio.create_task(ask())
            for _ in range(step):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            step += 1
