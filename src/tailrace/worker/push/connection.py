"""One connection to a server: one request and one response at a time, parsed by llhttp as it arrives."""

import asyncio
import re
import select
from typing import Final, Protocol, cast

import httpx2
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tailrace.worker.push.body import Answer, Body

#: The most that may come without a byte of body: heads, interim responses, chunk extensions, trailers.
_OVERHEAD_BYTES: Final = 64 * 1024
#: A longer request is written in pieces of this size, as the server takes them.
_WRITE_BYTES: Final = 256 * 1024
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY: Final = frozenset({204, 304})


class Keeper(Protocol):
    """Who knows all connections that came about."""

    buffer: memoryview
    """What all of them read into. One event loop reads one connection at a time, and nothing is left in it after that."""

    def freed(self, connection: "Connection") -> None:
        """It can take the next request."""
        ...

    def lost(self, connection: "Connection") -> None: ...


class Connection(asyncio.BufferedProtocol):
    """Give it one request at a time, by `exchange`. It tells its keeper when it is free again, and when it is gone.

    It reads into a buffer that stays: asyncio's other way is to allocate 256 KiB for each read, and where malloc takes
    those from the system (glibc does, in small processes) a piece costs 15 us instead of 5 (1,000 streams x 10/s).
    """

    def __init__(self, keeper: Keeper, origin: bytes) -> None:
        self.origin = origin
        """Where its requests may go to."""
        self._keeper, self._buffer = keeper, keeper.buffer
        self._transport: asyncio.Transport | None = None
        self._gone = False
        self._request: httpx2.Request | None = None
        self._parser: HttpResponseParser | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._body: Body | None = None
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._reason = b""
        self._pieces: list[bytes] = []
        self._overhead = 0
        self._refusal: str | None = None
        self._complete = self._keep_alive = self._until_close = self._sent = False
        self._paused = self._full = False
        self._room: asyncio.Future[None] | None = None
        # Called by the parser, straight: a piece of body costs no frame of Python.
        self.on_body = self._pieces.append

    async def exchange(self, request: httpx2.Request, head: bytes, content: bytes) -> Answer:
        """Send a request, and wait for the response's head. Closed unless it succeeds.

        A server may answer before it has read all: the rest of the request is not sent then.

        Raises: httpx2.ReadError if the connection is lost, httpx2.RemoteProtocolError if the response is not HTTP/1.
        """
        self._request = request
        self._complete = self._keep_alive = self._until_close = self._sent = False
        self._headers, self._reason, self._overhead, self._refusal = [], b"", 0, None
        self._pieces.clear()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._parser = HttpResponseParser(self)
        # As browsers and aiohttp do: there are servers that end lines with LF, or put a space behind a chunk's size.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        try:
            await self._send(head, content, answer)
            return await answer
        except BaseException:
            self.abort()
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen: else the event loop reports it when a cancellation was faster
            raise

    def gone(self) -> bool:
        """Whether it is closed, or closing."""
        return self._gone or self._transport is None or self._transport.is_closing()

    def idle(self) -> bool:
        """Whether it can take a request: no server has closed it, or said something unasked."""
        if self.gone() or self._transport is None:
            return False
        # The event loop may not have come to it yet: what can be read from an idle connection is an end, or of no use.
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close at once; whoever waits for a response, or for more of one, gets a ReadError."""
        self._end(httpx2.ReadError("the transport was closed", request=self._request))
        self.abort()

    def abort(self) -> None:
        """Close at once. Nobody is told but the keeper, soon after."""
        self._gone = True
        self._body = self._parser = None
        if self._answer is not None:
            self._answer.cancel()
        if self._transport is not None:
            self._transport.abort()

    # What a body asks for.

    def pause_reading(self) -> None:
        if not (self._paused or self._gone) and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._gone and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def let_go(self) -> None:
        if self._complete:
            self._release()
        else:
            self.abort()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # a word of the event loop
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        parser = self._parser
        if parser is None:
            self.abort()  # nobody has asked
            return
        fault: httpx2.RemoteProtocolError | None = None
        try:
            parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade) as error:
            # Behind a whole response it is no fault of that.
            self._keep_alive = False
            if not self._complete:
                fault = self._fault(self._refusal or str(error))
                fault.__cause__ = error
        body = self._body
        if body is not None and (pieces := self._pieces):
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._overhead = 0
            try:
                body.take(piece)
            except Exception as error:
                body.fail(error)
            if self._body is not body:
                return  # it was closed meanwhile
        else:
            self._overhead += nbytes
            if self._overhead > _OVERHEAD_BYTES and fault is None and not self._complete:
                fault = self._fault(f"more than {_OVERHEAD_BYTES} bytes of headers")
        if fault is not None:
            self._end(fault)
            self.abort()
        elif self._complete and body is not None:
            self._release()
            body.end(None)

    def eof_received(self) -> None:
        self._closed_by_peer(None)
        # Not a mere close: that would first write what is left of the request.
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._closed_by_peer(exc)
        self._parser = None
        self._keeper.lost(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._make_room()

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._complete:
            self._refuse("a second response")

    def on_status(self, status: bytes) -> None:
        if _CONTROL.search(status):  # llhttp takes them
            self._refuse("a control character in the reason")
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers is not None:  # trailers are of no use to anybody
            self._headers.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        parser, headers, answer = self._parser, self._headers, self._answer
        if parser is None or headers is None or answer is None or answer.done():
            raise ValueError("nobody waits for a response")
        status, version = parser.get_status_code(), parser.get_http_version()
        if version not in _VERSIONS:
            self._refuse(f"HTTP/{version}")
        if sum(len(name) + len(value) for name, value in headers) > _OVERHEAD_BYTES:
            self._refuse(f"more than {_OVERHEAD_BYTES} bytes of headers")
        names = {name.lower() for name, _ in headers}
        codings = [value.lower() for name, value in headers if name.lower() == b"transfer-encoding"]
        if status < 200:
            # llhttp reads bodies that some of these announce; none may have one.
            if status == 101 or codings or b"content-length" in names:
                self._refuse(f"status {status}")
            self._headers, self._reason = [], b""
            return
        if codings not in ([], [b"chunked"]):
            self._refuse("a transfer coding other than chunked")
        self._keep_alive = parser.should_keep_alive() and not (codings and version == "1.0")
        self._until_close = not (codings or b"content-length" in names or status in _WITHOUT_BODY)
        self._headers = None
        self._overhead = 0
        self._body = Body(self)
        answer.set_result(Answer(status, self._reason, version, headers, self._body))
        self._make_room()

    def on_message_complete(self) -> None:
        self._complete = self._body is not None  # else it was an interim response

    async def _send(self, head: bytes, content: bytes, answer: asyncio.Future[Answer]) -> None:
        transport = self._transport
        if self.gone() or transport is None:
            raise httpx2.ReadError("the connection was closed before the request", request=self._request)
        if len(content) <= _WRITE_BYTES:
            transport.write(head + content)
        else:
            transport.write(head)
            for start in range(0, len(content), _WRITE_BYTES):
                if self._full:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                else:
                    await asyncio.sleep(0)  # lets the event loop read: a server may refuse before it has all
                if answer.done():
                    return
                transport.write(content[start : start + _WRITE_BYTES])
        self._sent = True

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _release(self) -> None:
        """The response has been read to its end."""
        transport = self._transport
        # A request may hold images: an idle connection keeps none of it.
        self._body = self._parser = self._answer = self._request = None
        reusable = self._keep_alive and self._sent and transport is not None and not transport.is_closing()
        if reusable and transport is not None and transport.get_write_buffer_size() == 0:
            self.resume_reading()
            self._keeper.freed(self)
        else:
            self.abort()

    def _closed_by_peer(self, cause: Exception | None) -> None:
        # Under TLS too, without its own word for the end (close_notify): many servers leave it out, no client insists.
        if self._body is not None and self._until_close and cause is None:
            self._end(None)
            return
        where = "in the middle of the body" if self._body is not None else "before it answered"
        error = httpx2.ReadError(f"the server closed the connection {where}", request=self._request)
        error.__cause__ = cause
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        answer, body, self._body = self._answer, self._body, None
        if body is not None:
            body.end(error)
        elif answer is not None and not answer.done() and error is not None:
            answer.set_exception(error)
        self._make_room()

    def _refuse(self, what: str) -> None:
        self._refusal = what
        raise ValueError(what)  # stops the parser

    def _fault(self, what: str) -> httpx2.RemoteProtocolError:
        return httpx2.RemoteProtocolError(f"the server did not answer in HTTP/1.1: {what}", request=self._request)
