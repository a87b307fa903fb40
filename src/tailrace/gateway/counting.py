"""Requests by route, method and status. Outermost: what a middleware refuses is an answer too."""

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import OTHER, Counts

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Whatever path and method somebody invents.
_NO_ROUTE: Final = "none"


class Counting:
    """Counts a request when it is over, and how long it took until its response began."""

    def __init__(self, app: ASGIApp, counts: Counts) -> None:
        self._app, self._counts = app, counts
        self._open = 0
        counts.watch(told.REQUESTS_OPEN, lambda: self._open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def counting(message: Message) -> None:
            nonlocal status
            if not status:
                status = _status(message)
                if status:
                    self._counts.distribution(told.RESPONSE, _route(scope)).observe(time.perf_counter() - began)
            await send(message)

        self._open += 1
        try:
            await self._app(scope, receive, counting)
        finally:
            self._open -= 1
            method = scope.get("method", "GET")
            # Without a status: the connection was closed before there was an answer.
            self._counts.add(
                told.REQUESTS,
                _route(scope),
                method if method in _METHODS else OTHER,
                str(status) if status else _NO_ROUTE,
            )


def _status(message: Message) -> int:
    match message["type"]:
        case "http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return 101
        case "websocket.close":
            return 403
        case _:
            return 0


def _route(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else _NO_ROUTE
