"""Every key and channel that tailrace uses in Redis, with its time to live.

`{...}` is a cluster hash tag: all keys of a job live in one slot. The namespace is part of channel names too, because
pub/sub knows no database numbers. No other module spells a key.

| key                          | kind    | time to live                                                       |
|------------------------------|---------|--------------------------------------------------------------------|
| `<ns>:{<job>}:job`           | string  | deadline + grace + retention at submit; retention after the end     |
| `<ns>:{<job>}:log`           | stream  | the same                                                           |
| `<ns>:{<job>}:snapshot`      | string  | what the log has left                                              |
| `<ns>:{<job>}:live`          | channel |                                                                    |
| `<ns>:worker:<worker>`       | channel |                                                                    |
| `<ns>:worker:<worker>`       | string  | a few announcements of that worker (it announces itself every sweep) |
| `<ns>:workers`               | zset    | an hour; names by their last announcement                          |
| `<ns>:tasks`                 | hash    | an hour; the tasks that workers know, with their input's schema    |
| `<ns>:open`                  | zset    | that of the longest-lived job in it                                |
| `<ns>:handed`                | zset    | that of the longest-lived job in it; only where the queue has a server of its own |
| `<ns>:scrub`                 | hash    | a day from a worker's last look; only where the queue has a server of its own |
| `<ns>:ended`, `<ns>:ended:1` | stream  | that of the longest-lived job in it; where a group waits, an hour  |
| `<ns>:ended:parked:<group>`  | stream  | 30 days from the last one parked                                   |
| `<ns>:tenant:<t>:requests`   | string  | until the tenant's bucket is full again: a minute at most          |
| `<ns>:tenant:<t>:jobs`       | hash    | as long as the longest-lived job in it may run                     |
| `<ns>:queue`                 | zset    | that of the longest-lived job in it                                |
| `<ns>:queue:wake`            | list    | 60 s                                                               |
| `<ns>:queues`                | zset    | that of the longest-lived job in a queue with a name; names by when that is over |
| `<ns>:queues:<name>`         | zset    | as `<ns>:queue`                                                    |
| `<ns>:queues:<name>:wake`    | list    | 60 s                                                               |
| `arq:job:<ns>:<job>`         | string  | as the job's log; deleted when the job leaves the queue            |
| `arq:retry:<ns>:<job>`, ...  | string  | arq's own, short                                                   |
"""

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from tailrace.schemas.errors import InvalidRequest

DEFAULT_NAMESPACE: Final = "tailrace"
DEFAULT_QUEUE: Final = "default"
"""The queue of jobs that name none."""

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_GROUP = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


def check_job_id(job_id: str) -> str:
    """The id itself. Raises: InvalidRequest unless it is 1 to 128 of A-Z a-z 0-9 _ and -."""
    if not isinstance(cast("object", job_id), str) or not _JOB_ID.fullmatch(job_id):
        raise InvalidRequest(f"{job_id!r} is no job id: use 1 to 128 of the characters A-Z a-z 0-9 _ -")
    return job_id


def check_queue(name: str) -> str:
    """The name itself. Raises: InvalidRequest unless it is 1 to 64 of A-Z a-z 0-9 _ . and -."""
    if not isinstance(cast("object", name), str) or not _QUEUE.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name of a queue: use 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    return name


def queue_said(record: Mapping[str, object]) -> str:
    """The queue that a job's record names; the default one if it names none."""
    name = record.get("queue")
    return name if isinstance(name, str) and _QUEUE.fullmatch(name) else DEFAULT_QUEUE


def check_group(group: str) -> str:
    """The name itself, of a group or of a consumer in it. Raises: InvalidRequest unless it is 1 to 128 of A-Z a-z 0-9 _ . : -"""
    if not isinstance(cast("object", group), str) or not _GROUP.fullmatch(group):
        raise InvalidRequest(f"{group!r} is no name of a group: use 1 to 128 of the characters A-Z a-z 0-9 _ . : -")
    return group


