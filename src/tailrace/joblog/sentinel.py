"""A server that Sentinels watch: every connection asks them first who the primary is.

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

from tailrace.joblog.addresses import split_hosts

logger = logging.getLogger(__name__)

_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
#: A Sentinel that does not answer must not keep one from asking the next.
_SENTINEL_TIMEOUT_S: Final = 1.0
#: How often they are asked, beside every new connection.
_LOOK_S: Final = 1.0


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

    async def keep_to_primary(self) -> None:
        """Leave a primary that was replaced, until cancelled: one that hangs does not say so."""
        pool = cast("Any", self)
        while True:
            await asyncio.sleep(_LOOK_S)
            before = pool.master_address
            if before is None:
                continue  # nobody has asked for it yet
            with suppress(RedisError, OSError):
                if await pool.get_master_address() != before:
                    logger.info("Sentinel: %s is at another address now", self._primary.name)
                    # Also what is in use, and waits for answers; whoever uses it connects again.
                    await cast("Any", super()).disconnect(inuse_connections=True)

    def blocking(self) -> redis.Redis:
        """A blocking client of the same primary, with connections of its own. Close it."""
        primary = self._primary
        manager = cast("Any", redis.sentinel.Sentinel)(list(primary.sentinels), sentinel_kwargs=primary.for_sentinels)
        kwargs: dict[str, Any] = {
            name: value
            for name, value in cast("dict[str, Any]", cast("Any", self).connection_kwargs).items()
            if name.startswith("ssl_") or name in {"db", "username", "password", "protocol", "socket_connect_timeout"}
        }
        pool = cast("Any", redis.sentinel.SentinelConnectionPool)(primary.name, manager, ssl=primary.tls, **kwargs)
        return redis.Redis(connection_pool=pool)
