"""A gateway on a free port of loopback, in the test's own loop, over an engine of the test's; and a reader of SSE."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from fastapi import FastAPI
from sse import SseReader

from engine import Engine
from tailrace.gateway import Access, create_app
from tailrace.gateway.serving import Server, server


@dataclass
class Served:
    """A gateway that runs, and a client of it."""

    app: FastAPI
    server: Server
    url: str
    http: httpx2.AsyncClient
    engine: Engine

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)


@asynccontextmanager
async def served(engine: Engine, *, access: Access | None = None, **gateway: Any) -> AsyncGenerator[Served]:
    """A gateway over the engine's client; `gateway` are settings of the section of that name."""
    chosen = engine.settings.gateway.model_copy(update={"port": 0, **gateway})
    settings = engine.settings.model_copy(update={"gateway": chosen})
    app = create_app(settings, tailrace=engine.tailrace, access=access)
    address: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    running = server(app, settings, ready=address.set_result)
    task: asyncio.Future[Any] = asyncio.create_task(running.serve())
    try:
        await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
        if not address.done():
            await task
        url = await address
        async with httpx2.AsyncClient(base_url=url, timeout=10) as http:
            yield Served(app, running, url, http, engine)
    finally:
        running.should_exit = True
        await task


class RawReader:
    """A stream of the gateway over a bare socket: what came, and whether it ended or was cut."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.head = b""
        self.sse = SseReader()
        self.ended = False
        """The final chunk came."""

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def text(self) -> str:
        return "".join(message.json["text"] for message in self.sse.messages if message.event == "message")

    async def read(self, until: Callable[[], object] = lambda: False) -> None:
        """Take what comes until something is so, the end, or the cut."""
        async with asyncio.timeout(10):
            while not self.head:
                self.head = await self._reader.readuntil(b"\r\n\r\n")
            while not until():
                size = await self._reader.readline()
                if not size:
                    return
                chunk = (await self._reader.readexactly(int(size, 16) + 2))[:-2]
                if not chunk:
                    self.ended = True
                    return
                self.sse.feed(chunk)

    async def read_text(self, count: int) -> None:
        """Until there were so many messages."""
        await self.read(until=lambda: len(self.sse.messages) >= count)

    def leave(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def raw(gateway: Served, path: str, *headers: str, method: str = "GET") -> AsyncGenerator[RawReader]:
    """A request whose answer is read byte by byte."""
    reader, writer = await asyncio.open_connection(*gateway.address)
    lines = [f"{method} {path} HTTP/1.1", "Host: {}:{}".format(*gateway.address), *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    try:
        yield RawReader(reader, writer)
    finally:
        writer.transport.abort()
