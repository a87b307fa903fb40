"""What is sent to an upstream: path and JSON body of a request. Pure.

A job's params are fields of the body and nothing else; they can neither replace the prompt nor turn streaming off.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from tailrace.schemas import REFUSED_PARAMS, JobRequest

PATHS: Final = {"chat": "/chat/completions", "completions": "/completions", "responses": "/responses"}


@dataclass(frozen=True, slots=True)
class Body:
    """A request as an upstream gets it."""

    path: str
    content: bytes
    continued: bool
    """Whether it asks for what comes after the text to continue from."""


def build_body(
    request: JobRequest, model: str | None, *, continue_from: str | None = None, prefill: bool = False
) -> Body:
    """The body of a request to `model` (None: it names none).

    Raises: KeyError for a task, ValueError for text or numbers that no JSON has.
    """
    path = PATHS[request.api]
    fields: dict[str, JsonValue] = {name: value for name, value in request.params.items() if name not in REFUSED_PARAMS}
    if model is not None:
        fields["model"] = model
    fields["stream"] = True
    goes_on, continued = _continuation(request, continue_from, prefill), False
    if request.api == "responses":
        fields["input"] = request.input
    else:
        fields.setdefault("stream_options", {"include_usage": True})
        if request.api == "completions":
            continued = goes_on is not None and isinstance(request.prompt, str)
            fields["prompt"] = f"{request.prompt}{goes_on}" if continued else request.prompt
        else:
            continued = goes_on is not None
            messages: list[Any] = list(request.messages or ())
            fields["messages"] = [*messages, {"role": "assistant", "content": goes_on}] if continued else messages
    content = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Body(path, content, continued)


def _continuation(request: JobRequest, continue_from: str | None, prefill: bool) -> str | None:
    """The text to go on from, or None where this API or these params have no way to."""
    several = request.params.get("n") not in (None, 1) or request.params.get("best_of") not in (None, 1)
    if not continue_from or several or request.params.get("echo"):
        return None
    return continue_from if request.api == "completions" or (request.api == "chat" and prefill) else None
