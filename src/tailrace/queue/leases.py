"""The two scripts that a worker calls in its loop, with types: taking jobs, and ending what was taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from tailrace.queue.names import IN_PROGRESS_PREFIX, JOB_PREFIX, RETRY_PREFIX
from tailrace.queue.redispy import Script
from tailrace.queue.scripts import CLAIM_LUA, SETTLE_LUA
from tailrace.schemas.keys import Keys

_TOLD: Final = 5
"""What the script tells of each job."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One job that is leased to us now."""

    queued_id: str
    score: float
    """What its place in the queue was: when it was due, or when the lease that ran out ended."""
    payload: bytes
    claims: int
    """How often it was claimed, with this time."""
    queue: str
    """The queue that it is in, as `Keys.queue_of` spells it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one look at the queue brought."""

    wait_ms: int | None
    """Until the next job is due; None if none waits."""
    queue_length: int
    """Of all the worker's queues together."""
    deadline_ms: int
    """When the new leases end (server time)."""
    taken: list[Taken]
    foreign: list[bytes]
    """Ids that were dropped because they are not this namespace's."""
    expired: list[bytes]
    """Ids that were dropped because their payload had expired."""


class Leases:
    """The queues as one worker sees them, those first that are served first. `token` names the worker: no other, not even its
    namesake, has the same."""

    def __init__(
        self, script: Callable[[str], Script], *, keys: Keys, queues: Sequence[str], token: str, lease_ms: int
    ) -> None:
        """`script` makes something to call of a source; what it calls raises RedisError or OSError."""
        self._keys = keys
        self._places = places_of(keys, queues)
        self._token = token
        self._lease_ms = lease_ms
        self._claim = script(CLAIM_LUA)
        self._settle = script(SETTLE_LUA)

    async def claim(self, limit: int) -> Claim:
        """Take up to `limit` jobs that are due. Raises: RedisError, OSError."""
        answer = await self._claim(
            self._places,
            [self._lease_ms, limit, self._token, f"{self._keys.namespace}:"],
        )
        wait_ms, queue_length, deadline_ms, taken, foreign, expired = cast(
            "tuple[int, int, int, list[Any], list[bytes], list[bytes]]", answer
        )
        return Claim(
            wait_ms=None if wait_ms < 0 else wait_ms,
            queue_length=queue_length,
            deadline_ms=deadline_ms,
            taken=[
                Taken(queued_id.decode("ascii"), float(score), payload, claims, self._places[2 * int(number)])
                for queued_id, score, payload, claims, number in (
                    taken[at : at + _TOLD] for at in range(0, len(taken), _TOLD)
                )
            ],
            foreign=foreign,
            expired=expired,
        )

    async def settle(self, queued_id: str, *, queue: str, deadline_ms: int, delay_ms: int) -> bool:
        """End a claim (DONE_MS: out of the queue, else back into it). False, and nothing touched, if it is not ours.

        `deadline_ms` is that of the last renewal. Raises: RedisError, OSError.
        """
        names = [queue, self._keys.wake_of(queue)]
        names += [prefix + queued_id for prefix in (IN_PROGRESS_PREFIX, JOB_PREFIX, RETRY_PREFIX)]
        return bool(await self._settle(names, [queued_id, self._token, deadline_ms, delay_ms]))


def places_of(keys: Keys, queues: Sequence[str]) -> list[str]:
    """The keys of queues by name, each with the words for its workers behind it."""
    return [key for name in queues for key in (keys.queue_of(name), keys.wake_of(keys.queue_of(name)))]
