"""Events as bytes: server-sent events, or lines of JSON. Pure.

An event's payload is always one line of JSON: whatever a model writes (CR, LF, NUL, U+2028), it cannot end the event.
Source: html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.
"""

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic_core import to_json

from tailrace.schemas import Position
from tailrace.views import View

Wire = Literal["sse", "ndjson"]


class Encoded(NamedTuple):
    """One event as it is sent, and the record that it came in."""

    position: Position
    data: bytes


#: A view whose items are bytes. Its `feed` may raise StreamCut.
Encoder = View[Encoded]


class StreamCut(Exception):
    """Raised by an encoder: these events yet, then the connection is dropped without an end."""

    def __init__(self, reason: str, events: Sequence[Encoded] = ()) -> None:
        super().__init__(reason)
        self.events = list(events)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of stream of a job. Equal kinds are encoded once, for all their readers."""

    name: Hashable
    """What tells it from others: everything that its encoder depends on but the job."""
    encoder: Callable[[str], Encoder]
    """Makes the encoder of a job, by its id."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def sse_event(payload: bytes, *, id: str | None = None, event: str | None = None) -> bytes:  # noqa: A002  # SSE's word
    """A server-sent event. `payload` has no line break (JSON has none); without `event` it is a `message`."""
    head = f"id: {id}\n" if id is not None else ""
    if event is not None:
        head += f"event: {event}\n"
    return b"%bdata: %b\n\n" % (head.encode(), payload)


def sse_comment(text: str = "") -> bytes:
    """What readers pass over: keeps a quiet connection alive. `text` has no line break.

    No empty line behind it: the packages of OpenAI would take that for the end of an event without data.
    """
    return f": {text}\n".encode() if text else b":\n"


def sse_retry(ms: int) -> bytes:
    """How long a reader waits before it connects again."""
    return f"retry: {ms}\n\n".encode()


def ndjson_line(payload: bytes, *, id: str | None = None, event: str | None = None) -> bytes:  # noqa: A002  # as in SSE
    """The same as one line of JSON: {"id", "event", "data"}."""
    return b'{"id":%b,"event":"%b","data":%b}\n' % (
        b"null" if id is None else b'"%b"' % id.encode(),
        (event or "message").encode(),
        payload,
    )


def json_payload(value: Any) -> bytes:
    """A value as one line of JSON in UTF-8. Lone surrogates, which are no characters, stay escaped."""
    try:
        return to_json(value, inf_nan_mode="null")
    except ValueError:
        return json.dumps(value, separators=(",", ":")).encode()
