"""A server that Sentinels watch: every connection asks them first who the primary is, and is closed when it is another.

    redis+sentinel://[user:password@]host:port[,host:port ...]/NAME[/DB][?options]
    rediss+sentinel://...      TLS, to the Sentinels too

User and password are the server's; those of the Sentinels themselves, if they have any: `?sentinel_username=`,
`?sentinel_password=`.
Source: redis.io/docs/latest/operate/oss_and_stack/management/sentinel.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import unquote
from weakref import WeakSet

import redis
import redis.sentinel
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import RedisError
from redis.sentinel import MasterNotFoundError

from tailrace.joblog.addresses import split_hosts
from tailrace.joblog.pubsub import own_connection, pubsub_of
from tailrace.joblog.tasks import end, running

logger = logging.getLogger(__name__)

_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
#: A Sentinel that does not answer must not keep one from asking the next.
_SENTINEL_TIMEOUT_S: Final = 1.0
#: How often they are asked, beside every new connection.
_LOOK_S: Final = 1.0
#: What they say when another server is the primary: name, old host, old port, new host, new port.
_SWITCHED: Final = "+switch-master"
_PING_S: Final = 15.0
_LISTEN_AGAIN_S: Final = 1.0
#: After the first of them the others have a moment.
_MOMENT_S: Final = 0.05


def is_sentinel(url: str) -> bool:
    """Whether a URL names Sentinels."""
    return url.partition("://")[0].lower() in _SCHEMES


@dataclass(frozen=True, slots=True)
class Watched:
    """Which primary, and who is asked for it."""

    name: str
    sentinels: Sequence[tuple[str, int]]
    tls: bool
    for_sentinels: dict[str, Any] = field(repr=False)
    for_server: dict[str, Any] = field(repr=False)
    """Arguments of redis-py's connections."""


def watched(url: str) -> Watched:
    """Raises: ValueError if the URL is none."""
    scheme, _, rest = url.partition("://")
    plain = _SCHEMES[scheme.lower()]
    authority, _, tail = rest.partition("/")
    path, _, query = tail.partition("?")
    name, _, database = path.partition("/")
    login, _, hosts = authority.rpartition("@")
    if not name:
        raise ValueError("no name of a primary")
    # As redis-py understands the rest: which host does not matter.
    server = cast("dict[str, Any]", parse_url(f"{plain}://{login}{'@' if login else ''}sentinel/{database}?{query}"))
    for_sentinels: dict[str, Any] = {
        "socket_timeout": _SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
        **{option: value for option, value in server.items() if option.startswith("ssl_")},
    }
    for option in ("username", "password"):
        given = server.pop(f"sentinel_{option}", None)
        if given:
            for_sentinels[option] = unquote(given)
    tls = plain == "rediss"
    if tls:
        for_sentinels["ssl"] = True
    for option in ("host", "port", "connection_class"):
        server.pop(option, None)
    return Watched(unquote(name), split_hosts(hosts, 26379), tls, for_sentinels, server)


