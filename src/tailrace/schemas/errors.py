"""What can go wrong, one class for each thing that a caller can do differently.

TailraceError
├── InvalidRequest       the caller's input; nothing was stored           -> correct it
├── JobNotFound          never was, was deleted, or its time is over      -> submit again
├── JobConflict          the id is taken by another request               -> use another id
├── JobEnded             the job ended, but not well
│   ├── JobFailed        .error says why                                  -> retry if .error.retryable
│   ├── JobCancelled     somebody cancelled it; what came before stands
│   └── JobExpired       its deadline passed
├── StreamRewound        text that was shown is void                      -> stream(after=error.position)
├── PositionLost         the position is not (or no longer) in this log   -> read from START
├── HistoryLost          records that once stood are missing              -> read from START
├── StepMismatch         a task took another path than its first attempt
├── StepFailed           a step of a task failed                          -> catch it in the task, or let the job fail
├── QueueFull            the queue is at its capacity                     -> submit later
├── BrokerUnavailable    Redis did not answer                             -> try again
└── BrokerUnsuitable     Redis answers, but cannot keep our promises      -> change the server, see .cure
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.schemas.positions import Position
    from tailrace.schemas.records import ErrorDetail
    from tailrace.schemas.results import Result


class TailraceError(Exception):
    """The root of every error that tailrace raises on purpose. Pickles with its fields, whatever made it."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way calls the class with `args`, which is the finished message here, not what the class takes.
        return _revived, (type(self), self.args), self.__dict__


def _revived(kind: type[TailraceError], args: tuple[object, ...]) -> TailraceError:
    error = kind.__new__(kind)
    error.args = args
    return error


class InvalidRequest(TailraceError, ValueError):
    """The caller's input cannot be taken. Nothing was stored."""


class JobError(TailraceError):
    """An error about one job: `.job_id` names it."""

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFound(JobError, LookupError):
    """No such job: it never was, was deleted, or its retention is over. They look alike on purpose."""

    def __init__(self, job_id: str) -> None:
        _, of_an_answer, job = job_id.rpartition(
            "cmpl-"
        )  # that of a completion, or of a chat's: those ids are made of it
        other = f"; if this is the id of an OpenAI answer, its job is {job!r}" if of_an_answer and job else ""
        super().__init__(
            job_id, f"no job {job_id!r}: the id is wrong, or the job was deleted, or its retention is over{other}"
        )


class JobConflict(JobError):
    """The job id is taken by a request that differs from this one."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            job_id,
            f"job id {job_id!r} is taken by another request: submit the same request to get the same job, "
            "or choose another id",
        )


class JobEnded(JobError):
    """The job ended, but did not complete. Raised after every record that came."""

    result: "Result | None" = None
    """What stands of its output, where the caller waited for the result."""


class JobFailed(JobEnded):
    """The job failed. `.error` has type, message, code and whether a retry may help."""

    def __init__(self, job_id: str, error: "ErrorDetail") -> None:
        super().__init__(job_id, f"job {job_id!r} failed: {error.type}: {error.message}")
        self.error = error


class JobCancelled(JobEnded):
    """The job was cancelled. What it had put out until then stands."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, f"job {job_id!r} was cancelled; its records up to then can still be read")


class JobExpired(JobEnded):
    """The job's deadline passed before it ended."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            job_id, f"job {job_id!r} passed its deadline: is a worker running? (deadline= sets it at submit)"
        )


class StreamRewound(JobError):
    """Text that this stream has yielded is void: a restarted attempt went another way.

    `text_before` is the text that stands, from the job's beginning. Replace what was shown with it and go on with
    `stream(after=error.position)`.
    """

    def __init__(self, job_id: str, position: "Position", text_before: str) -> None:
        super().__init__(
            job_id,
            f"job {job_id!r} was rewound: show text_before ({len(text_before)} characters) instead of what was "
            "shown, then go on with stream(after=error.position)",
        )
        self.position = position
        self.text_before = text_before


class PositionLost(JobError):
    """The position to resume from is not in this job's log."""

    def __init__(self, job_id: str, *, asked: "Position", stands: "Position | None" = None) -> None:
        tail = f"; the log stands at {stands!r}" if stands is not None else ""
        super().__init__(job_id, f"position {asked!r} is not in the log of job {job_id!r}{tail}: read again from START")
        self.asked = asked
        self.stands = stands


class HistoryLost(JobError):
    """Records after `after` and up to `until` once stood and are missing: trimmed, evicted or lost by the server.

    What can still be read is what stands up to `after`, from START; nothing if `after` is START.
    """

    def __init__(self, job_id: str, *, after: "Position", until: "Position") -> None:
        super().__init__(
            job_id,
            f"the records of job {job_id!r} after {after!r} up to {until!r} are lost (the server trimmed, evicted "
            "or lost them): read again from START for what stands before them",
        )
        self.after = after
        self.until = until


class StepMismatch(JobError):
    """A task took another path than the attempt before it; `step` names where."""

    def __init__(self, job_id: str, step: str) -> None:
        super().__init__(
            job_id,
            f"job {job_id!r} took another path at step {step!r} than the attempt before: was the task's code changed "
            "while the job ran, or does it decide by something that is no step (a clock, a random number)?",
        )
        self.step = step


class StepFailed(JobError):
    """A step of a task failed, after its retries. `.error` says why; the exception itself is the `__cause__`, if the step
    failed in this attempt."""

    def __init__(self, job_id: str, step: str, error: "ErrorDetail") -> None:
        super().__init__(job_id, f"step {step!r} of job {job_id!r} failed: {error.type}: {error.message}")
        self.step = step
        self.error = error


class QueueFull(TailraceError):
    """The queue is at its capacity; the job was not stored."""

    def __init__(self, capacity: int) -> None:
        super().__init__(f"the queue holds {capacity} jobs already: submit later, or start more workers")
        self.capacity = capacity


class BrokerUnavailable(TailraceError, ConnectionError):
    """Redis could not be reached, or did not answer in time."""


class BrokerUnsuitable(TailraceError):
    """Redis answers but cannot keep tailrace's promises (version, eviction policy, ACL, memory). `.cure` says what to do."""

    def __init__(self, message: str, *, cure: str) -> None:
        super().__init__(f"{message}: {cure}")
        self.cure = cure
