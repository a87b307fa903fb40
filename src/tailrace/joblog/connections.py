"""The broker: one process's connections to Redis, and redis-py's errors in our words.

The only module that knows how redis-py raises. Everything above asks `Broker` and gets answers, BrokerUnavailable (try
again) or BrokerUnsuitable (change the server).
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tailrace.schemas import BrokerUnavailable, BrokerUnsuitable, InvalidRequest, TailraceError

Word = str | bytes | int | float

_CONNECT_TIMEOUT_S: Final = 5.0
#: redis-py 8 has 5 s by default, 5 has none: a half-open connection must not hang for ever, a slow server not fail.
_ANSWER_TIMEOUT_S: Final = 15.0
_MAX_CONNECTIONS: Final = 32

#: Lets a script write although the server is over maxmemory: an end must always find a place.
_ALLOW_OOM: Final = "#!lua flags=allow-oom\n"


def in_our_words(error: BaseException) -> TailraceError | None:
    """What an error of redis-py or of the socket below it means to a caller of ours; None if it is none of theirs."""
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return BrokerUnsuitable(
            f"Redis refuses this user: {error}",
            cure="check user and password in TAILRACE_REDIS_URL and the user's ACL (`tailrace doctor` lists what it needs)",
        )
    if isinstance(error, OutOfMemoryError):
        return BrokerUnsuitable(
            "Redis is out of memory", cure="raise maxmemory, shorten retention=, or wait for jobs to expire"
        )
    if isinstance(error, RedisConnectionError | RedisTimeoutError | ReadOnlyError | OSError | TimeoutError):
        return BrokerUnavailable(
            f"Redis does not answer: {str(error) or type(error).__name__}. Is it running, and is TAILRACE_REDIS_URL right?"
        )
    if isinstance(error, ResponseError):
        text = str(error)
        if text.startswith(("LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS")):
            return BrokerUnavailable(f"Redis cannot answer now: {text}")
        if text.startswith(("OOM", "MISCONF")) or "OOM command not allowed" in text:
            return BrokerUnsuitable(f"Redis refuses writes: {text}", cure="free memory or disk space on the server")
        return BrokerUnsuitable(f"Redis refuses a command: {text}", cure="run `tailrace doctor`")
    if isinstance(error, RedisError):
        return BrokerUnavailable(f"Redis does not answer as expected: {error}")
    return None


@contextmanager
def translated() -> Generator[None]:
    """Errors of redis-py leave this block in our words, the cause chained; a cancellation leaves it in any case."""
    before = _cancellations()
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        ours = in_our_words(error)
        if ours is None or isinstance(error, TailraceError):
            raise
        raise ours from error
    if _cancellations() > before:
        # Up to Python 3.11 asyncio.wait_for (in redis-py's sending) swallows a cancellation that comes together with
        # what it waits for: the caller would read on for ever. Source: github.com/python/cpython/issues/86296.
        raise asyncio.CancelledError


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class Script:
    """A Lua script, named on the wire by its digest."""

    def __init__(self, source: str, *, allow_oom: bool = False) -> None:
        #: The same without flags, for a server that knows none.
        self.plain = Script(source) if allow_oom else self
        self.source = _ALLOW_OOM + source if allow_oom else source
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Subscription(Protocol):
    """What we use of redis-py's PubSub."""

    async def subscribe(self, *channels: str) -> None: ...
    async def unsubscribe(self, *channels: str) -> None: ...
    async def get_message(
        self, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0
    ) -> dict[str, Any] | None: ...
    async def aclose(self) -> None: ...


class Broker:
    """One process's view of a Redis server. Wraps a redis-py client (answers as bytes) that its opener closes."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._knows_flags = True

    async def call(self, *command: Word) -> Any:
        """One command's answer, as redis-py parses it."""
        with translated():
            return await cast("Any", self.redis).execute_command(*command)

    async def many(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """The answers of commands sent in one write; an error answer is in the list as an exception of redis-py."""
        with translated():
            pipeline = cast("Any", self.redis.pipeline(transaction=False))
            async with pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute(raise_on_error=False))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """A script's answer. It is loaded where the server does not know it."""
        with translated():
            try:
                return await self._run(script if self._knows_flags else script.plain, keys, args)
            except ResponseError as error:
                # fakeredis knows no flags. (A server that is too old says so to `require_suitable`.)
                if script.plain is script or "near '#'" not in str(error):
                    raise
                self._knows_flags = False
                return await self._run(script.plain, keys, args)

    async def run_many(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Word]]]) -> list[Any]:
        """The answers of one script for many keys and arguments, sent in one write; as `many`."""
        await self.load(script)
        answers = await self.many([["EVALSHA", script.sha, len(keys), *keys, *args] for keys, args in calls])
        for number, ((keys, args), answer) in enumerate(zip(calls, answers, strict=True)):
            if isinstance(answer, NoScriptError):  # forgotten since: SCRIPT FLUSH, or another server took over
                try:
                    answers[number] = await self.run(script, keys, args)
                except TailraceError as error:
                    answers[number] = error
        return answers

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        redis = cast("Any", self.redis)
        try:
            return await redis.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.execute_command("EVAL", script.source, len(keys), *keys, *args)

    async def load(self, script: Script) -> None:
        """Make the server know a script, for callers that send EVALSHA by themselves."""
        await self.call("SCRIPT LOAD", script.source)

    async def now_ms(self) -> int:
        """The server's clock."""
        seconds, micros = await self.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def subscription(self) -> Subscription:
        """A pub/sub connection of its own; close it."""
        return cast("Subscription", cast("Any", self.redis).pubsub())


def connect(url: str) -> Redis:
    """A redis-py client for this URL with our timeouts. Opens no connection yet; close it with `aclose`.

    Raises: InvalidRequest if the URL is none that redis-py knows.
    """
    try:
        pool = cast("Any", BlockingConnectionPool).from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=None,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_ANSWER_TIMEOUT_S,
            protocol=2,
            decode_responses=False,
            # Every script of ours may be sent twice, so one retry (of a connection that went stale) is safe.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        )
    except ValueError as error:
        raise InvalidRequest(
            f"TAILRACE_REDIS_URL is no Redis URL ({error}): write redis://[user:password@]host:port/db, rediss://... or unix://..."
        ) from None
    if pool.connection_kwargs["protocol"] != 2 or pool.connection_kwargs["decode_responses"]:
        raise InvalidRequest(
            "TAILRACE_REDIS_URL sets protocol= or decode_responses=: leave them out, tailrace chooses them"
        )
    return Redis.from_pool(pool)


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Broker]:
    """A broker whose connections are closed at the end of the block."""
    redis = connect(url)
    try:
        yield Broker(redis)
    finally:
        await redis.aclose()
