"""A TCP proxy on the loopback that breaks connections in the ways networks do.

async with Proxy(server_port) as proxy:
    url = proxy.url(server.tcp_url)
    proxy.reset()                 # what is in flight is lost, both sides get an RST
    proxy.cut_replies(1, keep=3)  # the next reply stops after 3 bytes, then the connection is reset
    proxy.half_open()             # connections that are open now swallow everything for ever; new ones work
    proxy.delay_s = 0.15          # each way
    await proxy.refuse()          # nobody listens ...
    await proxy.accept()          # ... and again
    proxy.hold() / proxy.release()  # nothing passes, nothing is lost
    proxy.lead_to(port)           # a failover: connections end, new ones go elsewhere
"""

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"
PIECE: Final = 64 * 1024


class _Link:
    """One client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.dead = False
        """Half open: whatever comes is thrown away, nobody is told."""

    def reset(self) -> None:
        for writer in (self.client, self.server):
            connection = writer.get_extra_info("socket")
            if connection is not None and not writer.transport.is_closing():
                # A linger time of zero makes the close an RST. Source: man 7 socket, SO_LINGER.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Stands before the server on `target` (a loopback port)."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.delay_s = 0.0
        self.port = 0
        self.connections = 0
        """How many were accepted so far."""
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._cuts = 0
        self._keep = 0
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._flowing.set()
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, server_url: str) -> str:
        """The server's TCP URL, by way of this proxy."""
        found, count = re.subn(r"@[^/]+/", f"@{LOOPBACK}:{self.port}/", server_url)
        assert count == 1, f"{server_url} has no host and port"
        return found

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def reset(self) -> None:
        """End all connections by RST; new ones work."""
        for link in list(self._links):
            link.reset()

    def half_open(self) -> None:
        """What is sent on the connections that are open now goes nowhere, and they never end by themselves."""
        for link in self._links:
            link.dead = True

    def cut_replies(self, count: int, *, keep: int) -> None:
        """The next `count` pieces from the server end after `keep` bytes, their connections with them."""
        self._cuts, self._keep = count, keep

    @property
    def cuts_left(self) -> int:
        return self._cuts

    def hold(self) -> None:
        """Let nothing pass, either way; lose nothing."""
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    async def refuse(self) -> None:
        """End all connections and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self.reset()

    async def accept(self) -> None:
        """Listen, on the same port as before."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._connected, LOOPBACK, self.port, backlog=1024)
            self.port = self._listener.sockets[0].getsockname()[1]

    def lead_to(self, target: int) -> None:
        """Send new connections to another server, and end the old ones."""
        self._target = target
        self.reset()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._pass_on(reader, writer), name="fault-proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, to_server)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, reader, to_server, lambda piece: piece))
                group.create_task(self._pump(link, from_server, writer, self._cut))
        except* (OSError, _Over):
            pass
        finally:
            # In order, unless it was reset before: an RST would throw away what the kernel still holds.
            writer.close()
            to_server.close()
            self._links.discard(link)

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[bytes], bytes],
    ) -> None:
        """Pass on until one side ends, which ends both."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due, piece = await waiting.get()
                await asyncio.sleep(due - loop.time())
                await self._flowing.wait()
                if link.dead:
                    continue
                changed = change(piece)
                writer.write(changed)
                await writer.drain()
                if changed != piece or not piece:
                    raise _Over

        async def receive() -> None:
            while piece := await reader.read(PIECE):
                waiting.put_nowait((loop.time() + self.delay_s, piece))
            if link.dead:
                await loop.create_future()
            waiting.put_nowait((loop.time() + self.delay_s, b""))

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            group.create_task(receive())

    def _cut(self, piece: bytes) -> bytes:
        if self._cuts and len(piece) > self._keep:
            self._cuts -= 1
            return piece[: self._keep]
        return piece


class _Over(Exception):
    """One side of a link has ended."""
