"""A proxy: it tunnels, and it forwards what is asked of it by whole URLs."""

import asyncio
import contextlib
from urllib.parse import urlsplit

from push_peers import Line


class Proxy:
    """A script for a peer, with notes of what it was asked."""

    def __init__(self, *, credentials: bytes | None = None) -> None:
        self.heads: list[bytes] = []
        self._credentials = credentials

    async def __call__(self, line: Line) -> None:
        while True:
            request = await line.request()
            head = request.partition(b"\r\n\r\n")[0]
            self.heads.append(head)
            if self._credentials is not None and b"Proxy-Authorization: Basic " + self._credentials not in head:
                await line.say(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwho?")
                continue
            method, target, _ = head.split(b"\r\n")[0].split(b" ")
            if method == b"CONNECT":
                host, _, port = target.decode().rpartition(":")
                await self._pump(line, host, int(port), b"", b"HTTP/1.1 200 Connection established\r\n\r\n")
                return
            url = urlsplit(target.decode())
            there = request.replace(target, url.path.encode() or b"/", 1)
            await self._pump(line, url.hostname or "", url.port or 80, there, b"")
            return

    async def _pump(self, line: Line, host: str, port: int, there: bytes, back: bytes) -> None:
        reader, writer = await asyncio.open_connection(host.strip("[]"), port)
        try:
            writer.write(there)
            line.writer.write(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(line.reader, writer))
                both.create_task(_copy(reader, line.writer))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()
