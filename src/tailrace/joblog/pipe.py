"""A connection for one caller that sends thousands of commands: packed by hand, written in one go, answers in order.

redis-py connects (addresses, passwords, TLS) and parses; its pool, retries and command objects are left out. They cost
6 to 8 us a command, this one (benchmarks, row `cpu`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from tailrace.joblog.translation import ANSWER_TIMEOUT_S, Word, translated


class Pipe:
    """One connection, made at first use and again after a failure. Not for two callers at a time."""

    def __init__(self, make_connection: Callable[[], Any]) -> None:
        self._make_connection = make_connection
        self._connection: Any = None

    async def ask(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """The answers, in order; an error answer is in the list as an exception of redis-py.

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

    async def _ask(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        if self._connection is None:
            self._connection = self._make_connection()
            await self._connection.connect()
        connection = self._connection
        await connection.send_packed_command(pack(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
        return answers

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect(nowait=True)
            except (RedisError, OSError):
                return


def pack(commands: Sequence[Sequence[Word]]) -> list[bytes]:
    """Commands as Redis reads them. Source: redis.io/docs/latest/develop/reference/protocol-spec."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            raw = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return [b"".join(parts)]
