"""What callers of the OpenAI API can say of tailrace's own: by headers, as `extra_headers` of the OpenAI packages. Pure."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tailrace.gateway.access import Principal
from tailrace.gateway.errors import ApiError
from tailrace.schemas import START, InvalidRequest, Position, check_job_id, parse_position

_PREFIX: Final = "x-tailrace-"


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _object(text: str) -> dict[str, Any]:
    value: Any = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)  # noqa: TRY004 - told as what it is by the caller
    return cast("dict[str, Any]", value)


#: A header without its prefix -> how its text is read, and how to say that.
_READ: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "upstream": (str, "a name"),
    "metadata": (_object, "a JSON object"),
    "tags": (_tags, "words with commas between"),
    "deadline": (float, "seconds"),
    "retention": (float, "seconds"),
    "delay": (float, "seconds"),
    "on-restart": (str, "splice, continue or fail"),
    "max-attempts": (int, "a number"),
    "cancel-on-close": (_flag, "true or false"),
    "job-id": (str, "1 to 128 of A-Z a-z 0-9 _ and -"),
    "resume": (str, "a job's id"),
    "after": (str, "a position"),
}


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
    for name, text in headers.items():
        if not name.startswith(_PREFIX):
            continue
        option = name.removeprefix(_PREFIX)
        if option not in _READ:
            known = ", ".join(_PREFIX + each for each in sorted(_READ))
            raise _refused(f"no header {name!r} is known; there are {known}", name)
        read, what = _READ[option]
        try:
            said[option.replace("-", "_")] = read(text)
        except ValueError:
            raise _refused(f"header {name!r} must be {what}, not {text!r}", name) from None
    job_id, resume, after = said.pop("job_id", None), said.pop("resume", None), said.pop("after", START)
    try:
        for given in (job_id, resume):
            if given is not None:
                check_job_id(given)
        parse_position(after)
    except InvalidRequest as error:
        raise _refused(str(error), f"{_PREFIX}job-id") from None
    key = headers.get("idempotency-key")
    if job_id is None and key:
        # Of the tenant's own: nobody can guess another's id by its key.
        job_id = prefix + hashlib.sha256(f"{principal.tenant}\0{key}".encode()).hexdigest()[:32]
    return Options(said, job_id, resume, Position(after), bool(said.pop("cancel_on_close", False)))


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_request", param=param)