class SentinelPool(SentinelConnectionPool):
    """A pool that knows when its client was closed, closes its connections to the Sentinels too, and has a blocking twin."""

    closed = False

    def __init__(self, primary: Watched, **options: Any) -> None:
        self._primary = primary
        self._switched = asyncio.Event()
        self.beside = WeakSet[Any]()
        """Connections to the primary that are not the pool's."""
        given = {**primary.for_server, **options}
        manager = cast("Any", Sentinel)(list(primary.sentinels), sentinel_kwargs=primary.for_sentinels)
        kind = SentinelManagedSSLConnection if primary.tls else SentinelManagedConnection
        cast("Any", super()).__init__(primary.name, manager, connection_class=kind, **given)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        self.closed = self.closed or inuse_connections
        await cast("Any", super()).disconnect(inuse_connections)
        if inuse_connections:
            for client in cast("Any", self.sentinel_manager).sentinels:
                await client.aclose()

    async def get_master_address(self) -> tuple[str, int]:
        """Where the primary is, by the Sentinel that knows best; connections to another server are closed.

        Raises: MasterNotFoundError.
        """
        pool = cast("Any", self)
        address = await self._newest()
        if pool.master_address != address:
            known, pool.master_address = pool.master_address, address
            if known is not None:
                logger.info("Sentinel: %s is at another address now", self._primary.name)
            # Also what is in use, and waits for answers; whoever uses it connects again.
            for connection in [*pool._available_connections, *pool._in_use_connections, *self.beside]:  # noqa: SLF001 -- ours
                if connection.is_connected and (connection.host, connection.port) != address:
                    with suppress(RedisError, OSError):
                        await connection.disconnect(nowait=True)
        return address

    async def _newest(self) -> tuple[str, int]:
        """Sentinels learn of a failover one after the other, and one that was away says what it knew before: who has the
        highest epoch is believed. Raises: MasterNotFoundError."""
        manager, loop = cast("Any", self.sentinel_manager), asyncio.get_running_loop()
        asking = {asyncio.create_task(self._told_by(each), name="tailrace-sentinel") for each in manager.sentinels}
        found: list[tuple[int, tuple[str, int]]] = []
        errors: list[Exception] = []
        waiting, until = asking, loop.time() + 2 * _SENTINEL_TIMEOUT_S
        try:
            while waiting and (left_s := until - loop.time()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                for told in (task.result() for task in done):
                    if isinstance(told, Exception):
                        errors.append(told)
                    elif told is not None:
                        until = min(until, loop.time() + _MOMENT_S)
                        found.append(told)
        finally:
            await end(asking)
        if not found:
            why = f": {', '.join(map(str, errors))}" if errors else ""
            raise MasterNotFoundError(f"no Sentinel knows a primary {self._primary.name!r}{why}") from next(
                iter(errors), None
            )
        return max(found)[1]

    async def _told_by(self, sentinel: Any) -> tuple[int, tuple[str, int]] | Exception | None:
        try:
            state = (await sentinel.sentinel_masters()).get(self._primary.name)
            if not state:
                return None
            host, port = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._primary.name)
        except (RedisError, OSError) as error:
            return error
        address = host if isinstance(host, str) else host.decode(), int(port)
        # The one that carries out a failover has the epoch and the new address before its state is the new primary's.
        old = address == (state["ip"], state["port"])
        if old and not cast("Any", self.sentinel_manager).check_master_state(state, self._primary.name):
            return None
        return state["config-epoch"], address

    async def keep_to_primary(self) -> None:
        """Leave a primary that was replaced, until cancelled: one that hangs does not say so. The Sentinels say it at once;
        who did not hear that asks."""
        manager, pool = cast("Any", self.sentinel_manager), cast("Any", self)
        async with running(*(self._listen(each) for each in list(manager.sentinels))):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._switched.wait()
                self._switched.clear()
                if pool.master_address is None:
                    continue  # nobody has asked for it yet
                with suppress(RedisError, OSError):
                    await self.get_master_address()

    async def _listen(self, sentinel: Any) -> None:
        while True:
            with suppress(RedisError, OSError):
                pubsub = await pubsub_of(await own_connection(sentinel.connection_pool), self._hear)
                try:
                    pubsub.say("SUBSCRIBE", _SWITCHED)
                    pinged_at = 0.0
                    while pubsub.heard_at >= pinged_at and not await pubsub.waited(
                        max(pubsub.heard_at, pinged_at) + _PING_S
                    ):
                        pinged_at = asyncio.get_running_loop().time()
                        pubsub.say("PING")
                finally:
                    await pubsub.close()
            await asyncio.sleep(_LISTEN_AGAIN_S)

    def _hear(self, message: object) -> None:
        match message:
            case [b"message", bytes(), bytes(said)] if said.split()[:1] == [self._primary.name.encode()]:
                self._switched.set()
            case _:
                pass

    def blocking(self) -> redis.Redis:
        """A blocking client of the same primary, with connections of its own, which goes where this pool goes. For one
        thread, whichever. Close it."""
        primary = self._primary
        manager = cast("Any", redis.sentinel.Sentinel)(list(primary.sentinels), sentinel_kwargs=primary.for_sentinels)
        kwargs: dict[str, Any] = {
            name: value
            for name, value in cast("dict[str, Any]", cast("Any", self).connection_kwargs).items()
            if name.startswith("ssl_") or name in {"db", "username", "password", "protocol", "socket_connect_timeout"}
        }
        pool = cast("Any", _FollowingPool)(primary.name, manager, ssl=primary.tls, leader=self, **kwargs)
        return redis.Redis.from_pool(pool)


class _FollowingPool(redis.sentinel.SentinelConnectionPool):
    """Leaves a primary when the leader does: one that was replaced does not say so for seconds, and what is asked of it then
    is answered out of a history that nobody shares."""

    def __init__(self, name: str, manager: Any, *, leader: SentinelPool, **options: Any) -> None:
        cast("Any", super()).__init__(name, manager, **options)
        self._leader = leader
        self._followed: tuple[str, int] | None = None
        self.proxy = _FollowingProxy(self, name, manager, leader)
        cast("Any", self).connection_kwargs["connection_pool"] = self.proxy

    def get_connection(self, *args: Any, **options: Any) -> Any:
        address = cast("Any", self._leader).master_address
        if address != self._followed:
            self._followed = address
            self.disconnect()
        return cast("Any", super()).get_connection(*args, **options)


class _FollowingProxy(redis.sentinel.SentinelConnectionPoolProxy):
    """What the pool's connections ask for the primary's address."""

    def __init__(self, pool: _FollowingPool, name: str, manager: Any, leader: SentinelPool) -> None:
        cast("Any", super()).__init__(
            pool, is_master=True, check_connection=False, service_name=name, sentinel_manager=manager
        )
        self._leader = leader
        self._tried: tuple[str, int] | None = None

    def get_master_address(self) -> tuple[str, int]:
        """The leader's, once: if that was left, or does not answer, the leader may be held up, and the Sentinels are asked."""
        address: tuple[str, int] | None = cast("Any", self._leader).master_address
        if address is None or address == self._tried:
            return cast("tuple[str, int]", cast("Any", super()).get_master_address())
        self._tried = self.master_address = address
        return address
