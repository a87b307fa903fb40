"""What a job's end brings about: the follow-up task that was asked for, the end of jobs that it had submitted itself."""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from tailrace.schemas import (
    Entry,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    JobRequest,
    JsonObject,
    QueueFull,
    RequestLimits,
    follow_up_id,
    queue_said,
)
from tailrace.tasks import Jobs
from tailrace.views import result_of

logger = logging.getLogger(__name__)

#: A result is as long as the job's output may be; it is no request that somebody has typed.
_LIMITS: Final = RequestLimits(text_bytes=256 * 1024 * 1024, image_bytes=256 * 1024 * 1024)


async def start_follow_up(job_id: str, record: JsonObject, entries: Sequence[Entry], jobs: Jobs | None) -> bool:
    """Submit the task that a job's `then` names, with its result as input. Twice does no harm. False: not now, again later.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    task = record.get("then")
    if not isinstance(task, str):
        return True
    result = result_of(job_id, entries)
    if not result.status.well:
        return True
    if jobs is None:
        logger.warning("job %r: this worker was given no client to start its follow-up with (Worker(jobs=...))", job_id)
        return True
    try:
        request = JobRequest.of(
            task=task,
            input=result.model_dump(mode="json", exclude={"native"}, exclude_defaults=True),
            metadata=result.metadata,
            tags=result.tags,
            queue=queue_said(record),
            retention=float(int(str(record["retention_ms"])) / 1000),
            limits=_LIMITS,
        ).model_copy(update={"tenant": record.get("tenant")})
        await jobs.submit(request, follow_up_id(str(record["incarnation"]), job_id))
    except QueueFull:
        return False
    except JobConflict:
        # It was started with the result of an end that the server has lost since.
        logger.info("job %r: its follow-up was started before", job_id)
    except InvalidRequest as error:
        logger.warning("job %r: its follow-up task %r cannot be started: %s", job_id, task, type(error).__name__)
    return True


async def end_children(record: JsonObject, entries: Sequence[Entry], jobs: Jobs | None) -> None:
    """Cancel the jobs that a task had submitted and that nobody awaits any more. Raises: as `start_follow_up`."""
    if jobs is None or record.get("api") != "task":
        return
    for child_id in open_children(entries):
        with suppress(JobNotFound):
            await jobs.cancel(child_id)


def open_children(entries: Sequence[Entry]) -> list[str]:
    """The ids of the jobs that a task had submitted, as far as it knew without their ends."""
    children: dict[int, str] = {}
    for entry in entries:
        if entry.field != "event":
            continue
        fields: Any = json.loads(entry.value)
        run, event, child_id = fields.get("run"), str(fields.get("event")), fields.get("data", {}).get("job_id")
        if event == "on_chain_start" and isinstance(child_id, str):
            children[run] = child_id
        elif event in ("on_chain_end", "on_chain_error"):
            children.pop(run, None)
    return list(children.values())