def follow_up_id(incarnation: str, job_id: str) -> str:
    """The id of the job that `then=` starts: known beforehand, the same whoever starts it, for others not to be guessed."""
    return hashlib.sha256(f"{incarnation}/{job_id}/then".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one namespace, and how its hand-off is laid out: two deployments in one database do not meet."""

    namespace: str = DEFAULT_NAMESPACE
    ended_shards: int = 1
    """Over how many streams ended jobs are spread, by their ids."""
    ended_kept: int = 10_000
    """How many ended jobs each of them keeps at least for a group that comes later."""
    ended_limit: int = 100_000
    """How many it keeps at most for groups that are behind. A short entry takes some 100 bytes."""

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise InvalidRequest(f"{self.namespace!r} is no namespace: use 1 to 64 of the characters A-Z a-z 0-9 _ . -")

    def request(self, job_id: str) -> str:
        return f"{self.namespace}:{{{job_id}}}:job"

    def log(self, job_id: str) -> str:
        return f"{self.namespace}:{{{job_id}}}:log"

    def snapshot(self, job_id: str) -> str:
        return f"{self.namespace}:{{{job_id}}}:snapshot"

    def live(self, job_id: str) -> str:
        return f"{self.namespace}:{{{job_id}}}:live"

    def worker(self, worker: str) -> str:
        return f"{self.namespace}:worker:{worker}"

    @property
    def workers(self) -> str:
        return f"{self.namespace}:workers"

    @property
    def tasks(self) -> str:
        return f"{self.namespace}:tasks"

    @property
    def open(self) -> str:
        return f"{self.namespace}:open"

    @property
    def handed(self) -> str:
        """Jobs that left `open` a moment ago, until it is certain that their logs have not gone back since."""
        return f"{self.namespace}:handed"

    def handed_as(self, job_id: str, end: str = "") -> str:
        """What is in it of a job: which end was told, '' for one that left without. Another end is another entry."""
        return f"{job_id}:{end}"

    @property
    def scrub(self) -> str:
        """Which history of the queue's server the logs were last looked through for."""
        return f"{self.namespace}:scrub"

    @property
    def ended(self) -> str:
        """The first of the streams of ended jobs."""
        return f"{self.namespace}:ended"

    @property
    def ended_streams(self) -> tuple[str, ...]:
        """All of them: a group reads them together."""
        return (self.ended, *(f"{self.ended}:{shard}" for shard in range(1, self.ended_shards)))

    def ended_of(self, job_id: str) -> str:
        """The one that a job's end goes to."""
        return self.ended_streams[zlib.crc32(job_id.encode()) % self.ended_shards]

    def parked(self, group: str) -> str:
        """What a group could not handle."""
        return f"{self.ended}:parked:{group}"

    def tenant_requests(self, tenant: str) -> str:
        """When a tenant of the gateway may have its whole bucket of requests again."""
        return f"{self.namespace}:tenant:{tenant}:requests"

    def tenant_jobs(self, tenant: str) -> str:
        """The jobs of a tenant that the gateway has let in."""
        return f"{self.namespace}:tenant:{tenant}:jobs"

    @property
    def queue(self) -> str:
        """The queue of jobs that name none."""
        return f"{self.namespace}:queue"

    @property
    def wake(self) -> str:
        return self.wake_of(self.queue)

    @property
    def queues(self) -> str:
        """The names of the other queues that jobs were put into."""
        return f"{self.namespace}:queues"

    def queue_of(self, name: str) -> str:
        """The queue of that name."""
        return self.queue if name == DEFAULT_QUEUE else f"{self.queues}:{name}"

    def wake_of(self, queue: str) -> str:
        """The words for the workers of a queue, as `queue_of` spells it."""
        return f"{queue}:wake"

    def queue_name(self, queue: str) -> str:
        """The name of a queue that `queue_of` has spelt."""
        return DEFAULT_QUEUE if queue == self.queue else queue.removeprefix(f"{self.queues}:")

    def queued(self, job_id: str) -> str:
        """The id under which the queue carries a job: no prompt, no parameters."""
        return f"{self.namespace}:{job_id}"

    def job_of(self, queued: str) -> str | None:
        """The job id behind a queued id; None if it is not one of this namespace's."""
        prefix, _, job_id = queued.rpartition(":")
        return job_id if prefix == self.namespace and _JOB_ID.fullmatch(job_id) else None
