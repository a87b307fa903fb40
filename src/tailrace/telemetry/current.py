"""Which job the code that runs now works for: log lines and spans of whatever it calls carry its id."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_FIELDS: Final[ContextVar[Mapping[str, str | int] | None]] = ContextVar("tailrace_job_fields", default=None)
_NOTHING: Final[Mapping[str, str | int]] = {}


def job_fields() -> Mapping[str, str | int]:
    """`job_id` and more of the job at hand; empty outside of one."""
    return _FIELDS.get() or _NOTHING


@contextmanager
def working_for(fields: Mapping[str, str | int]) -> Generator[None]:
    """What runs in the block, and the tasks and threads that it starts, works for this job."""
    token = _FIELDS.set(fields)
    try:
        yield
    finally:
        _FIELDS.reset(token)
