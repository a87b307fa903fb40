"""redis-py's errors in our words. The only module that knows how redis-py raises.

Everything above gets answers, BrokerUnavailable (try again) or BrokerUnsuitable (change the server).
"""

import asyncio
import ssl
from contextlib import AbstractContextManager
from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tailrace.schemas import BrokerUnavailable, BrokerUnsuitable, TailraceError

Word = str | bytes | int | float
"""A part of a command."""

#: A half-open connection must not hang for ever, a slow server not fail. Ours, around whole calls, not redis-py's
#: socket_timeout: that one goes through asyncio.wait_for, which up to Python 3.11 loses a cancellation that comes together
#: with an answer (9 of 240 lost when tried; with asyncio.timeout none), and costs 20 us a command.
ANSWER_TIMEOUT_S: Final = 15.0


#: Causes of an error that are looked into.
_DEPTH: Final = 16


def in_our_words(error: BaseException) -> TailraceError | None:
    """What an error of redis-py or of the socket below it means to a caller of ours; None if it is none of theirs."""
    if isinstance(error, TailraceError):
        return error
    # redis-py wraps what goes wrong while it connects into a connection error: asking again would not help with these.
    refusal = _inside(error, (AuthenticationError, AuthorizationError, NoPermissionError))
    if refusal is not None:
        return BrokerUnsuitable(
            f"Redis refuses this user: {refusal}",
            cure="check user and password in TAILRACE_REDIS_URL and the user's ACL (`tailrace doctor` lists what it needs)",
        )
    if isinstance(error, OutOfMemoryError):
        return BrokerUnsuitable(
            "Redis is out of memory", cure="raise maxmemory, shorten retention=, or wait for jobs to expire"
        )
    untrusted = _inside(error, (ssl.SSLCertVerificationError,))
    if isinstance(untrusted, ssl.SSLCertVerificationError):
        return BrokerUnsuitable(
            f"Redis shows a certificate that is not trusted ({untrusted.verify_message})",
            cure="name the authority that signed it (rediss://...?ssl_ca_certs=/path/to/ca.pem), and the host as the "
            "certificate does",
        )
    if isinstance(error, TryAgainError):
        return BrokerUnavailable(
            "the job's slot is between two nodes of the Redis Cluster (TRYAGAIN): try again once it has arrived. If it stays "
            "so, a resharding was left half-way: end it (CLUSTER SETSLOT, or `redis-cli --cluster fix`)"
        )
    if isinstance(error, AskError | ClusterDownError):
        return BrokerUnavailable(f"the Redis Cluster cannot answer now ({type(error).__name__}: {error})")
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


def _inside(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The error itself, or what it was made of, if it is one of these."""
    seen: BaseException | None = error
    for _ in range(_DEPTH):  # what was raised twice may be its own cause
        if seen is None or isinstance(seen, kinds):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


class Unsent(RedisConnectionError):
    """There was no connection: nothing has been sent."""


def not_carried_out(error: BaseException) -> bool:
    """Whether it is certain that nothing came of a command, and that another server may take it: this one could not be
    reached, or its cluster says that it does not serve the slot. `error`: of redis-py, or in our words."""
    said = error.__cause__ if isinstance(error, TailraceError) else error
    return isinstance(said, Unsent | ClusterDownError | TryAgainError | AskError)


def between_nodes(error: BaseException) -> bool:
    """Whether the slot of a command's keys is on its way from one node to another: it has some of them, or the two send
    askers to one another. `error`: as above."""
    return isinstance(error.__cause__ if isinstance(error, TailraceError) else error, TryAgainError | AskError)


def translated() -> AbstractContextManager[None]:
    """Errors of redis-py leave this block in our words, the cause chained; a cancellation leaves it in any case."""
    return _Translated()


class _Translated:
    # Around every command: a generator would cost more than the rest of this.
    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _cancellations()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            if _cancellations() > self._before:
                # Up to Python 3.11 asyncio.wait_for (in redis-py's sending) swallows a cancellation that comes together
                # with what it waits for: the caller would read on for ever. Source: github.com/python/cpython/issues/86296.
                raise asyncio.CancelledError
        elif isinstance(error, RedisError | OSError | TimeoutError) and not isinstance(error, TailraceError):
            ours = in_our_words(error)
            if ours is not None:
                raise ours from error


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
