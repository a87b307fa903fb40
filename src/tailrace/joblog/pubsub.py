"""A connection for messages: what is published comes to a callback, in order, where it arrives on the socket."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from redis.exceptions import MovedError, RedisError

from tailrace.joblog.tasks import end
from tailrace.joblog.translation import ANSWER_TIMEOUT_S, Word
from tailrace.joblog.wire import Wire, closed_by_server, pack

#: Takes a message as RESP2 has it: `[b"message", channel, payload]`, `[b"subscribe", channel, count]` ..., or a MovedError, of
#: a channel that another server has. Must not wait.
Take = Callable[[Any], None]


class PubSub(Protocol):
    """Made by `Broker.pubsub`. Its errors are redis-py's, from `waited`."""

    def say(self, *command: Word) -> None:
        """Send a command soon; what the server answers is a message."""
        ...

    def leave(self) -> None:
        """Nothing more is wanted: `waited` returns True."""
        ...

    async def waited(self, until: float) -> bool:
        """Wait until this moment of the loop's clock, or until there will be no more messages: then True.

        Raises: redis-py's errors, if that is the server's doing.
        """
        ...

    @property
    def heard_at(self) -> float:
        """When anything came last, by the loop's clock."""
        ...

    async def close(self) -> None: ...


async def own_connection(pool: Any) -> Any:
    """A connection of redis-py as the pool makes them, but not of the pool: for one caller that waits on it for as long as it
    likes; disconnect it. A pool that leaves a primary which was replaced (`sentinel`) closes it.

    Raises: redis-py's errors, TimeoutError.
    """
    # RESP2, whatever the client speaks: with RESP3 publications are pushes, which redis-py hands out another way.
    options = {name: value for name, value in pool.connection_kwargs.items() if "maint_notifications" not in name}
    options |= {"protocol": 2, "decode_responses": False, "socket_timeout": None}
    connection = pool.connection_class(**options)
    try:
        # redis-py bounds the connecting, not what is said then: a server that hangs takes connections.
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    beside = getattr(pool, "beside", None)
    if beside is not None:
        beside.add(connection)
    return connection


async def pubsub_of(connection: Any, take: Take) -> PubSub:
    """On a connection that has just connected, and is closed with it."""
    wire = _Messages.over(connection)
    if wire is None:
        return _Polled(connection, take)
    wire.begin(connection, take)
    return wire


class _Over:
    """Whether there will be more messages, for those who wait."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()

    def set(self, error: Exception | None = None) -> None:
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)
            self._over.exception()  # asked for: it may be that nobody waits any more

    async def waited(self, until: float) -> bool:
        if not self._over.done():
            await asyncio.wait((self._over,), timeout=max(0.0, until - self._loop.time()))
        if not self._over.done():
            return False
        self._over.result()
        return True


class _Messages(Wire):
    """Messages as they arrive on a connection's transport."""

    def begin(self, connection: Any, take: Take) -> None:
        self._connection, self._take, self._over = connection, take, _Over()

    def say(self, *command: Word) -> None:
        self.write(pack(command))

    def leave(self) -> None:
        self._over.set()

    async def waited(self, until: float) -> bool:
        return await self._over.waited(until)

    async def close(self) -> None:
        self._over.set()
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    def hear(self, answer: Any) -> None:
        if isinstance(answer, Exception) and not isinstance(answer, MovedError):
            self._over.set(answer)
        else:
            self._take(answer)

    def lost(self, cause: Exception | None) -> None:
        self._over.set(closed_by_server(cause))


class _Polled:
    """Messages of a connection without a transport (fakeredis), read one after the other by redis-py."""

    def __init__(self, connection: Any, take: Take) -> None:
        self._connection, self._take, self._over = connection, take, _Over()
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._commands: asyncio.Queue[Sequence[Word]] = asyncio.Queue()
        self._tasks = {
            asyncio.create_task(self._read(), name="tailrace-pubsub-read"),
            asyncio.create_task(self._send(), name="tailrace-pubsub-send"),
        }

    def say(self, *command: Word) -> None:
        self._commands.put_nowait(command)

    def leave(self) -> None:
        self._over.set()

    async def waited(self, until: float) -> bool:
        return await self._over.waited(until)

    async def close(self) -> None:
        self._over.set()
        await end(self._tasks)
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def _send(self) -> None:
        while True:
            command = await self._commands.get()
            try:
                await self._connection.send_command(*command)
            except (RedisError, OSError) as error:
                self._over.set(error)
                return

    async def _read(self) -> None:
        while True:
            try:
                message = await self._connection.read_response(disconnect_on_error=False)
            except (RedisError, OSError) as error:
                self._over.set(error)
                return
            self.heard_at = self._loop.time()
            self._take(message)
