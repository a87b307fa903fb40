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
| `<ns>:open`                  | zset    | that of the longest-lived job in it                                |
| `<ns>:ended`                 | stream  | that of the longest-lived job in it                                |
| `<ns>:queue`                 | zset    | that of the longest-lived job in it                                |
| `<ns>:queue:wake`            | list    | 60 s                                                               |
| `arq:job:<ns>:<job>`         | string  | as the job's log; deleted when the job leaves the queue            |
| `arq:retry:<ns>:<job>`, ...  | string  | arq's own, short                                                   |
"""

import re
from dataclasses import dataclass
from typing import Final, cast

from tailrace.schemas.errors import InvalidRequest

DEFAULT_NAMESPACE: Final = "tailrace"

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def check_job_id(job_id: str) -> str:
    """The id itself. Raises: InvalidRequest unless it is 1 to 128 of A-Z a-z 0-9 _ and -."""
    if not isinstance(cast("object", job_id), str) or not _JOB_ID.fullmatch(job_id):
        raise InvalidRequest(f"{job_id!r} is no job id: use 1 to 128 of the characters A-Z a-z 0-9 _ -")
    return job_id


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one namespace: two deployments in one database do not meet."""

    namespace: str = DEFAULT_NAMESPACE

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
    def open(self) -> str:
        return f"{self.namespace}:open"

    @property
    def ended(self) -> str:
        return f"{self.namespace}:ended"

    @property
    def queue(self) -> str:
        return f"{self.namespace}:queue"

    @property
    def wake(self) -> str:
        return f"{self.queue}:wake"

    def queued(self, job_id: str) -> str:
        """The id under which the queue carries a job: no prompt, no parameters."""
        return f"{self.namespace}:{job_id}"

    def job_of(self, queued: str) -> str | None:
        """The job id behind a queued id; None if it is not one of this namespace's."""
        prefix, _, job_id = queued.rpartition(":")
        return job_id if prefix == self.namespace and _JOB_ID.fullmatch(job_id) else None
