"""How the commands end: one number for each thing that a script can do differently."""

from enum import IntEnum

from tailrace.schemas import (
    BrokerUnavailable,
    BrokerUnsuitable,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobNotFound,
    PositionLost,
    TailraceError,
)


class MissingExtra(TailraceError):
    """A command needs packages that are not installed; the message has the command that installs them."""


class ExitCode(IntEnum):
    """What a command's exit code means."""

    OK = 0
    FAILED = 1
    """The job failed or expired, or something else went wrong: standard error says what."""
    USAGE = 2
    """The command line, the request or the settings are wrong; nothing was stored."""
    NOT_FOUND = 3
    """No such job."""
    BROKER = 4
    """Redis does not answer, or cannot keep tailrace's promises; `doctor`: something has to be put right."""
    CANCELLED = 5
    """The job that was followed was cancelled."""
    INTERRUPTED = 130
    """Ctrl-C."""
    OUTPUT_CLOSED = 141
    """Whoever read our output has left, as in `tailrace tail JOB | head -1`."""


def exit_code(error: TailraceError) -> ExitCode:
    """The exit code for an error."""
    match error:
        case InvalidRequest() | JobConflict() | PositionLost() | MissingExtra():
            return ExitCode.USAGE
        case JobNotFound():
            return ExitCode.NOT_FOUND
        case BrokerUnavailable() | BrokerUnsuitable():
            return ExitCode.BROKER
        case JobCancelled():
            return ExitCode.CANCELLED
        case _:
            return ExitCode.FAILED
