"""The Response object: what a job is to a client of the Responses API.

Source: platform.openai.com/docs/api-reference/responses/object; openresponses.org, whose schema requires every field
that is named here.
"""

import json
from typing import Final

from tailrace.schemas import EndRecord, ErrorDetail, JsonObject, Status
from tailrace.views._fields import json_dict, number, string

#: What the API takes for granted where a request does not say it.
_DEFAULTS: Final[JsonObject] = {
    "previous_response_id": None,
    "instructions": None,
    "tools": [],
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "text": {},
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "temperature": 1.0,
    "reasoning": None,
    "user": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": True,
    # A job goes on whether anybody reads it or not.
    "background": True,
    "service_tier": "default",
    "safety_identifier": None,
    "prompt_cache_key": None,
}
_FUNCTION: Final[JsonObject] = {"name": None, "description": None, "parameters": None, "strict": None}
_TEXT: Final[JsonObject] = {"format": {"type": "text"}}
_REASONING: Final[JsonObject] = {"effort": None, "summary": None}
#: Fields that mean the job and not the call to its upstream: what the upstream says of them is about something else.
_OURS: Final = frozenset({"background", "store", "previous_response_id", "conversation", "metadata"})

#: Statuses of a job that the API has another word for.
_STATUSES: Final = {Status.EXPIRED: "failed"}
_REASONS: Final = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "max_output_tokens": "max_output_tokens",
    "content_filter": "content_filter",
}
#: The API's codes are a closed list; `type` has the job's own word.
_CODES: Final = {429: "rate_limit_exceeded", 400: "invalid_prompt", 413: "invalid_prompt", 422: "invalid_prompt"}
_EXPIRED: Final = ErrorDetail(type="expired", message="the job's deadline passed before it was done")


def response_of(
    job_id: str,
    job: JsonObject,
    *,
    status: Status,
    output: list[JsonObject],
    end: EndRecord | None = None,
    final: JsonObject | None = None,
    fields: JsonObject | None = None,
) -> JsonObject:
    """The object of a job: its record, what stands of its output, and how it ended.

    `final` is the upstream's own object, whose fields are kept; `fields` are those of the request that the API says again.
    """
    said = _told(final or {})
    ours: JsonObject = {
        "id": job_id,
        "object": "response",
        "created_at": number(job.get("ts"), 0) // 1000,
        "status": _STATUSES.get(status, status.value),
        "completed_at": end.ts // 1000 if end is not None and end.status is Status.COMPLETED else None,
        "error": _error(end),
        "incomplete_details": _incomplete(end, said),
        "output": [*output],
        "usage": response_usage(end.usage) if end is not None else None,
    }
    echoed: JsonObject = {"model": string(job.get("model")) or "", **_DEFAULTS, "metadata": _metadata(job)}
    echoed |= _told(fields or {})
    echoed |= {name: value for name, value in said.items() if name not in _OURS}
    return {**ours, **echoed, **_completed(echoed), **ours}


def _completed(echoed: JsonObject) -> JsonObject:
    """What is said again, with the parts that neither a request nor every upstream names."""
    completed: JsonObject = {}
    tools = echoed["tools"]
    if isinstance(tools, list):
        completed["tools"] = [
            {**_FUNCTION, **tool} if isinstance(tool, dict) and tool.get("type") == "function" else tool
            for tool in tools
        ]
    for name, parts in (("text", _TEXT), ("reasoning", _REASONING)):
        given = echoed[name]
        if isinstance(given, dict):
            completed[name] = {**parts, **given}
    return completed


def response_usage(usage: JsonObject | None) -> JsonObject | None:
    """An upstream's usage, of any of its APIs, as the Responses API has it. None if it told none."""
    if usage is None:
        return None
    given, made = (_count(usage, *names) for names in (("input_tokens", "prompt_tokens"), _MADE))
    if given is None and made is None:
        return None
    total = _count(usage, "total_tokens")
    read = json_dict(usage.get("input_tokens_details")) or json_dict(usage.get("prompt_tokens_details"))
    written = json_dict(usage.get("output_tokens_details")) or json_dict(usage.get("completion_tokens_details"))
    return {
        "input_tokens": given or 0,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **_told(read)},
        "output_tokens": made or 0,
        "output_tokens_details": {"reasoning_tokens": 0, **_told(written)},
        "total_tokens": (given or 0) + (made or 0) if total is None else total,
    }


_MADE: Final = ("output_tokens", "completion_tokens")


def _count(fields: JsonObject, *names: str) -> int | None:
    return next((count for name in names if isinstance(count := fields.get(name), int)), None)


def _told(fields: JsonObject) -> JsonObject:
    return {name: value for name, value in fields.items() if value is not None}


def _error(end: EndRecord | None) -> JsonObject | None:
    if end is None or end.status not in (Status.FAILED, Status.EXPIRED):
        return None
    unnamed = _EXPIRED if end.status is Status.EXPIRED else ErrorDetail(type="failed", message="the job failed")
    error = end.error or unnamed
    return {"code": _CODES.get(error.http_status or 0, "server_error"), "message": error.message, "type": error.type}


def _incomplete(end: EndRecord | None, final: JsonObject) -> JsonObject | None:
    if end is None or end.status is not Status.INCOMPLETE:
        return None
    said = json_dict(final.get("incomplete_details"))
    return said or {"reason": _REASONS.get(end.finish_reason or "", "max_output_tokens")}


def _metadata(job: JsonObject) -> JsonObject:
    """The job's metadata, as text: the API has no other values there."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in json_dict(job.get("metadata")).items()
    }
