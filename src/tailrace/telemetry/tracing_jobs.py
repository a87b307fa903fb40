"""Spans of a job's way: sent by a producer, processed by a worker once for each attempt, its steps below that.

By the messaging conventions of OpenTelemetry: github.com/open-telemetry/semantic-conventions, docs/messaging/messaging-spans.md.
An attempt is a child of its submission, not only linked to it: one trace shows the whole way, also when hours are between.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from tailrace.telemetry.tracing import JOB_ID, NOTHING, Received, Span, spanning, start, tracing

ATTEMPT: Final = "tailrace.attempt.number"
OUTCOME: Final = "tailrace.attempt.outcome"
STATUS: Final = "tailrace.job.status"
RETRY: Final = "tailrace.retry"

_NOT_SENT: Final = nullcontext(NOTHING)


def sending(queue: str, *, count: int | None = None) -> AbstractContextManager[Span]:
    """A job on its way into a queue; `count`: so many together. What is carried to their workers is its context."""
    if not tracing():
        return _NOT_SENT
    attributes = {**_messaging(queue, "send"), "messaging.batch.message_count": count}
    return spanning(start(f"send {queue}", "PRODUCER", attributes))


def about(job_id: str) -> dict[str, str]:
    """Which job a span is about."""
    return {"messaging.message.id": job_id, JOB_ID: job_id}


def processing(
    queue: str,
    *,
    job_id: str,
    parent: Received | None,
    worker: str,
    number: int,
    restarted: bool,
    api: str,
    task: str | None,
) -> Span:
    """One attempt at a job. To be ended."""
    return start(
        f"process {queue}",
        "CONSUMER",
        {
            **_messaging(queue, "process"),
            **about(job_id),
            "messaging.client.id": worker,
            ATTEMPT: number,
            "tailrace.attempt.restarted": restarted,
            "tailrace.job.api": api,
            "tailrace.job.task": task,
        },
        parent=parent,
        linked=True,
    )


def stepping(kind: str, name: str, *, path: str, resumed: bool) -> Span:
    """One step of a task, as far as this attempt carries it out. To be ended."""
    return start(
        f"step {name}",
        attributes={
            "tailrace.step.name": name,
            "tailrace.step.path": path,
            "tailrace.step.kind": kind,
            "tailrace.step.resumed": resumed,
        },
    )


def _messaging(queue: str, operation: str) -> dict[str, str]:
    return {
        "messaging.system": "tailrace",
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
