"""A connection for one caller that sends thousands of commands: packed by hand, written in one go, answers in order.

redis-py connects (addresses, passwords, TLS); its pool, retries, command objects and its reading of one answer after the
other are left out. They cost 6 to 8 us a command, this one (benchmarks, row `relay`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from tailrace.joblog.translation import ANSWER_TIMEOUT_S, Word, translated

_READ_BYTES: Final = 256 * 1024


class Pipe:
    """One connection, made at first use and again after a failure. Not for two callers at a time."""

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self._make_connection = make_connection
        self._connection: Any = None
        self._raw: _RawConnection | None = None

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The answers to packed commands, in order; an error answer is in the list as an exception of redis-py.

        Raises: BrokerUnavailable if nobody knows which of the commands were carried out, BrokerUnsuitable.
        """
        with translated():
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await self._ask(commands)
            except BaseException:
                # Answers may still be on their way: they must not be taken for those of later commands.
                await self.close()
                raise

    async def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        if self._connection is None:
            self._connection = self._make_connection()
            await self._connection.connect()
            self._raw = _raw(self._connection)
        if self._raw is not None:
            return await self._raw.ask(commands)
        connection = self._connection
        await connection.send_packed_command([b"".join(commands)], check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
        return answers

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            except (RedisError, OSError):
                return


class _RawConnection:
    """The streams of a connection that redis-py has opened, read by hiredis: all answers of a network read at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Any) -> None:
        self._reader, self._writer, self._answers = reader, writer, answers

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        self._writer.write(b"".join(commands))
        await self._writer.drain()
        gets, wanted = self._answers.gets, len(commands)
        answers: list[Any] = []
        while True:
            while len(answers) < wanted and (answer := gets()) is not False:
                if isinstance(answer, RedisConnectionError):  # LOADING, say
                    raise answer
                answers.append(answer)
            if len(answers) == wanted:
                return answers
            read = await self._reader.read(_READ_BYTES)
            if not read:
                raise RedisConnectionError("the server closed the connection")
            self._answers.feed(read)


def _raw(connection: Any) -> _RawConnection | None:
    """None: it is read as redis-py does, because it has no streams (fakeredis), or hiredis is not installed."""
    reader, writer = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
    if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
        return None
    try:
        import hiredis
        from redis._parsers import BaseParser
    except ImportError:
        return None
    return _RawConnection(reader, writer, hiredis.Reader(replyError=cast("Any", BaseParser).parse_error))


def pack(command: Sequence[Word]) -> bytes:
    """A command as Redis reads it. Source: redis.io/docs/latest/develop/reference/protocol-spec."""
    return b"*%d\r\n%b" % (len(command), pack_words(command))


def pack_words(words: Sequence[Word]) -> bytes:
    """Words of a command."""
    raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in raw])
