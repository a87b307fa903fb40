"""tailrace: event streaming for LLM output. Submit prompts as background jobs, follow every token by job id.

    from tailrace import Tailrace

    with Tailrace() as tailrace:
        job = tailrace.submit("Write me a 1 verse song about sparkling water.", model="gpt-3.5-turbo-instruct")
        for chunk in job.stream():
            print(chunk, end="|", flush=True)

`AsyncTailrace` has the same names, awaited. Jobs of several steps are tasks: functions registered with an `App`, given a
`Context`. The errors are drawn as a tree in `tailrace.schemas.errors`.
"""

from tailrace.client import AsyncEnded, AsyncJob, AsyncTailrace, Ended, Job, Parked, Tailrace
from tailrace.schemas import (
    END,
    START,
    BrokerUnavailable,
    BrokerUnsuitable,
    Chunk,
    ErrorDetail,
    HistoryLost,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobEnded,
    JobError,
    JobExpired,
    JobFailed,
    JobNotFound,
    Position,
    PositionLost,
    QueueFull,
    Record,
    Result,
    Settings,
    Status,
    StepFailed,
    StepMismatch,
    StreamEvent,
    StreamRewound,
    TailraceError,
)
from tailrace.tasks import App, Context

__all__ = [
    "END",
    "START",
    "App",
    "AsyncEnded",
    "AsyncJob",
    "AsyncTailrace",
    "BrokerUnavailable",
    "BrokerUnsuitable",
    "Chunk",
    "Context",
    "Ended",
    "ErrorDetail",
    "HistoryLost",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobConflict",
    "JobEnded",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobNotFound",
    "Parked",
    "Position",
    "PositionLost",
    "QueueFull",
    "Record",
    "Result",
    "Settings",
    "Status",
    "StepFailed",
    "StepMismatch",
    "StreamEvent",
    "StreamRewound",
    "Tailrace",
    "TailraceError",
]
