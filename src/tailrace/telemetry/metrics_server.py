"""`GET /metrics` on a port of its own, for processes that serve no HTTP otherwise. Needs the extra `metrics`.

In the event loop, since that is where the figures are; a process whose loop is stuck does not answer, which is what a probe
should find. No keys: it listens on loopback unless it is told otherwise, and tells nothing of jobs but numbers.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from tailrace.schemas import InvalidRequest

logger = logging.getLogger(__name__)

_HEAD_LIMIT: Final = 16 * 1024
_PATIENCE_S: Final = 10.0
_MOST_CONNECTIONS: Final = 32


class MetricsServer:
    """Answers GET and HEAD of /metrics, and of /healthz with "ok"; one request a connection. Source: RFC 9112."""

    def __init__(self, scrape: Callable[[str], Awaitable[tuple[bytes, str] | None]]) -> None:
        """`scrape`: body and type for what is accepted (`Exposition.scrape`); None while there is nothing to tell yet."""
        self._scrape = scrape
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncGenerator[str]:
        """Its URL, while it answers. `port` 0: a free one. Raises: InvalidRequest if it cannot listen there."""
        try:
            server = await asyncio.start_server(self._accept, host, port, limit=_HEAD_LIMIT)
        except OSError as error:
            raise InvalidRequest(
                f"cannot serve metrics on {host}:{port}: is the port taken, or the address another machine's? ({error})"
            ) from error
        try:
            bound = server.sockets[0].getsockname()[1]
            yield f"http://[{host}]:{bound}/metrics" if ":" in host else f"http://{host}:{bound}/metrics"
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            if self._connections:
                await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="tailrace-metrics")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_PATIENCE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(head.decode("latin-1")))
                    await writer.drain()
                    writer.write_eof()
                    # Who has sent more than was read would be cut off with the answer on its way.
                    while await reader.read(_HEAD_LIMIT):
                        pass
        except Exception:
            logger.exception("metrics: a scrape failed")
        finally:
            writer.transport.abort()

    async def _answer(self, head: str) -> bytes:
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response(method, "405 Method Not Allowed", b"GET only\n", extra="Allow: GET, HEAD\r\n")
        if path == "/healthz":
            return _response(method, "200 OK", b"ok\n")
        if path != "/metrics":
            return _response(method, "404 Not Found", b"there is /metrics and /healthz\n")
        accept = ",".join(value.strip() for name, _, value in map(_parted, lines) if name.strip().lower() == "accept")
        found = await self._scrape(accept)
        if found is None:
            return _response(method, "503 Service Unavailable", b"not yet\n")
        return _response(method, "200 OK", *found)


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _response(
    method: str, status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, extra: str = ""
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if method == "HEAD" else body)
