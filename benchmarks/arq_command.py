"""What arq's own command is told: `arq benchmarks.arq_command.WorkerSettings`. It says `ready` once it takes jobs.

The benchmark sets the variables for it.
"""

import os
from typing import Any, ClassVar, Final

from arq.connections import RedisSettings

from benchmarks.no_op_worker import handle
from benchmarks.processes import say

REDIS_URL: Final = "BENCH_REDIS_URL"
QUEUE: Final = "BENCH_QUEUE"
MAX_JOBS: Final = "BENCH_MAX_JOBS"


async def _started(_ctx: dict[Any, Any]) -> None:
    say("ready")


class WorkerSettings:
    """As arq's users write it."""

    functions: ClassVar[list[Any]] = [handle]
    on_startup = _started
    redis_settings = RedisSettings.from_dsn(os.environ.get(REDIS_URL, "redis://"))
    queue_name = os.environ.get(QUEUE, "")
    max_jobs = int(os.environ.get(MAX_JOBS, "10"))
