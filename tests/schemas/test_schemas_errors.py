"""Errors: one tree, one class for each thing a caller can do; each says what to do and survives a process boundary."""

import copy
import pickle
import re
from collections.abc import Iterator

import pytest

from tailrace.schemas import (
    END,
    START,
    BrokerUnavailable,
    BrokerUnsuitable,
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
    Result,
    Status,
    StepFailed,
    StepMismatch,
    StreamRewound,
    TailraceError,
    errors,
)

DETAIL = ErrorDetail(type="upstream_broken", message="the stream broke", code="502", retryable=True)


def ended(error: JobEnded) -> JobEnded:
    error.result = Result(job_id=error.job_id, status=Status.FAILED, text="what stands", last=Position("5-1"))
    return error


# Each with a word of what its message tells the caller to do, or what became of the job.
EXAMPLES: list[tuple[TailraceError, str]] = [
    (InvalidRequest("the prompt is empty: write something"), "write something"),
    (JobNotFound("j"), "the id is wrong, or the job was deleted, or its retention is over$"),
    (JobNotFound("chatcmpl-j"), "its job is 'j'$"),
    (JobNotFound("cmpl-j"), "its job is 'j'$"),
    (JobConflict("j"), "choose another id"),
    (ended(JobFailed("j", DETAIL)), "the stream broke"),
    (JobCancelled("j"), "can still be read"),
    (JobExpired("j"), "is a worker running"),
    (StreamRewound("j", Position("5-2"), "text that stands"), r"stream\(after=error.position\)"),
    (PositionLost("j", asked=Position("9-9"), stands=Position("5-1")), "read again from START"),
    (HistoryLost("j", after=START, until=END), "read again from START"),
    (StepMismatch("j", "research"), "was the task's code changed"),
    (StepFailed("j", "research", DETAIL), "the stream broke"),
    (QueueFull(7), "submit later"),
    (BrokerUnavailable("Redis did not answer: is it running?"), "is it running"),
    (BrokerUnsuitable("Redis 6.2 is too old", cure="use 7.0 or later"), "use 7.0 or later"),
]


def classes_below(kind: type[TailraceError]) -> Iterator[type[TailraceError]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from classes_below(below)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    path = ["TailraceError"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"((?:│   |    )*)[├└]── (\w+)", line)
        if match:
            depth = len(match[1]) // 4 + 1
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1]
    # JobError only carries the job's id for those below it: nobody needs it to tell what to do.
    real = {
        kind.__name__: next(up.__name__ for up in kind.__mro__[1:] if up is not JobError)
        for kind in classes_below(TailraceError)
        if kind is not JobError
    }
    assert drawn == real


def test_every_class_has_an_example_here() -> None:
    assert {type(error) for error, _ in EXAMPLES} == set(classes_below(TailraceError)) - {JobError, JobEnded}


@pytest.mark.parametrize(("error", "says"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_a_message_says_what_to_do(error: TailraceError, says: str) -> None:
    assert re.search(says, str(error))
    if isinstance(error, JobError):
        assert "'j'" in str(error)


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_crosses_a_process_boundary_with_its_message_and_fields(error: TailraceError, protocol: int) -> None:
    same = pickle.loads(pickle.dumps(error, protocol))
    assert type(same) is type(error)
    assert str(same) == str(error)
    assert same.args == error.args
    assert vars(same) == vars(error)


def test_an_error_of_a_subclass_with_other_arguments_is_copied_whole() -> None:
    class Mine(JobConflict):
        def __init__(self, *, colour: str) -> None:
            super().__init__("j")
            self.colour = colour

    same = copy.copy(Mine(colour="blue"))
    assert (str(same), same.colour, same.job_id) == (str(Mine(colour="blue")), "blue", "j")


def test_errors_are_also_what_python_calls_such_things() -> None:
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(JobNotFound, LookupError)
    assert issubclass(BrokerUnavailable, ConnectionError)
