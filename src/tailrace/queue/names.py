"""The names that arq 0.28 gives its keys, said again here so that producers write them without arq installed.

They are constants of arq, not settings, so all deployments in one database share them: what keeps those apart is the
namespace in every id that the queue carries. A test holds these equal to arq's own.
"""

from typing import Final

JOB_PREFIX: Final = "arq:job:"
"""Before a queued id: what to call. TTL: as the job's log; deleted when the job leaves the queue."""

IN_PROGRESS_PREFIX: Final = "arq:in-progress:"
"""Before a queued id: the token of the lease under which it runs. TTL: the lease."""

RETRY_PREFIX: Final = "arq:retry:"
"""Before a queued id: how often it was claimed. TTL: RETRY_KEPT_S after that; deleted when the job leaves the queue."""

RETRY_KEPT_S: Final = 88_400
"""As arq has it: a day and some."""

FUNCTION: Final = "tailrace"
"""The one function that a payload may name."""
