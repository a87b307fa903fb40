"""One connection for all callers of an event loop: commands are packed by hand, written once per turn of the loop, and
answered in order.

redis-py's command objects, its lending of a connection for each command and its reading of one answer after the other
cost 55 us a command that is awaited alone; here 15, and 1 to 2 in a batch (benchmarks, row `relay`).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from tailrace.joblog.translation import ANSWER_TIMEOUT_S, Unsent
from tailrace.joblog.wire import Wire, closed_by_server

#: A connection that was silent for so long may have died without a word ...
_IDLE_S: Final = 5.0
#: ... so after so long without an answer another one is asked. (Every script of ours may be sent twice.)
_IDLE_ANSWER_S: Final = 2.0


class Pipe:
    """A connection of a redis-py pool, lent at first use and again after a failure."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None
        self._wire: _Answers | None = None
        self._opening = asyncio.Lock()
        self._opening_since: float | None = None
        self._one_by_one = asyncio.Lock()

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The answers to packed commands, in order; an error answer is in the list as an exception of redis-py.

        Raises: redis-py's errors, OSError, TimeoutError, if nobody knows which of the commands were carried out; Unsent.
        """
        try:
            wire = await self._open()
        except RedisConnectionError as error:
            if type(error) is not RedisConnectionError:  # refused by name: a password, a server that loads its data
                raise
            raise Unsent(str(error)) from error
        if wire is not None and wire.silent_s > ANSWER_TIMEOUT_S:
            # Whoever waited has gone: nobody else would find out that this connection is dead.
            wire.abort()
            wire = await self._open() or wire
        if wire is None:
            return await self._ask_connection(commands)
        if wire.idle_s > _IDLE_S:
            try:
                return await self._answers(wire, commands, _IDLE_ANSWER_S)
            except (TimeoutError, RedisConnectionError):
                if self.left:
                    raise
                wire = await self._open() or wire
        return await self._answers(wire, commands, ANSWER_TIMEOUT_S)

    @property
    def silent_s(self) -> float:
        """For how long somebody has been waiting for an answer, or for the connection."""
        if self._opening_since is not None:
            return asyncio.get_running_loop().time() - self._opening_since
        return 0.0 if self._wire is None else self._wire.silent_s

    @property
    def left(self) -> bool:
        """Whether the client was closed while the connection was open: asking again makes no sense."""
        return self._connection is not None and not self._connection.is_connected

    async def close(self) -> None:
        """Give the connection back, closed, if there is one."""
        connection, self._connection, self._wire = self._connection, None, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def _open(self) -> "_Answers | None":
        """The connection as it is, or a new one. None if it has no streams, as fakeredis'."""
        if self._connection is None or (self._wire is not None and self._wire.closed):
            async with self._opening:
                if self._wire is not None and self._wire.closed:
                    await self.close()
                if self._connection is None:
                    self._opening_since = asyncio.get_running_loop().time()
                    try:
                        self._connection = await self._lent()
                    finally:
                        self._opening_since = None
                    self._wire = _Answers.over(self._connection)
        return self._wire

    async def _lent(self) -> Any:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            connection = await self._pool.get_connection()
        if getattr(self._pool, "closed", False):  # also meanwhile: nobody would close this one
            await connection.disconnect(nowait=True)
            raise RedisConnectionError("the client is closed")
        return connection

    async def _answers(self, wire: "_Answers", commands: Sequence[bytes], patience_s: float) -> list[Any]:
        answers = wire.send(commands)
        timer = asyncio.get_running_loop().call_later(patience_s, _give_up, answers)
        try:
            return await answers
        except TimeoutError:
            # Whatever is on its way here will not come any more, or too late for everybody.
            wire.abort()
            raise
        finally:
            timer.cancel()

    async def _ask_connection(self, commands: Sequence[bytes]) -> list[Any]:
        connection, answers = self._connection, list[Any]()
        async with self._one_by_one:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await connection.send_packed_command([b"".join(commands)], check_health=False)
                    for _ in commands:
                        try:
                            answers.append(await connection.read_response())
                        except ResponseError as error:
                            answers.append(error)
            except BaseException:
                # Answers may still be on their way: they must not be taken for those of later commands.
                await self.close()
                raise
        return answers


class _Turn:
    """What one caller waits for."""

    __slots__ = ("answers", "future", "sent_at", "wanted")

    def __init__(self, wanted: int, future: "asyncio.Future[list[Any]]", sent_at: float) -> None:
        self.wanted, self.future, self.sent_at = wanted, future, sent_at
        self.answers: list[Any] = []


class _Answers(Wire):
    """Answers in the order of the commands. A caller that gives up loses nobody's answers."""

    def __init__(self, transport: asyncio.Transport, writer: asyncio.StreamWriter) -> None:
        super().__init__(transport, writer)
        self._turns: deque[_Turn] = deque()
        self._unsent: list[bytes] = []

    @property
    def idle_s(self) -> float:
        """For how long nothing has come, while nothing was to come."""
        return 0.0 if self._turns else self._loop.time() - self.heard_at

    @property
    def silent_s(self) -> float:
        """For how long nothing has come that was to come."""
        return self._loop.time() - max(self._turns[0].sent_at, self.heard_at) if self._turns else 0.0

    def send(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Any]]":
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.closed:
            future.set_exception(RedisConnectionError("the connection is closed"))
        elif commands:
            self._turns.append(_Turn(len(commands), future, self._loop.time()))
            if not self._unsent:
                self._loop.call_soon(self._write_all)
            self._unsent.extend(commands)
        else:
            future.set_result([])
        return future

    def hear(self, answer: Any) -> None:
        turns = self._turns
        if not turns:
            return  # said by the server of its own accord, before it closes
        turn = turns[0]
        turn.answers.append(answer)
        if isinstance(answer, ReadOnlyError):
            # It is a replica now: whoever connects anew, by name or by Sentinel, may find the primary.
            self._loop.call_soon(self.abort)
        if len(turn.answers) == turn.wanted:
            turns.popleft()
            if not turn.future.done():
                turn.future.set_result(turn.answers)

    def lost(self, cause: Exception | None) -> None:
        for turn in self._turns:
            if not turn.future.done():
                turn.future.set_exception(closed_by_server(cause))
        self._turns.clear()

    def _write_all(self) -> None:
        unsent, self._unsent = self._unsent, []
        self.write(b"".join(unsent))


def _give_up(answers: "asyncio.Future[list[Any]]") -> None:
    if not answers.done():
        answers.set_exception(TimeoutError("no answer in time"))
