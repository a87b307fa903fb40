"""Playing one scripted answer over one connection, faults and all: the only I/O of the rehearsal besides listening."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from tailrace.upstreams._answer import NOT_UTF8, Choice
from tailrace.upstreams._calls import OpenCall
from tailrace.upstreams._frames import Frame, Wire
from tailrace.upstreams._script import Script

#: Type and code of OpenAI's errors by HTTP status. Source: platform.openai.com/docs/guides/error-codes.
_ERRORS: Final[Mapping[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("insufficient_permissions", "insufficient_permissions"),
    404: ("invalid_request_error", "model_not_found"),
    408: ("timeout", None),
    409: ("conflict", None),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "service_unavailable"),
}

#: After these the stream ends; the others strike once and the stream goes on.
_ENDINGS: Final = frozenset({"clean_end", "cut", "error_bare", "error_data", "error_event", "failed", "reset", "stall"})


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kind, usual = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return {"error": {"message": message, "type": kind, "param": param, "code": code or usual}}


class Player:
    """Plays a script to the client of one request. `play` returns, raises, or is cancelled when the client goes away."""

    def __init__(self, request: web.Request, call: OpenCall, script: Script) -> None:
        self._request = request
        self._call = call
        self._script = script
        self._fault = script.fault
        self._response: web.StreamResponse | None = None

    async def play(self, wire: Wire, choices: Sequence[Choice], *, stream: bool) -> web.StreamResponse:
        """Answer the request. What is returned may be closed already: aiohttp writes no more to a closed connection."""
        if self._fault is not None and self._fault not in ("endless", "huge", "no_content"):
            self._call.outcome = "broken"
        match self._fault:
            case "status":
                return self._status()
            case "refuse":
                self._hang_up()
                return web.Response()
            case "html":
                page = "<!doctype html><title>502 Bad Gateway</title><h1>Bad gateway</h1>"
                return web.Response(text=page, content_type="text/html")
            case "slow_headers":
                await asyncio.sleep(self._script.delay)
                self._fault, self._call.outcome = None, "completed"
            case _:
                pass
        return await (self._stream(wire, choices) if stream else self._whole(wire, choices))

    async def _stream(self, wire: Wire, choices: Sequence[Choice]) -> web.StreamResponse:
        response = await self._start("text/event-stream; charset=utf-8")
        loop = asyncio.get_running_loop()
        due = loop.time() + self._script.ttft
        for frame in wire.frames(choices):
            if frame.kind == "done" and self._fault == "no_done":
                break
            if frame.kind == "token":
                # Also without a pace: a tight loop must see the client go, and let others run.
                await asyncio.sleep(max(0.0, due - loop.time()))
                due += self._script.pace
            if self._strikes(frame):
                await self._strike(wire, frame)
                if self._fault in _ENDINGS:
                    return response
                self._fault = None
            else:
                await self._write(self._event(frame))
            if frame.kind == "token":
                self._call.sent()
        return response

    def _strikes(self, frame: Frame) -> bool:
        if self._fault not in _ENDINGS and self._fault not in ("malformed", "empty_data"):
            return False
        return frame.kind in ("finish", "done") or (frame.kind == "token" and self._call.tokens >= self._script.at)

    async def _strike(self, wire: Wire, frame: Frame) -> None:
        error = self._error("the rehearsal upstream failed on purpose")
        match self._fault:
            case "error_data":
                await self._write(self._lines("data: " + self._json({"error": error})))
            case "error_bare":
                await self._write(self._lines(self._json({"error": error})))
            case "error_event":
                await self._write(self._event(wire.flat_error(error, frame)))
            case "failed":
                await self._write(self._event(wire.failure(error, frame)))
            case "malformed":
                whole = self._json(frame.body)
                await self._write(self._lines("data: " + whole[: max(1, len(whole) // 2)]))
            case "empty_data":
                await self._write(self._lines("data: "))
                await self._write(self._event(frame))
            case "stall":
                await self._stall()
            case "cut":
                self._hang_up()
            case "reset":
                self._hang_up(reset=True)
            case _:
                pass

    async def _whole(self, wire: Wire, choices: Sequence[Choice]) -> web.StreamResponse:
        if self._fault == "endless":
            return await self._endless_body()
        await asyncio.sleep(self._script.ttft)
        body = wire.whole(choices)
        usage: Mapping[str, Any] = body.get("usage") or {}
        tokens = int(usage.get("completion_tokens", usage.get("output_tokens", 0)))
        await asyncio.sleep(tokens * self._script.pace)
        self._call.tokens = tokens
        if self._fault in ("error_data", "error_event", "error_bare", "failed"):
            return web.json_response({"error": self._error("the rehearsal upstream failed on purpose")})
        payload = self._encode(self._json(body))
        await self._start("application/json")
        if self._fault in ("cut", "reset", "stall", "malformed", "clean_end"):
            await self._write(payload[: len(payload) // 2])
        elif self._fault != "empty_data":
            await self._write(payload)
        if self._fault == "stall":
            await self._stall()
        if self._fault in ("cut", "reset"):
            self._hang_up(reset=self._fault == "reset")
        assert self._response is not None  # noqa: S101  # _start made it
        return self._response

    async def _endless_body(self) -> web.StreamResponse:
        await self._start("application/json")
        await self._write(b'{"choices": [{"text": "')
        while True:
            await self._write(b"for ever and ever " * 64)
            await asyncio.sleep(self._script.pace)

    def _status(self) -> web.Response:
        script = self._script
        headers = {} if script.retry_after is None else {"retry-after": f"{script.retry_after:g}"}
        body = error_body(
            script.code, f"the rehearsal upstream answers {script.code} on purpose", code=script.error_code
        )
        return web.json_response(body, status=script.code, headers=headers)

    def _error(self, message: str) -> dict[str, Any]:
        error: dict[str, Any] = error_body(500, message, code=self._script.error_code)["error"]
        return error

    async def _start(self, content_type: str) -> web.StreamResponse:
        headers = {"content-type": content_type, "x-request-id": f"req_rehearsal{self._call.serial}"}
        self._response = web.StreamResponse(headers=headers)
        self._response.enable_chunked_encoding()
        await self._response.prepare(self._request)
        return self._response

    async def _write(self, payload: bytes) -> None:
        assert self._response is not None  # noqa: S101  # _start made it
        for piece in self._pieces(payload):
            await self._response.write(piece)

    def _pieces(self, payload: bytes) -> Iterator[bytes]:
        width = self._script.split or len(payload) or 1
        for at in range(0, len(payload), width):
            yield payload[at : at + width]

    def _event(self, frame: Frame) -> bytes:
        body = frame.body if isinstance(frame.body, str) else self._json(frame.body)
        return self._lines(*([f"event: {frame.event}"] if frame.event else []), "data: " + body)

    def _json(self, body: Any) -> str:
        return json.dumps(body, ensure_ascii=self._script.ascii, separators=(",", ":"))

    def _lines(self, *lines: str) -> bytes:
        end = "\r\n" if self._script.crlf else "\n"
        comment = f": keep-alive{end}{end}" if self._script.comments else ""
        return self._encode(comment + end.join(lines) + end + end)

    def _encode(self, text: str) -> bytes:
        try:
            payload = text.encode()
        except UnicodeEncodeError:
            # A lone surrogate cannot be sent as UTF-8, but JSON can say it: `\ud800`.
            payload = text.encode(errors="backslashreplace")
        if self._script.fault == "invalid_utf8":
            payload = payload.replace(NOT_UTF8.encode(), b"\xff\xfe")
        return payload

    async def _stall(self) -> None:
        """Send nothing more and keep the connection until the client leaves, which cancels this."""
        await asyncio.get_running_loop().create_future()

    def _hang_up(self, *, reset: bool = False) -> None:
        transport = self._request.transport
        if transport is None:
            return
        if not reset:
            transport.close()
            return
        # Closing with a linger time of zero sends RST instead of FIN. Source: man 7 socket, SO_LINGER.
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
