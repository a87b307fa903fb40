"""The response that sends a stream: events as they come, heartbeats in between, and no end where there is none."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final, Literal, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.gateway.errors import RETRY_AFTER_S, ApiError, StreamBroken
from tailrace.gateway.streams.channels import Source
from tailrace.gateway.streams.frames import Wire, sse_comment, sse_retry
from tailrace.joblog.tasks import end
from tailrace.schemas import GatewaySettings
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Counts

logger = logging.getLogger(__name__)

MEDIA_TYPES: Final[Mapping[Wire, str]] = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}

#: The ASGI extension in which our own server offers a `Line`.
LINE: Final = "tailrace.line"

_HEARTBEATS: Final[Mapping[Wire, bytes]] = {"sse": sse_comment(), "ndjson": b"\n"}

_Outcome = Literal["ended", "left", "stalled", "closing"]


class Line(Protocol):
    """What our own server can do beside ASGI. With another server streams do without."""

    def write(self, body: bytes) -> bool:
        """Send a part of the body at once; False if its reader is behind: `send` it, which waits.

        Through all layers of the application it takes a quarter more CPU (1,000 readers of one job).
        """
        ...

    def abort(self) -> None:
        """Cut the connection. Closing it would wait until its reader has taken what is buffered."""
        ...


class Streams:
    """The streams that are open in this process."""

    def __init__(self, settings: GatewaySettings, counts: Counts | None = None) -> None:
        self.settings = settings
        self._counts = counts or Counts(told.GATEWAY)
        self.closing = False
        self._open = set[EventStream]()

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Drop all connections without an end: the clients come back, to whoever is there then."""
        self.closing = True
        for stream in self._open:
            stream.look_up()

    def add(self, stream: "EventStream") -> None:
        self._open.add(stream)

    def discard(self, stream: "EventStream", outcome: str) -> None:
        self._open.discard(stream)
        self._counts.add(told.STREAMS_ENDED, outcome)


class EventStream(Response):
    """Sends what a source gives, in chunks, until its end; whatever else happens, the connection is dropped without one.

    The source is opened before the response begins: what it raises then is answered like any error.
    """

    def __init__(
        self,
        source: AbstractAsyncContextManager[Source],
        streams: Streams,
        *,
        wire: Wire = "sse",
        retry: bool = True,
        headers: Mapping[str, str] | None = None,
        on_leave: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`on_leave` is called when the client goes away before the end (not when it is dropped). `retry`: whether to say how
        long to wait before coming back; the packages of OpenAI take that for an event without data."""
        # X-Accel-Buffering: nginx would hold events back until it has some kilobytes of them.
        shared = {
            "Content-Type": MEDIA_TYPES[wire],
            "Cache-Control": "no-store, no-transform",
            "X-Accel-Buffering": "no",
        }
        super().__init__(headers={**shared, **(headers or {})})
        del self.headers["content-length"]
        self._source, self._streams, self._on_leave = source, streams, on_leave
        self._wire: Wire = wire
        self._retry = retry
        self._sending_since: float | None = None
        self._sent_at = 0.0
        self._ended = False
        self._waiting: asyncio.Timeout | None = None
        self._line: Line | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._streams.closing:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            raise ApiError(503, "the gateway is closing: come back", code="closing", headers=headers)
        async with self._source as source:
            self._line = scope.get("extensions", {}).get(LINE)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._streams.add(self)
            sender = asyncio.create_task(self._send_all(source, send), name="tailrace-stream")
            sender.add_done_callback(lambda _: self.look_up())
            outcome: _Outcome | None = None
            try:
                outcome = await self._watch(sender, receive, send)
            finally:
                self._streams.discard(self, outcome or "broken")
                await end({sender})
        if outcome == "left" and self._on_leave is not None:
            await self._on_leave()
        elif outcome == "stalled":
            logger.warning("%s: dropped a reader that has taken nothing for %g s", scope["path"], self._stalled_s)
            if self._line is not None:
                self._line.abort()
            raise StreamBroken("its reader takes nothing")
        elif outcome == "closing":
            raise StreamBroken("the gateway is closing")

    def look_up(self) -> None:
        """Something has happened beside the waiting for the client."""
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    @property
    def _stalled_s(self) -> float:
        return self._streams.settings.stalled_s

    async def _send_all(self, source: Source, send: Send) -> None:
        if self._wire == "sse" and self._retry:
            await self._send(send, sse_retry(self._streams.settings.retry_ms))
        while (events := await source.next()) is not None:
            await self._send(send, events)
        self._ended = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, events: bytes) -> None:
        time = asyncio.get_running_loop().time
        if self._line is None or not self._line.write(events):
            self._sending_since = time()
            await send({"type": "http.response.body", "body": events, "more_body": True})
            self._sending_since = None
        self._sent_at = time()

    async def _watch(self, sender: "asyncio.Task[None]", receive: Receive, send: Send) -> _Outcome:
        """Wait until the stream is sent, or cannot be. Raises: StreamBroken."""
        time = asyncio.get_running_loop().time
        self._sent_at = time()
        while not sender.done():
            if self._streams.closing:
                return "closing"
            try:
                # What is due may be due sooner as soon as something is being sent.
                async with asyncio.timeout_at(min(self._due(), time() + self._stalled_s)) as self._waiting:
                    left = (await receive())["type"] == "http.disconnect"
            except TimeoutError:
                if not await self._keep_alive(send):
                    return "stalled"
            else:
                if left and not self._ended:
                    return "left"
            finally:
                self._waiting = None
        sender.result()
        return "ended"

    def _due(self) -> float:
        """When to look at the reader next."""
        if self._sending_since is not None:
            return self._sending_since + self._stalled_s
        return self._sent_at + self._streams.settings.heartbeat_s

    async def _keep_alive(self, send: Send) -> bool:
        """Send a heartbeat if it is time for one; False if the reader takes nothing."""
        now = asyncio.get_running_loop().time()
        if now < self._due():
            return True
        if self._sending_since is not None:
            return False
        try:
            async with asyncio.timeout(self._stalled_s):
                await self._send(send, _HEARTBEATS[self._wire])
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def generated(events: AsyncGenerator[bytes]) -> AsyncGenerator[Source]:
    """A source of what a generator yields: whole events."""
    async with aclosing(events):
        yield _Generated(events)


class _Generated:
    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        self._events = events

    async def next(self) -> bytes | None:
        return await anext(self._events, None)
