"""Running the application on uvicorn, with what streams need of a server."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailrace.gateway.access import OpenAccess, is_loopback
from tailrace.gateway.app import create_app
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.streams import LINE, StreamBroken
from tailrace.schemas import InvalidRequest, Settings
from tailrace.telemetry.metrics_server import MetricsServer

logger = logging.getLogger(__name__)

#: How long requests may go on after the streams were dropped.
_GRACE_S: Final = 5


class _Line:
    """A connection whose response is being sent in chunks, as it is without a Content-Length."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport, self._flow = transport, flow

    def write(self, body: bytes) -> bool:
        if self._flow.write_paused or self._transport.is_closing():
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def abort(self) -> None:
        self._transport.abort()


class _Protocol(HttpToolsProtocol):
    """Offers streams a line of their own."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # In ASGI an extension is a dict; ours is nobody else's.
        self.scope["extensions"] = {LINE: _Line(self.transport, self.flow)}  # type: ignore[dict-item]


class Server(uvicorn.Server):
    """Drops the streams before it waits for requests to end: streams do not end by themselves. Leaves signals to others."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[str], object]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready
        self.stopped_by: signal.Signals | None = None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Drop the streams, give requests a moment, end. The second time: end."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.stopped_by = self.stopped_by or number

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # uvicorn's own would end the process by the signal once more, after all is done

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn has logged why
            where = f"{self.config.host}:{self.config.port}"
            raise InvalidRequest(
                f"cannot listen on {where}: if the port is taken, choose another one (--port; 0 takes a free one); "
                "is the address one of this machine's?"
            ) from None
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        gateway: Gateway = self._app.state.gateway
        gateway.streams.close()
        await super().shutdown(sockets)


class WithoutBrokenStreams(logging.Filter):
    """Keeps streams that were dropped on purpose from looking like bugs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], StreamBroken)


def server(app: FastAPI, settings: Settings, *, ready: Callable[[str], object] = lambda _: None) -> Server:
    """A server for an application of `create_app`; `ready` is told its address. `await server.serve()` runs it.

    Raises: InvalidRequest if others could reach it without a key.
    """
    gateway = settings.gateway
    if isinstance(app.state.access, OpenAccess) and not is_loopback(gateway.host):
        raise InvalidRequest(
            f"gateway.host is {gateway.host!r}, and no key is configured: whoever can reach this machine could read and "
            "cancel every job. Configure keys ([gateway.tenants]), or listen on 127.0.0.1"
        )
    log = logging.getLogger("uvicorn.error")
    if not any(isinstance(each, WithoutBrokenStreams) for each in log.filters):
        log.addFilter(WithoutBrokenStreams())
    config = uvicorn.Config(
        app,
        host=gateway.host,
        port=gateway.port,
        http=_Protocol,
        ws="websockets-sansio",
        loop="none",
        log_config=None,
        access_log=False,  # ours knows routes and tenants, and no query strings
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return Server(config, app, ready)


@asynccontextmanager
async def _metrics_port(app: FastAPI, settings: Settings) -> AsyncGenerator[None]:
    """The same metrics on a port of their own, without keys, where one is configured. Raises: InvalidRequest."""
    gateway = settings.gateway
    if gateway.metrics_port is None:
        yield
        return

    async def scrape(accept: str) -> tuple[bytes, str] | None:
        running: Gateway | None = getattr(app.state, "gateway", None)
        return None if running is None else await running.exposition.scrape(accept)

    async with MetricsServer(scrape).listening(gateway.metrics_host, gateway.metrics_port) as url:
        logger.info("metrics at %s", url)
        yield


async def serve(
    settings: Settings | None = None, *, ready: Callable[[str], object] = lambda _: None
) -> signal.Signals | None:
    """Serve until SIGTERM or Ctrl-C; which one it was. `ready` is told the address once it listens.

    Raises: InvalidRequest if the settings are wrong, others could reach it without a key, or the port is taken.
    """
    chosen = settings or Settings.load()
    app = create_app(chosen)
    running = server(app, chosen, ready=ready)
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, running.stop, number)
    try:
        async with _metrics_port(app, chosen):
            await running.serve()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    return running.stopped_by
