"""What a request asks the rehearsal upstream to do: pure parsing, no I/O.

A script comes in the model's name (`rehearsal:tokens=50,fault=cut,at=20`; values percent-encoded, so `%2C` is a
comma) or, with full fidelity, in the body's field `rehearsal` (an object). Both together: the body's keys win. Any
other model name has no script.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

MODEL: Final = "rehearsal"

Fault = Literal[
    "clean_end",
    "cut",
    "empty_data",
    "endless",
    "error_bare",
    "error_data",
    "error_event",
    "failed",
    "html",
    "huge",
    "invalid_utf8",
    "malformed",
    "no_content",
    "no_done",
    "refuse",
    "reset",
    "slow_headers",
    "stall",
    "status",
]

Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class InvalidScript(ValueError):
    """The request's script cannot be played; the message says which key and what it takes."""


class ScriptedCall(BaseModel):
    """One tool call, word for word."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: str | dict[str, Any] = "{}"
    """A string is sent as it is, also if it is no JSON."""


class Script(BaseModel):
    """How to answer one request. Every field has a default: an empty script gives a pleasant short answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None = None
    """The exact text, split as a model would split it."""
    chunks: tuple[str, ...] | None = None
    """The exact deltas: any Unicode, empty strings, megabytes."""
    tokens: NonNegativeInt | None = None
    """So many numbered tokens: ` token0 token1 ...`."""
    reasoning: str | None = None
    """Sent before the text: `reasoning_content` deltas in a chat, a reasoning item in Responses."""
    refusal: str | None = None
    """Sent instead of the text."""
    calls: NonNegativeInt | tuple[ScriptedCall, ...] | None = None
    """How many tool calls (the request's tools in turn), or the calls themselves."""
    finish: Finish | None = None
    """The finish reason to give, whatever happened."""

    pace: NonNegativeFloat = 0.0
    """Seconds between tokens."""
    ttft: NonNegativeFloat = 0.0
    """Seconds before the first token."""

    seed_by: Literal["prompt", "call"] = "prompt"
    """`call`: each further call for the same key differs, from token `differ_at` on, by a suffix `.<number of call>`."""
    differ_at: NonNegativeInt = 0

    fault: Fault | None = None
    at: NonNegativeInt = 0
    """Tokens sent before the fault strikes (at the latest, it strikes before the finish)."""
    times: PositiveInt | None = None
    """Only the first so many calls with the same key fail; None: all."""
    key: str | None = None
    """What counts as the same call; by default the prompt."""
    code: int = Field(default=500, ge=400, le=599)
    """For `status`: the HTTP status."""
    error_code: str | None = None
    """For `status` and the error faults: the error's `code`."""
    retry_after: NonNegativeFloat | None = None
    """For `status`: a Retry-After header, in seconds."""
    size: PositiveInt = 10 * 1024 * 1024
    """For `huge`: bytes of the chunk."""
    delay: NonNegativeFloat = 30.0
    """For `slow_headers`: seconds."""

    crlf: bool = False
    """Lines end with CR LF."""
    comments: bool = False
    """A comment line before each event."""
    split: PositiveInt | None = None
    """Write the body in pieces of so many bytes, in the middle of lines and characters."""
    ascii: bool = False
    r"""Write all other than ASCII as `\u` escapes."""
    usage_in_last_choice: bool = False
    """Usage comes with the finish reason, as older llama.cpp servers have it, instead of in a chunk of its own."""


def parse_script(model: str, field: object, default: Mapping[str, Any]) -> Script:
    """The script of a request: its model name's, then its `rehearsal` field's, over the server's default.

    Raises: InvalidScript.
    """
    wishes: dict[str, Any] = dict(default)
    wishes.update(parse_pairs(model[len(MODEL) + 1 :]) if model.startswith(f"{MODEL}:") else {})
    if isinstance(field, Mapping):
        wishes.update(field)  # pyright: ignore[reportUnknownArgumentType]  # foreign JSON, checked by Script below
    elif field is not None:
        raise InvalidScript(f"`rehearsal` must be an object, not {field!r}")
    try:
        return Script.model_validate(wishes)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(sorted(Script.model_fields))
        raise InvalidScript(f"script key {where!r}: {first['msg']}; known keys: {known}") from error


def parse_pairs(pairs: str) -> dict[str, str]:
    """`a=1,b=%2C` as a mapping. Raises: InvalidScript for a part without `=`."""
    wishes: dict[str, str] = {}
    for pair in filter(None, pairs.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidScript(f"{pair!r} is no key=value: write {MODEL}:key=value,key=value")
        wishes[name.strip()] = unquote(value)
    return wishes
