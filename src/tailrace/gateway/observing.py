"""What operators hear of a request: a span and a line in the log. Of its address only the route; never its query, its body.

By OpenTelemetry's HTTP conventions: github.com/open-telemetry/semantic-conventions, docs/http/http-spans.md.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.gateway.access import Principal
from tailrace.gateway.errors import StreamBroken
from tailrace.schemas import InvalidRequest, check_job_id
from tailrace.telemetry import tracing
from tailrace.telemetry.logs import ACCESS
from tailrace.telemetry.tracing import JOB_ID

logger = logging.getLogger(ACCESS)

_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
#: Asked every few seconds by whoever watches: no spans, and lines only for who debugs.
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_JOB_HEADERS: Final = {b"x-tailrace-job-id": b"", b"location": b"/v1/jobs/"}
#: A WebSocket's answer, where the protocol has no status of its own.
_SWITCHED, _REFUSED = 101, 403


class Observed:
    """ASGI middleware; outermost, so that nothing is answered past it."""

    def __init__(self, app: ASGIApp, *, traceparent: bool = True) -> None:
        """`traceparent`: whether requests may say which trace they belong to."""
        self._app, self._traceparent = app, traceparent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = _Request(scope)

        async def told(message: Message) -> None:
            if request.status is None:
                request.answers(message)
            await send(message)

        span = tracing.NOTHING
        if tracing.tracing() and scope["path"] not in _PROBES:
            parent = tracing.received(_carried(scope)) if self._traceparent else None
            # Without a route there is no telling what the rest of the address is.
            span = tracing.start(request.method, "SERVER", {"http.request.method": request.method}, parent=parent)
        try:
            with span.entered():
                await self._app(scope, receive, told)
        except BaseException as error:
            request.broke(error)
            raise
        finally:
            request.tell(span)


class _Request:
    def __init__(self, scope: Scope) -> None:
        self._scope, self._began = scope, time.monotonic()
        method = scope.get("method", "GET")
        self.method = method if method in _METHODS else "_OTHER"
        self.status: int | None = None
        self._job_id: str | None = None
        self._error: str | None = None

    def answers(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
                self._job_id = _job_in(message.get("headers", ()))
            case "websocket.accept":
                self.status = _SWITCHED
            case "websocket.close":
                self.status = _REFUSED
            case _:
                pass

    def broke(self, error: BaseException) -> None:
        self._error = tracing.word_for(error)
        if self.status is None and isinstance(error, Exception) and not isinstance(error, StreamBroken):
            self.status = 500  # what is answered beyond us

    def tell(self, span: tracing.Span) -> None:
        route = self._route()
        level = logging.DEBUG if self._scope["path"] in _PROBES else logging.INFO
        if logger.isEnabledFor(level):
            self._log(level, route)
        if span.recording:
            self._describe(span, route)
        span.end()

    def _log(self, level: int, route: str | None) -> None:
        took_ms = round((time.monotonic() - self._began) * 1000, 1)
        logger.log(
            level,
            "%s %s %s in %.1f ms",
            self.method,
            route or "(no route)",
            self.status or self._error or "(no answer)",
            took_ms,
            extra={
                "method": self.method,
                "route": route,
                "status": self.status,
                "duration_ms": took_ms,
                "tenant": self._tenant(),
                "job_id": self._job(),
                "error_type": self._error,
            },
        )

    def _describe(self, span: tracing.Span, route: str | None) -> None:
        server = self._scope.get("server") or (None, None)
        span.set(
            {
                "http.route": route,
                "http.response.status_code": self.status,
                "url.scheme": self._scope.get("scheme"),
                "url.path": None if route is None else self._scope["path"],
                "server.address": server[0],
                "server.port": server[1],
                "network.protocol.version": self._scope.get("http_version"),
                "tailrace.tenant": self._tenant(),
                JOB_ID: self._job(),
            }
        )
        if route is not None:
            span.rename(f"{self.method} {route}")
        if self._error is not None:
            span.fail(self._error)
        elif self.status is not None and self.status >= 500:
            span.fail(str(self.status))

    def _route(self) -> str | None:
        """As it is written in the code: `/v1/jobs/{job_id}`."""
        path = getattr(self._scope.get("route"), "path", None)
        return path if isinstance(path, str) else None

    def _tenant(self) -> str | None:
        principal = self._scope.get("state", {}).get("principal")
        return principal.tenant if isinstance(principal, Principal) else None

    def _job(self) -> str | None:
        asked: Any = self._scope.get("path_params", {}).get("job_id", self._job_id)
        try:
            return None if asked is None else check_job_id(asked)
        except InvalidRequest:
            return None


def _job_in(headers: Any) -> str | None:
    """Which job an answer is about, as it tells its client."""
    for name, value in cast("list[tuple[bytes, bytes]]", headers):
        begin = _JOB_HEADERS.get(name.lower())
        if begin is not None and value.startswith(begin):
            return value[len(begin) :].decode("latin-1")
    return None


def _carried(scope: Scope) -> Mapping[str, str]:
    wanted = (b"traceparent", b"tracestate")
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in wanted}
