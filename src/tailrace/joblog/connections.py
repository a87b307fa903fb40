"""The broker: one process's connections to Redis."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import AskError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tailrace.joblog.pipe import Pipe
from tailrace.joblog.pubsub import PubSub, Take, own_connection, pubsub_of
from tailrace.joblog.sentinel import SentinelPool, is_sentinel, watched
from tailrace.joblog.translation import Unsent, Word, translated
from tailrace.joblog.wire import pack
from tailrace.schemas import InvalidRequest, TailraceError

_CONNECT_TIMEOUT_S: Final = 5.0
_MAX_CONNECTIONS: Final = 32
_RETRY_PAUSE_S: Final = 0.02

#: Lets a script write although the server is over maxmemory: an end must always find a place.
_ALLOW_OOM: Final = "#!lua flags=allow-oom\n"


#: Where a pool keeps the pipe that all its brokers share.
_SHARED: Final = "tailrace_pipe"


class Script:
    """A Lua script, named on the wire by its digest."""

    def __init__(self, source: str, *, allow_oom: bool = False) -> None:
        self._given = source, allow_oom
        #: The same without flags, for a server that knows none.
        self.plain = Script(source) if allow_oom else self
        self.source = _ALLOW_OOM + source if allow_oom else source
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def sharded(self) -> "Script":
        """The same for a cluster, where channels belong to slots as keys do."""
        source, allow_oom = self._given
        return Script(source.replace("'PUBLISH'", "'SPUBLISH'"), allow_oom=allow_oom)


class Broker:
    """One process's view of a Redis server. Wraps a redis-py client (answers as bytes) that its opener closes.

    A broker of several servers (`cluster`) has a `place` for each key, which others take back; here it is "".
    Its calls raise BrokerUnavailable (try again) or BrokerUnsuitable (change the server), nothing of redis-py's.
    """

    def __init__(self, redis: Redis, *, queue: "Broker | None" = None) -> None:
        """`queue`: the server of the queue and of all that is not one job's, where it is another."""
        self.redis = redis
        self._queue = queue
        self._knows_flags = True

    @property
    def queue(self) -> "Broker":
        """The server of the queue, the indexes, the hand-off and the control channels; mostly this one."""
        return self._queue or self

    @property
    def apart(self) -> bool:
        """Whether that is another server: then no script can write to a log and to the queue."""
        return self._queue is not None

    @property
    def parts(self) -> "Mapping[str, Broker]":
        """By place, each server that has logs as a broker of its own: for what one does on every server. As far as is known."""
        return {"": self}

    @property
    def spread(self) -> bool:
        """Whether logs are on several servers, of which some may be away. Their channels are sharded ones then."""
        return False

    def place(self, key: str) -> str:  # noqa: ARG002 -- of the other kind
        """Where this key is, as far as is known."""
        return ""

    def well(self, key: str) -> bool:  # noqa: ARG002 -- of the other kind
        """Whether the server of this key answers, as far as is known: for who may choose another key."""
        return True

    def hangs(self, key: str) -> bool:  # noqa: ARG002 -- of the other kind
        """Whether others are waiting for the server of this key, of several, for longer than who may go on without it should."""
        return False

    def form(self, script: Script) -> Script:
        """The script as these servers run it."""
        return script

    def on_change(self, call: Callable[[], None]) -> None:
        """Have this called when a key has another place."""

    def doubt(self, error: BaseException | None = None, place: str = "") -> None:
        """A server has not answered, or as one that does not have the key: look soon where it is."""

    async def look_again(self) -> None:
        """Find out now where keys are. Raises: BrokerUnavailable."""

    async def asked(self, error: AskError, packed: bytes, place: str, script: Script) -> Any:  # noqa: ARG002 -- as above
        """The answer of the server to which another one sends this command only, a script's. Raises: redis-py's errors."""
        raise error

    async def call(self, *command: Word) -> Any:
        """One command's answer, as redis-py parses it."""
        with translated():
            (answer,) = await self.answers([command])
            if isinstance(answer, Exception):
                raise answer
            return answer

    async def many(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """The answers of commands sent in one write; an error answer is in the list as an exception of redis-py."""
        with translated():
            return await self.answers(commands)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """A script's answer. It is loaded where the server does not know it."""
        script = self.form(script)
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
        answers = await self.many([["EVALSHA", self.form(script).sha, len(keys), *keys, *args] for keys, args in calls])
        for number, ((keys, args), answer) in enumerate(zip(calls, answers, strict=True)):
            if isinstance(answer, NoScriptError):  # forgotten since: SCRIPT FLUSH, or another server took over
                try:
                    answers[number] = await self.run(script, keys, args)
                except TailraceError as error:
                    answers[number] = error
        return answers

    @cached_property
    def shared_pipe(self) -> Pipe:
        """The same for all brokers of a client: a pool has not connections for any number of them."""
        pool: Any = self.redis.connection_pool
        pipe: Pipe | None = getattr(pool, _SHARED, None)
        if pipe is None:
            pipe = Pipe(pool)
            setattr(pool, _SHARED, pipe)
        return pipe

    @cached_property
    def _meanings(self) -> Mapping[Word, Callable[[Any], Any]]:
        """By command, how redis-py makes its answer of what the server says."""
        return cast("Mapping[Word, Callable[[Any], Any]]", cast("Any", self.redis).response_callbacks)

    def raw(self, source: str) -> Callable[[Sequence[str], Sequence[Word]], Awaitable[Any]]:
        """A script to call, as redis-py's `register_script` makes it: it raises redis-py's errors, OSError, TimeoutError."""
        script = Script(source)

        async def run(keys: Sequence[str], args: Sequence[Word]) -> Any:
            return await self._run(script, keys, args)

        return run

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> Any:
        (answer,) = await self.answers([("EVALSHA", script.sha, len(keys), *keys, *args)])
        if isinstance(answer, NoScriptError):
            (answer,) = await self.answers([("EVAL", script.source, len(keys), *keys, *args)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answers(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """As `many`. Every script of ours may be sent twice, so a connection that went stale or an answer that was lost
        costs a second try. Raises: redis-py's errors, OSError, TimeoutError."""
        packed = [pack(_split(command)) for command in commands]
        try:
            answers = await self.shared_pipe.ask(packed)
        except RedisConnectionError as error:
            if self.shared_pipe.left:
                raise
            lost = error
        else:
            return self._as_meant(commands, answers)
        await asyncio.sleep(_RETRY_PAUSE_S)
        try:
            answers = await self.shared_pipe.ask(packed)
        except Unsent as error:
            if isinstance(lost, Unsent):
                raise
            raise lost from error  # what came of the first time is not known
        return self._as_meant(commands, answers)

    def _as_meant(self, commands: Sequence[Sequence[Word]], answers: list[Any]) -> list[Any]:
        for number, command in enumerate(commands):
            meaning = self._meanings.get(command[0])
            if meaning is not None and not isinstance(answers[number], Exception):
                answers[number] = meaning(answers[number])
        return answers

    async def load(self, script: Script, place: str = "") -> None:  # noqa: ARG002 -- of the other kind
        """Make the server know a script, for callers that send EVALSHA by themselves."""
        await self.call("SCRIPT LOAD", self.form(script).source)

    async def now_ms(self) -> int:
        """The server's clock."""
        seconds, micros = await self.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def own_connection(self) -> Any:
        """A connection of redis-py for one caller that waits on it for as long as it likes; disconnect it.

        Raises: redis-py's errors, TimeoutError.
        """
        return await own_connection(self.redis.connection_pool)

    async def pubsub(self, take: Take, place: str = "") -> PubSub:  # noqa: ARG002 -- of the other kind
        """A connection of its own for messages; close it. Raises: redis-py's errors."""
        return await pubsub_of(await self.own_connection(), take)

    def pipe(self, place: str = "") -> Pipe:  # noqa: ARG002 -- of the other kind
        """A connection for callers that do not share one with others. It is closed with the client, or by `close`."""
        return Pipe(self.redis.connection_pool)


class _Pool(BlockingConnectionPool):
    """A pool that knows when its client was closed: what is opened after that would stay open for ever."""

    closed = False

    async def disconnect(self, inuse_connections: bool = True) -> None:
        self.closed = self.closed or inuse_connections
        await super().disconnect(inuse_connections)


def _split(command: Sequence[Word]) -> Sequence[Word]:
    """A command with its subcommand as a word of its own."""
    name = command[0]
    return [*name.split(), *command[1:]] if isinstance(name, str) and " " in name else command


def _options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": None,  # redis-py 8 would have 5 s, which breaks blocking reads
        "protocol": 2,
        "decode_responses": False,
        # Every script of ours may be sent twice, so one retry (of a connection that went stale, of a lost answer) is
        # safe. redis-py 5 takes it for commands only where it is told the errors.
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        "retry_on_error": [RedisConnectionError],
    }


def _watched_pool(url: str, name: str) -> SentinelPool:
    try:
        return SentinelPool(watched(url), **_options())
    except ValueError:
        raise InvalidRequest(
            f"{name} is no Sentinels' URL: write redis+sentinel://[user:password@]host:port[,host:port ...]/NAME[/db], or "
            "rediss+sentinel://... for TLS; NAME is what the Sentinels call the primary"
        ) from None


def connect(url: str, name: str = "TAILRACE_REDIS_URL") -> Redis:
    """A redis-py client for this URL (of the setting `name`) with our timeouts. Opens no connection yet; close it with `aclose`.

    Raises: InvalidRequest if the URL is none that redis-py knows.
    """
    if is_sentinel(url):
        return Redis.from_pool(_watched_pool(url, name))
    # redis-py before 6 checks whose certificate it is only when asked to.
    tls = {"ssl_check_hostname": True} if url.startswith("rediss://") and "ssl_cert_reqs=none" not in url else {}
    try:
        pool = cast("Any", _Pool).from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=None,
            **_options(),
            **tls,
        )
    except ValueError:
        # Without its words: a password with a slash in it is taken for the port, and quoted.
        raise InvalidRequest(
            f"{name} is no Redis URL: write redis://[user:password@]host:port/db, rediss://... or unix://... "
            "(in user and password, %40 for @, %2F for /, %23 for #, %3F for ?)"
        ) from None
    if pool.connection_kwargs["protocol"] != 2 or pool.connection_kwargs["decode_responses"]:
        raise InvalidRequest(f"{name} sets protocol= or decode_responses=: leave them out, tailrace chooses them")
    return Redis.from_pool(pool)
