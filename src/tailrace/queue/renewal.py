"""Keeping leases while their jobs run: a thread of its own, so that nothing but the process's death stops it.

A handler that blocks the event loop for longer than a lease (a slow tokenizer, a debugger) would lose its job to another
worker if renewal ran in that loop.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

import redis
import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError

from tailrace.joblog.sentinel import SentinelPool
from tailrace.queue.outage import Outage
from tailrace.queue.redispy import BlockingClient, BlockingScript, typed, typed_blocking
from tailrace.queue.scripts import RENEW_LUA

logger = logging.getLogger(__name__)

_TWINS: Final[dict[type[Any], type[Any]]] = {
    Connection: redis.Connection,
    SSLConnection: redis.SSLConnection,
    UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}

_SHARED: Final = frozenset(
    {"host", "port", "path", "db", "username", "password", "credential_provider", "protocol", "client_name"}
    | {"socket_connect_timeout", "socket_keepalive", "socket_keepalive_options"}
)

RENEWALS_PER_LEASE: Final = 3
LEASES_PER_CALL: Final = 200
"""About 5 us of server time each: a millisecond at most in which nobody else is served."""


def blocking_twin(client: redis.asyncio.Redis) -> redis.Redis:
    """A blocking client for the server of `client`, with connections of its own. Close it.

    Raises: TypeError for a kind of connection that has no known twin (test doubles): then make one yourself.
    """
    pool = typed(client).connection_pool
    watched: object = pool
    if isinstance(watched, SentinelPool):
        return watched.blocking()
    kind = _TWINS.get(pool.connection_class)
    if kind is None:
        raise TypeError(f"no blocking twin is known for {pool.connection_class!r}: pass renewal_client=")
    kwargs: dict[str, Any] = {
        name: value for name, value in pool.connection_kwargs.items() if name in _SHARED or name.startswith("ssl_")
    }
    return redis.Redis.from_pool(redis.ConnectionPool(connection_class=kind, **kwargs))


class _Lease(NamedTuple):
    queue: str
    before_ms: int
    """The deadline before the last renewal: it may be in the queue still while that is on its way."""
    deadline_ms: int


class Renewal:
    """The leases that one worker holds. `hold` and `release` from any thread; `lost` is called in the renewing thread.

    A lease is known by the queued id and the number of the claim. `lost(queued_id, number)` is called once for one that is
    gone. While Redis does not answer nothing is called lost:
    if nobody else takes the job meanwhile, the lease goes on when Redis does.
    """

    def __init__(
        self,
        client: Callable[[], redis.Redis],
        *,
        lease_ms: int,
        token: str,
        worker: str,
        lost: Callable[[str, int], None],
    ) -> None:
        self._make_client = client
        self._lease_ms = lease_ms
        self._token = token
        self._worker = worker
        self._lost = lost
        self._leases: dict[tuple[str, int], _Lease] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        client = typed_blocking(self._make_client())
        self._thread = threading.Thread(
            target=self._run, args=(client,), name=f"tailrace-renewal-{self._worker}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing; waits for the thread. What is still held runs out."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def hold(self, queued_id: str, number: int, deadline_ms: int, *, queue: str) -> None:
        with self._lock:
            self._leases[queued_id, number] = _Lease(queue, deadline_ms, deadline_ms)

    def release(self, queued_id: str, number: int) -> None:
        with self._lock:
            self._leases.pop((queued_id, number), None)

    def deadline_ms(self, queued_id: str, number: int) -> int:
        """When the lease ends as far as is known (server time); 0 for one that is not held."""
        with self._lock:
            lease = self._leases.get((queued_id, number))
            return lease.deadline_ms if lease else 0

    def knows(self, queued_id: str, number: int, score: float) -> bool:
        """Was that score in the queue this lease's? The last two deadlines count: one may be renewed meanwhile."""
        with self._lock:
            lease = self._leases.get((queued_id, number))
            return lease is not None and score in (lease.before_ms, lease.deadline_ms)

    def _run(self, client: BlockingClient) -> None:
        period_s = self._lease_ms / 1000 / RENEWALS_PER_LEASE
        outage = Outage(f"worker {self._worker!r}, renewing leases", logger)
        # A reply that does not come must not cost the next renewal.
        client.connection_pool.connection_kwargs.setdefault("socket_timeout", period_s)
        script = client.register_script(RENEW_LUA)
        pause_s = period_s
        try:
            while not self._stopping.wait(pause_s):
                began = time.monotonic()
                try:
                    self._renew(script)
                except (RedisError, OSError) as error:
                    pause_s = min(outage.failed(error), period_s)
                else:
                    outage.over()
                    pause_s = max(0.0, began + period_s - time.monotonic())
        finally:
            client.close()

    def _renew(self, script: BlockingScript) -> None:
        for names, args, batch in self._calls():
            answer = cast("tuple[int, list[bytes]]", script(keys=names, args=args))
            deadline_ms, gone = answer
            self._note(batch, {queued_id.decode() for queued_id in gone}, deadline_ms)

    def _calls(self) -> list[tuple[list[str], list[str | int], list[tuple[str, int]]]]:
        """The script's keys and arguments for all that is held, and whose leases they are; each call has one queue's."""
        held: dict[str, list[tuple[tuple[str, int], int]]] = {}
        with self._lock:
            for which, lease in self._leases.items():
                held.setdefault(lease.queue, []).append((which, lease.deadline_ms))
        calls: list[tuple[list[str], list[str | int], list[tuple[str, int]]]] = []
        for queue, leases in held.items():
            for start in range(0, len(leases), LEASES_PER_CALL):
                batch = leases[start : start + LEASES_PER_CALL]
                flat = [part for (queued_id, _), known_ms in batch for part in (queued_id, self._token, known_ms)]
                calls.append(([queue], [self._lease_ms, *flat], [which for which, _ in batch]))
        return calls

    def _note(self, batch: Iterable[tuple[str, int]], gone: set[str], deadline_ms: int) -> None:
        lost: list[tuple[str, int]] = []
        with self._lock:
            for lease in batch:
                # Released while the script ran: no longer ours to speak of.
                known = self._leases.get(lease)
                if known is None:
                    continue
                if lease[0] in gone:
                    del self._leases[lease]
                    lost.append(lease)
                else:
                    self._leases[lease] = _Lease(known.queue, known.deadline_ms, deadline_ms)
        for queued_id, number in lost:
            self._lost(queued_id, number)
