"""What arq asks Redis when a job begins, answered from the claim, which has told it all already.

arq reads the payload and counts the start in a transaction of its own, for each job: a round trip between a job and its
handler. The script that claims does both.
"""

from collections.abc import Callable
from typing import Any, Self

from arq.connections import ArqRedis

from tailrace.queue.claimed import Claimed
from tailrace.queue.names import JOB_PREFIX


class ClaimedPool(ArqRedis):
    """arq's pool of connections. Its transactions are those of `Worker.run_job` alone, and go nowhere."""

    def __init__(self, connection_pool: Any, claim_of: Callable[[str], Claimed]) -> None:
        super().__init__(connection_pool)
        self._claim_of = claim_of

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Any:  # noqa: ARG002 -- redis-py's names
        return _Beginning(self._claim_of)


class _Beginning:
    """The transaction in which a job begins: GET of its payload, INCR and EXPIRE of the count of its claims."""

    def __init__(self, claim_of: Callable[[str], Claimed]) -> None:
        self._claim_of = claim_of
        self._claimed: Claimed | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def get(self, key: str) -> None:
        self._claimed = self._claim_of(key.removeprefix(JOB_PREFIX))

    def incr(self, key: str) -> None: ...

    def expire(self, key: str, seconds: int) -> None: ...

    async def execute(self) -> tuple[bytes, int, bool]:
        if self._claimed is None:
            raise RuntimeError("arq begins a job by reading its payload: this arq does not; it must be 0.28")
        return self._claimed.payload, self._claimed.claims, True
