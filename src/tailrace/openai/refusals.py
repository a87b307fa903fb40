"""What went wrong, as HTTP says it, so that the openai package raises the exception that fits.

An upstream's own status comes through as it was (401, 429, 400 ...). The package must not try again what a worker has
tried already: every refusal of a job says so (`x-should-retry: false`).
Source: github.com/openai/openai-python, `_make_status_error` and `_should_retry`.
"""

from dataclasses import dataclass
from typing import Final

from tailrace.schemas import (
    BrokerUnsuitable,
    ErrorDetail,
    HistoryLost,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFound,
    JsonObject,
    PositionLost,
    QueueFull,
    TailraceError,
)

#: `ErrorDetail.type` -> the status of a proxy that has the same to say.
_STATUS: Final = {
    "no_api_key": 500,
    "unknown_upstream": 400,
    "upstream_auth": 401,
    "upstream_timeout": 504,
    "upstream_stalled": 504,
    "upstream_broken": 502,
    "upstream_error": 502,
    "upstream_malformed": 502,
    "upstream_not_stream": 502,
    "upstream_unreachable": 502,
}
#: "The client closed the request": the word of proxies for a call that somebody called off.
_CALLED_OFF: Final = 499


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer: status and the API's error object."""

    status: int
    error: JsonObject
    retry: bool = False
    """Whether the openai package may try again."""

    @property
    def body(self) -> JsonObject:
        return {"error": self.error}

    @property
    def headers(self) -> dict[str, str]:
        """What tells the openai package not to try again."""
        return {} if self.retry else {"x-should-retry": "false"}


def refusal(problem: TailraceError, *, job_id: str | None = None) -> Refusal:
    """What to answer when tailrace raises this."""
    match problem:
        case InvalidRequest():
            found = _refusal(400, "invalid_request_error", str(problem))
        case QueueFull():
            found = _refusal(429, "queue_full", str(problem), retry=True)
        case JobConflict():
            found = _refusal(409, "job_conflict", str(problem))
        case JobNotFound():
            found = _refusal(404, "job_not_found", str(problem))
        case JobCancelled():
            found = _refusal(_CALLED_OFF, "job_cancelled", str(problem))
        case JobExpired():
            found = _refusal(504, "job_expired", str(problem))
        case JobFailed():
            found = of_detail(problem.error)
        case PositionLost():
            found = _refusal(410, "position_lost", str(problem))
        case HistoryLost():
            found = _refusal(410, "history_lost", str(problem))
        case BrokerUnsuitable():
            found = _refusal(503, "broker_unsuitable", str(problem))
        case _:
            found = _refusal(500, "tailrace_error", str(problem))
    if job_id is not None:
        found.error["job_id"] = job_id
    return found


def of_detail(detail: ErrorDetail) -> Refusal:
    """What to answer for a job that failed: the upstream's own status where it had one."""
    status = detail.upstream_status or _STATUS.get(detail.type, 500)
    return Refusal(
        # A redirect that was not followed is no answer that a client can do anything with.
        status if status >= 400 else 502,
        {"message": detail.message, "type": detail.type, "param": None, "code": detail.code or detail.type},
    )


def _refusal(status: int, code: str, message: str, *, retry: bool = False) -> Refusal:
    kind = "invalid_request_error" if status == 400 else "tailrace_error"
    return Refusal(status, {"message": message, "type": kind, "param": None, "code": code}, retry)
