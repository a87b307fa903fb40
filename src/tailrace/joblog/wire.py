"""The transport of a connection that redis-py has opened, taken over: answers are handed on where they arrive.

redis-py connects (addresses, passwords, TLS); its reading of one answer after the other is left out, and commands are
packed by hand.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, cast

import hiredis
from redis._parsers import BaseParser
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from tailrace.joblog.translation import Word

#: Bytes that are heard before others have their turn: uvloop reads on, up to 8 MB, as long as there is anything.
_TURN: Final = 128 * 1024

_OF_CLUSTERS: Final[dict[str, Callable[[str], Exception]]] = {
    "MOVED": MovedError,
    "ASK": AskError,
    "TRYAGAIN": TryAgainError,
    "CLUSTERDOWN": ClusterDownError,
}


class Wire(asyncio.Protocol):
    """A connection from now on: says commands, hears answers. The connection knows when it is over."""

    def __init__(self, transport: asyncio.Transport, writer: asyncio.StreamWriter) -> None:
        self.closed = False
        self._transport, self._loop = transport, asyncio.get_running_loop()
        #: Closes the transport when it is forgotten, and is told of the end, so that its connection can be closed too.
        self._writer, self._before = writer, transport.get_protocol()
        self._reader = hiredis.Reader(replyError=_error)
        self.heard_at = self._loop.time()
        """When anything came last, by the loop's clock."""
        self._in_turn = 0

    @classmethod
    def over(cls, connection: Any) -> Self | None:
        """On a connection of redis-py that has just connected; None if it has no streams, as fakeredis'."""
        writer: Any = getattr(connection, "_writer", None)
        if not isinstance(writer, asyncio.StreamWriter):
            return None
        transport = cast("asyncio.Transport", writer.transport)
        wire = cls(transport, writer)
        transport.set_protocol(wire)
        return wire

    @abstractmethod
    def hear(self, answer: Any) -> None:
        """Take what the server says: an answer, an exception of redis-py that is one, or a message."""

    @abstractmethod
    def lost(self, cause: Exception | None) -> None:
        """There will be no more answers (`closed_by_server` says so)."""

    def write(self, packed: bytes) -> None:
        if not self.closed:
            self._transport.write(packed)

    def abort(self) -> None:
        self.closed = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        if not self._in_turn:
            self._loop.call_soon(self._next_turn)
        self._in_turn += len(data)
        if self._in_turn > _TURN:
            self._transport.pause_reading()
        reader = self._reader
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not False:
                self.hear(answer)
        except hiredis.ProtocolError:
            self.abort()

    def _next_turn(self) -> None:
        if self._in_turn > _TURN and not self._transport.is_closing():
            self._transport.resume_reading()
        self._in_turn = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.lost(exc)
        self._before.connection_lost(exc)


def _error(text: str) -> Exception:
    """An error answer as redis-py has it; its own parser knows a cluster's words only in its own cluster client."""
    code, _, rest = text.partition(" ")
    kind = _OF_CLUSTERS.get(code)
    return kind(rest) if kind is not None else cast("Exception", cast("Any", BaseParser).parse_error(text))


def closed_by_server(cause: Exception | None) -> RedisConnectionError:
    """The error of one who still waits."""
    error = RedisConnectionError("the server closed the connection")
    error.__cause__ = cause
    return error


def pack(command: Sequence[Word]) -> bytes:
    """A command as Redis reads it. Source: redis.io/docs/latest/develop/reference/protocol-spec."""
    return b"*%d\r\n%b" % (len(command), pack_words(command))


def pack_words(words: Sequence[Word]) -> bytes:
    """Words of a command."""
    packed: list[bytes] = []
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        packed.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(packed)
