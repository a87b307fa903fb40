"""From an HTTP request of the openai package to jobs to submit. Pure.

What the body says goes to the upstream as it is; what is tailrace's own comes from `JobOptions` and, for one call, from
headers: `extra_headers={"x-tailrace-job-id": "..."}`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from tailrace.schemas import (
    DEFAULT_QUEUE,
    START,
    Duration,
    InvalidRequest,
    OnRestart,
    Position,
    check_job_id,
    parse_position,
)
from tailrace.schemas.job_headers import options_said, read_option

CallApi = Literal["chat", "completions", "responses"]

JOB_ID_HEADER: Final = "x-tailrace-job-id"
RESUME_HEADER: Final = "x-tailrace-resume"
AFTER_HEADER: Final = "x-tailrace-after"

#: The end of a path -> the API. The longer one first.
_PATHS: Final[dict[str, CallApi]] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/responses": "responses",
}
#: The field that holds the prompt, and the argument of `submit` that takes it.
_PROMPT: Final = {"chat": "messages", "completions": "prompt", "responses": "input"}
#: As many prompts may one legacy call have: each is a job.
_MOST_PROMPTS: Final = 1000


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What `submit` takes beside the request itself: for all calls of a client, or by headers for one."""

    upstream: str = "default"
    metadata: Mapping[str, Any] | None = None
    tags: Sequence[str] | None = None
    deadline: Duration | None = None
    retention: Duration | None = None
    delay: Duration | None = None
    on_restart: OnRestart = "splice"
    max_attempts: int = 3
    cancel_on_close: bool = False
    """Whether a stream that is closed before its end cancels its job. By default the job goes on."""
    queue: str = DEFAULT_QUEUE


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the openai package."""

    api: CallApi
    stream: bool
    include_usage: bool
    options: JobOptions
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """`submit`'s arguments, without the job id: one job, but for a legacy call with several prompts."""
    job_id: str | None = None
    """As the caller wants it."""
    resume: str | None = None
    """Instead of a new job: the one to follow."""
    after: Position = START
    fingerprint: bytes = b""
    """Equal for the same call sent again."""
    again: bool = False
    """The openai package says that it tries again."""


def api_of(method: str, path: str) -> CallApi | None:
    """Which API a request asks. None: none of those that make jobs."""
    if method == "POST":
        for ending, api in _PATHS.items():
            if path.endswith(ending):
                return api
    return None


def read_call(api: CallApi, body: bytes, headers: Mapping[str, str], options: JobOptions) -> Call:
    """The call that a request is. Raises: InvalidRequest."""
    try:
        sent: Any = json.loads(body)
    except ValueError:
        raise InvalidRequest("the body is no JSON") from None
    if not isinstance(sent, dict):
        raise InvalidRequest("the body must be a JSON object")
    fields = cast("dict[str, Any]", sent)
    ours = options_said(headers)
    resume, after, job_id = ours.pop("resume", None), ours.pop("after", START), ours.pop("job-id", None)
    parse_position(after)
    fingerprint = hashlib.sha256(repr((api, sorted(ours.items()), job_id)).encode() + body).digest()
    options = _with_headers(options, ours)
    stream = bool(fields.pop("stream", False))
    call = Call(
        api=api,
        stream=stream,
        include_usage=_wants_usage(fields),
        options=options,
        job_id=None if job_id is None else check_job_id(job_id),
        resume=None if resume is None else check_job_id(resume),
        after=Position(after),
        fingerprint=fingerprint,
        again=headers.get("x-stainless-retry-count", "0") != "0",
    )
    return call if call.resume is not None else replace(call, requests=_requests(call, fields))


def _requests(call: Call, fields: dict[str, Any]) -> list[dict[str, Any]]:
    # Every job runs in the background: whoever asks for it gets it, and polls a response that is complete at once.
    fields.pop("background", None)
    prompt, model = fields.pop(_PROMPT[call.api], None), fields.pop("model", None)
    several = _as_list(prompt) if call.api == "completions" else None
    prompts: list[Any] = [prompt] if several is None else several
    if several is not None:
        if not prompts or not all(isinstance(each, str) for each in prompts) or len(prompts) > _MOST_PROMPTS:
            raise InvalidRequest(
                f"prompt must be a str or a list of 1 to {_MOST_PROMPTS} str (token ids have no place)"
            )
        if call.stream and len(prompts) > 1:
            raise InvalidRequest("a stream has one prompt: leave stream=True out, or make a call for each prompt")
    options = call.options
    return [
        {
            _PROMPT[call.api]: each,
            "api": call.api,
            "model": model,
            "params": fields,
            "upstream": options.upstream,
            "queue": options.queue,
            "metadata": options.metadata,
            "tags": options.tags,
            "deadline": options.deadline,
            "retention": options.retention,
            "delay": options.delay,
            "on_restart": options.on_restart,
            "max_attempts": options.max_attempts,
        }
        for each in prompts
    ]


def _wants_usage(fields: dict[str, Any]) -> bool:
    """Whether the stream has a usage chunk. A worker asks for usage in any case: so that is no part of the request."""
    given = fields.pop("stream_options", None)
    if not isinstance(given, dict):
        return False
    stream_options = cast("dict[str, Any]", given)
    wanted = bool(stream_options.pop("include_usage", False))
    if stream_options:
        fields["stream_options"] = {**stream_options, "include_usage": True}
    return wanted


def _with_headers(options: JobOptions, said: Mapping[str, str]) -> JobOptions:
    changes: dict[str, Any] = {option.replace("-", "_"): read_option(option, text) for option, text in said.items()}
    return replace(options, **changes)


def _as_list(value: Any) -> list[Any] | None:
    return [*value] if isinstance(value, list) else None  # pyright: ignore[reportUnknownVariableType]  # foreign JSON
