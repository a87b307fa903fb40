"""How a job that ended badly is told over HTTP: with the upstream's own status, where that says something to a client."""

from typing import Any, Final

from tailrace.client.reading import ill_end
from tailrace.gateway.errors import ApiError, api_error
from tailrace.schemas import EndRecord, ErrorDetail, InvalidRequest, JobCancelled, JobExpired, JobFailed, TailraceError

_BY_TYPE: Final = {"unknown_upstream": 400, "upstream_timeout": 504, "upstream_stalled": 504, "no_api_key": 500}
#: "The client closed the request": the word of proxies for a call that somebody called off.
_CALLED_OFF: Final = 499
#: Of the gateway's key at the upstream: nothing that a client could do anything about.
_NOT_THE_CLIENTS: Final = frozenset({401, 403, 407})


def refusal_of(problem: TailraceError) -> ApiError:
    """What the OpenAI API answers when tailrace raises this. A job that failed was tried often enough: the packages of
    OpenAI are told not to try again, since every try of theirs would be one more job."""
    match problem:
        case InvalidRequest():
            return ApiError(400, str(problem), code="invalid_request")
        case JobFailed():
            return _failed(problem.error)
        case JobCancelled():
            return _final(_CALLED_OFF, str(problem), code="job_cancelled", type="tailrace_error")
        case JobExpired():
            return _final(504, str(problem), code="job_expired")
        case _:
            return api_error(problem)


def end_refusal(job_id: str, end: EndRecord | None) -> ApiError | None:
    """The refusal that a job's end is; None if it ended well, or has not."""
    ill = ill_end(job_id, end)
    return None if ill is None else refusal_of(ill)


def _failed(error: ErrorDetail) -> ApiError:
    status = error.upstream_status or _BY_TYPE.get(error.type, 502)
    # A redirect that was not followed is no answer that a client can do anything with.
    if status < 400 or status in _NOT_THE_CLIENTS:
        status = 502
    return _final(status, error.message, code=error.code or error.type, type=error.type)


def _final(status: int, message: str, **fields: Any) -> ApiError:
    return ApiError(status, message, headers={"x-should-retry": "false"}, **fields)
