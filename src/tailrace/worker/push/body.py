"""A response's body: pushed to whoever listens, or kept until somebody pulls it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import httpx2

#: Nobody listens and this much waits: the connection is read no further.
_KEPT_BYTES: Final = 64 * 1024


class PushBody(Protocol):
    """The body of one response, as its connection brings it. Transfer coding is taken off, content coding is not."""

    def listen(self, on_bytes: Callable[[bytes], None], on_end: Callable[[Exception | None], None]) -> None:
        """From now on: bytes as they arrive, in the event loop's reading callback; at last `on_end`, once.

        What has arrived before is handed over at once, from within this call; so is the end. `on_end` gets None if the
        body is whole, else httpx2.ReadError, httpx2.RemoteProtocolError, or what `on_bytes` raised: that ends this body
        and closes its connection. Neither is called after `close`.
        """
        ...

    def pause(self) -> None:
        """Stops reading the socket: no bytes until `resume`. The end may still come, if it was read with the last."""
        ...

    def resume(self) -> None:
        """Reads on. Safe without a `pause` before it."""
        ...

    def close(self) -> None:
        """Lets go at once. The connection is closed, unless the body has come to its end: then another request uses it.

        Safe to call twice, and from within `on_bytes`.
        """
        ...


class Source(Protocol):
    """What a body asks of its connection."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def let_go(self) -> None:
        """The body wants no more: closes the connection, or frees it if the response has been read to its end."""
        ...


class Body:
    """A `PushBody`, fed by its connection: `take` for bytes, `end` once."""

    def __init__(self, source: Source) -> None:
        self.take: Callable[[bytes], None] = self._keep
        """Where the connection hands its bytes. What it raises ends the body."""
        self._source: Source | None = source
        self._on_end: Callable[[Exception | None], None] | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._held = self._full = False
        self._ended = self._closed = self._claimed = False
        self._error: Exception | None = None
        self._news: asyncio.Future[None] | None = None

    def listen(self, on_bytes: Callable[[bytes], None], on_end: Callable[[Exception | None], None]) -> None:
        """Raises: httpx2.StreamConsumed if the body is read already."""
        self._claim()
        if self._closed:
            return
        kept = self._taken()
        self.take, self._on_end = on_bytes, on_end
        if kept:
            try:
                on_bytes(kept)
            except Exception as error:
                self.fail(error)
                return
        if self._ended:
            self._tell_end()
        else:
            self._read_on()

    async def pull(self) -> AsyncGenerator[bytes]:
        """The body, iterated. Raises: httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.StreamConsumed."""
        self._claim()
        while True:
            if kept := self._taken():
                self._read_on()
                yield kept
            elif self._closed:
                raise httpx2.StreamClosed
            elif self._ended:
                if self._error is not None:
                    raise self._error
                return
            else:
                self._news = asyncio.get_running_loop().create_future()
                await self._news

    def pause(self) -> None:
        self._held = True
        if self._source is not None:
            self._source.pause_reading()

    def resume(self) -> None:
        self._held = False
        self._read_on()

    def close(self) -> None:
        source, self._source = self._source, None
        self._closed, self._on_end, self.take = True, None, _ignore
        self._taken()
        if source is not None:
            source.let_go()
        self._wake()

    def fail(self, error: Exception) -> None:
        """What took the bytes has raised."""
        source, self._source = self._source, None
        if source is not None:
            source.let_go()
        if not self._closed:
            self._ended, self._error, self.take = True, error, _ignore
            self._tell_end()

    def end(self, error: Exception | None) -> None:
        """No more comes: the connection is in other hands by now, or closed."""
        self._source = None
        if not self._closed:
            self._ended, self._error = True, error
            self._tell_end()

    def _claim(self) -> None:
        if self._claimed:
            raise httpx2.StreamConsumed
        self._claimed = True

    def _keep(self, piece: bytes) -> None:
        self._kept.append(piece)
        self._kept_bytes += len(piece)
        if self._kept_bytes >= _KEPT_BYTES and not self._full and self._source is not None:
            self._full = True
            self._source.pause_reading()
        self._wake()

    def _taken(self) -> bytes:
        kept = b"".join(self._kept)
        self._kept.clear()
        self._kept_bytes = 0
        return kept

    def _read_on(self) -> None:
        self._full = False
        if not self._held and self._source is not None:
            self._source.resume_reading()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _tell_end(self) -> None:
        self._wake()
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        try:
            on_end(self._error)
        except Exception as error:
            # Not into the event loop's reading callback: that would take the connection, which may be another's by now.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the reader of an HTTP body raised at its end", "exception": error}
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of a response, and its body to come."""

    status: int
    reason: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    body: Body


def _ignore(_: bytes) -> None: ...
