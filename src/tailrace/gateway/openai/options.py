"""What callers of the OpenAI API can say of tailrace's own: by headers, as `extra_headers` of the OpenAI packages. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tailrace.gateway.access import Principal
from tailrace.gateway.errors import ApiError
from tailrace.schemas import START, InvalidRequest, Position, check_job_id, parse_position
from tailrace.schemas.job_headers import PREFIX, options_said, read_option


@dataclass(frozen=True, slots=True)
class Options:
    """What the headers of one request say."""

    submit: dict[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of `submit`."""
    job_id: str | None = None
    """As the caller wants it: the same request sent again is the same job."""
    resume: str | None = None
    """Instead of a new job: the one to follow."""
    after: Position = START
    cancel_on_close: bool = False


def options_of(headers: Mapping[str, str], principal: Principal, *, prefix: str = "") -> Options:
    """`prefix`: what the id of a job begins with that an Idempotency-Key names. Raises: ApiError."""
    said: dict[str, Any] = {}
    for option, text in options_said(headers).items():
        try:
            said[option.replace("-", "_")] = read_option(option, text)
        except InvalidRequest as error:
            raise _refused(str(error), PREFIX + option) from None
    job_id, resume, after = said.pop("job_id", None), said.pop("resume", None), said.pop("after", START)
    try:
        for given in (job_id, resume):
            if given is not None:
                check_job_id(given)
        parse_position(after)
    except InvalidRequest as error:
        raise _refused(str(error), f"{PREFIX}job-id") from None
    key = headers.get("idempotency-key")
    if job_id is None and key:
        # Of the tenant's own: nobody can guess another's id by its key.
        job_id = prefix + hashlib.sha256(f"{principal.tenant}\0{key}".encode()).hexdigest()[:32]
    return Options(said, job_id, resume, Position(after), bool(said.pop("cancel_on_close", False)))


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_request", param=param)
