"""What went wrong, as HTTP says it: every refusal of every route has one shape, the OpenAI API's.

Source: platform.openai.com/docs/guides/error-codes.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from tailrace.schemas import (
    BrokerUnavailable,
    BrokerUnsuitable,
    HistoryLost,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFound,
    PositionLost,
    QueueFull,
    TailraceError,
)

logger = logging.getLogger(__name__)

#: What to wait before asking again, where nobody knows better.
RETRY_AFTER_S: Final = 1
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class ErrorFields(BaseModel):
    """What went wrong."""

    message: str
    """For people: says what to do."""
    type: str
    """`invalid_request_error`, `authentication_error`, `rate_limit_error`, `tailrace_error` ..."""
    param: str | None = None
    """The field of the request that is wrong."""
    code: str | None = None
    """A stable word to branch on: `job_not_found`, `queue_full` ..."""


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorFields


class StreamBroken(Exception):
    """A stream cannot go on: its connection is dropped without an end, so that nobody takes it for one."""


class ApiError(HTTPException):
    """A refusal. Any route and dependency may raise it before its response has begun."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  # the API's word
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code, self.param = code, param
        self.type = type or _type_of(status)

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.detail, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status_code, self.headers)


def api_error(problem: TailraceError) -> ApiError:
    """What to answer when tailrace raises this."""
    status, code = _status_of(problem)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    return ApiError(status, str(problem), code=code, headers=headers)


def not_valid(error: RequestValidationError, status: int) -> ApiError:
    """What to answer to a request that is not what its route takes."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        message, where = "the body is no JSON", ""
    elif first["loc"] == ("body",):
        # What a body without the header comes to as well: it is taken for text.
        message = "the body has to be a JSON object, and the header Content-Type to say application/json"
    else:
        message = f"{where}: {first['msg']}" if where else str(first["msg"])
    return ApiError(status, message, code="invalid_request", param=where or None)


def install_errors(app: FastAPI) -> None:
    """Make every error of every route one of this shape."""
    handlers: dict[type[Exception], Any] = {
        ApiError: _refused,
        TailraceError: _went_wrong,
        RequestValidationError: _not_valid,
        HTTPException: _of_http,
        Exception: _bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses=`: the refusals that it may answer with."""
    return {status: {"model": ErrorBody, "description": HTTPStatus(status).phrase} for status in statuses}


#: For a router's `responses=`: what every route refuses that asks who asks and needs Redis.
ALWAYS: Final = refusals(401, 403, 422, 503)


def _status_of(problem: TailraceError) -> tuple[int, str]:
    match problem:
        case InvalidRequest():
            return 422, "invalid_request"
        case JobNotFound():
            return 404, "job_not_found"
        case JobConflict():
            return 409, "job_conflict"
        case QueueFull():
            return 429, "queue_full"
        case PositionLost():
            return 410, "position_lost"
        case HistoryLost():
            return 410, "history_lost"
        case JobFailed():
            return 502, problem.error.type
        case JobCancelled():
            return 409, "job_cancelled"
        case JobExpired():
            return 504, "job_expired"
        case BrokerUnavailable():
            return 503, "broker_unavailable"
        case BrokerUnsuitable():
            return 503, "broker_unsuitable"
        case _:
            return 500, "tailrace_error"


def _type_of(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "invalid_request_error" if status < 500 else "tailrace_error"


async def _refused(_: Request, error: ApiError) -> JSONResponse:
    return error.response()


async def _went_wrong(_: Request, error: TailraceError) -> JSONResponse:
    return api_error(error).response()


async def _not_valid(_: Request, error: RequestValidationError) -> JSONResponse:
    return not_valid(error, 422).response()


async def _of_http(request: Request, error: HTTPException) -> JSONResponse:
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return ApiError(error.status_code, str(error.detail), code=code, headers=headers).response()


def _methods(request: Request) -> set[str]:
    """What can be asked of the request's path: each method is a route of its own, and the error knows one of them."""
    found = {method for method in _METHODS if _is_answered({**request.scope, "method": method}, request.app.routes)}
    return found | {"HEAD"} if "GET" in found else found


def _is_answered(scope: Scope, routes: Sequence[BaseRoute]) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    # The server logs the traceback; what is in it is not for whoever asks.
    if not isinstance(error, StreamBroken):
        logger.error("an error of the gateway's own at %s %s", request.method, request.url.path)
    return ApiError(500, "the gateway made a mistake; its log says which", code="internal_error").response()
