"""Servers of one job's SSE stream: tailrace's gateway by its command, and what it is compared with, as processes.

`naive`, what one would write first: Starlette's StreamingResponse, for each connection a blocked XREAD of its own and JSON
decoded and encoded. `floor`: bare sockets; the stream is read once, and each token's bytes are written to every connection.
Both answer at any path whose last part but one is the Redis Stream's name.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benchmarks.commands import command
from benchmarks.cpu import pin
from benchmarks.harness import Bench
from benchmarks.loops import FASTEST, Orders, run_child, write_at_once
from benchmarks.processes import child, say
from benchmarks.readers import naive_tokens

_PATH: Final = "/v1/jobs/{key}/stream"
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LISTEN: Final = 4096


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # a child of the benchmarks has its own

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        say("port", self.servers[0].sockets[0].getsockname()[1])


async def _naive(redis_url: str) -> None:
    async def stream(request: Request) -> StreamingResponse:
        async def events() -> AsyncGenerator[str]:
            async for text in naive_tokens(redis_url, request.path_params["key"]):
                yield f"data: {json.dumps({'text': text})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route(_PATH, stream)])
    config = uvicorn.Config(app, port=0, loop="none", log_config=None, log_level="critical", access_log=False)
    await _Server(config).serve()


class _Fan:
    """The one that reads, for all connections to one stream."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._connections: list[_Connection] = []
        self._last = b""
        self._reading: asyncio.Task[None] | None = None

    def add(self, connection: "_Connection", key: str) -> None:
        self._connections.append(connection)
        if self._last:
            connection.send(self._last)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(key))

    def discard(self, connection: "_Connection") -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    async def _read(self, key: str) -> None:
        async for text in naive_tokens(self._redis_url, key):
            event = b'id: 1-1\ndata: {"text":"%b"}\n\n' % text.encode()
            self._last = b"%x\r\n%b\r\n" % (len(event), event)
            for connection in self._connections:
                connection.send(self._last)


class _Connection(asyncio.Protocol):
    def __init__(self, fan: _Fan) -> None:
        self._fan, self._received = fan, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._fd: int = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\r\n\r\n"):
            self._transport.write(_HEAD)
            self._fan.add(self, self._received.split(b" ")[1].split(b"/")[-2].decode())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._fan.discard(self)

    def send(self, event: bytes) -> None:
        write_at_once(self._transport, self._fd, event)


async def _floor(redis_url: str) -> None:
    fan = _Fan(redis_url)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(fan), "127.0.0.1", 0, backlog=_LISTEN)
    async with server:
        say("port", server.sockets[0].getsockname()[1])
        await server.serve_forever()


_SIDES: Final = {"naive": _naive, "floor": _floor}


async def _main(orders: Orders) -> None:
    say("ready")
    await _SIDES[orders.configuration["side"]](orders.configuration["redis_url"])


# The benchmark's side.


@dataclass(frozen=True, slots=True)
class Serving:
    """A server at work."""

    pid: int
    url: str

    def stream(self, key: str) -> str:
        """The URL of a job's text."""
        return self.url + _PATH.format(key=key)


Gateway = Callable[[Bench, str, Iterable[int]], AbstractAsyncContextManager[Serving]]
"""Takes the namespace, and the cores that it may have."""


@asynccontextmanager
async def tailrace_gateway(bench: Bench, namespace: str, cores: Iterable[int]) -> AsyncGenerator[Serving]:
    async with command(bench.settings_table(namespace), "serve", "--port", "0") as served:
        pin(served.process.pid, cores)
        yield Serving(served.process.pid, served.ready["url"])


def _ours(side: str) -> Gateway:
    @asynccontextmanager
    async def serving(bench: Bench, namespace: str, cores: Iterable[int]) -> AsyncGenerator[Serving]:  # noqa: ARG001
        configuration = {"side": side, "redis_url": bench.redis_url, "loop": FASTEST, "cores": sorted(cores)}
        # Streams that are cut at the end say so in many words.
        with open(os.devnull, "wb") as errors:  # noqa: ASYNC230  # it never blocks
            async with child("benchmarks.gateways", configuration, errors=errors) as process:
                _, port = await process.line()
                yield Serving(process.pid, f"http://127.0.0.1:{port}")

    return serving


naive_gateway: Final = _ours("naive")
floor_gateway: Final = _ours("floor")


if __name__ == "__main__":
    run_child(_main)
