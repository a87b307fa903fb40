"""What the decoders share: JSON of events, the part that text belongs to, halves of surrogate pairs, the outcome."""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, cast

from pydantic_core import from_json

from tailrace.schemas import Delta, OpenPart, Status
from tailrace.worker.sources.errors import UpstreamError, describe, malformed, reported
from tailrace.worker.sse import Event

#: Text of the part that was opened last (at the beginning: the text of choice 0), or what is not text.
Item = str | Delta

Part = Literal["text", "reasoning", "refusal", "tool_call"]

DONE: Final = b"[DONE]"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
#: pydantic reads JSON to a depth of 200, Lua's cjson to 1000; a record adds some levels of its own.
_DEEPEST: Final = 100
_BARE_LINES: Final = 1000
_BARE_BYTES: Final = 64 * 1024
_INCOMPLETE: Final = frozenset({"length", "content_filter", "max_tokens", "max_output_tokens"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stream ended that ended well."""

    finish_reason: str | None
    """The upstream's word for choice 0; None if it gave [DONE] only."""
    usage: dict[str, Any] | None
    model: str | None
    """Which model answered, as the upstream names it."""
    status: Literal[Status.COMPLETED, Status.INCOMPLETE]
    response_id: str | None = field(default=None, compare=False)
    """The upstream's name for the answer. For operators only: it is another one in each attempt."""


class Decoder(Protocol):
    """Turns the events of one stream into items. Raises UpstreamError for what breaks the stream."""

    @property
    def complete(self) -> bool:
        """Whether the protocol's own end was seen: nothing that could still come matters."""
        ...

    def feed(self, event: Event) -> list[Item]: ...

    def close(self) -> Outcome:
        """The stream has ended. Raises: UpstreamError if it should not have."""
        ...


def outcome(
    reason: str | None, usage: dict[str, Any] | None, model: str | None, response_id: str | None = None
) -> Outcome:
    """The outcome that a finish reason means."""
    return Outcome(reason, usage, model, Status.INCOMPLETE if reason in _INCOMPLETE else Status.COMPLETED, response_id)


class EventReader:
    """The JSON object of an event, or the error that the upstream reports in it."""

    def __init__(self, secret: str = "") -> None:
        self._secret = secret
        self._bare: list[bytes] = []
        self.lossy = False
        """Whether the last object has lone surrogates in it."""

    def read(self, event: Event) -> dict[str, Any]:
        """Raises: UpstreamError for an error report and for what is no JSON object."""
        if event.bare:
            return self._read_bare(event.data)
        if self._bare:
            self.check_end()
        try:
            body = self._parse(event.data)
        except (ValueError, RecursionError):
            if event.name == "error":
                raise reported(event.data.decode(errors="replace"), secret=self._secret) from None
            what = "an event without data" if not event.data else "an event that is no JSON"
            raise malformed(f"the upstream sent {what}") from None
        if event.name == "error":
            raise reported(self.clean(body), secret=self._secret)
        if not isinstance(body, dict):
            raise malformed(f"the upstream sent an event that is no JSON object but a {type(body).__name__}")
        fields = cast("dict[str, Any]", body)
        if fields.get("error"):
            raise reported(self.clean(fields), secret=self._secret)
        return fields

    def check_end(self) -> None:
        """The end of the stream. Raises: UpstreamError if half of a bare error body is all that came."""
        if self._bare:
            raise reported(None, secret=self._secret)

    def clean(self, value: Any) -> Any:
        """Foreign JSON that can be stored: U+FFFD for each lone surrogate.

        Raises: UpstreamError for what readers of JSON do not agree about: numbers without end, depths without end.
        """
        return _storable(value, lossy=self.lossy)

    def _read_bare(self, line: bytes) -> dict[str, Any]:
        # The body may be pretty-printed: collect its lines until they are JSON together.
        self._bare.append(line)
        # Each line has all before it parsed again: what is larger is no error body.
        if len(self._bare) <= _BARE_LINES and sum(map(len, self._bare)) <= _BARE_BYTES:
            try:
                body = self._parse(b"\n".join(self._bare))
            except (ValueError, RecursionError):
                return {}
            if describe(body)[0]:
                raise reported(self.clean(body), secret=self._secret)
            raise malformed("the upstream sent JSON that is no server-sent event")
        raise reported(None, secret=self._secret)

    def _parse(self, data: bytes) -> Any:
        self.lossy = False
        try:
            return from_json(data)
        except ValueError:
            # An upstream that cuts a character into two deltas sends each half as an escape; only json takes those.
            if b"\\u" not in data:
                raise
        body = json.loads(data.decode())
        self.lossy = True
        return body


class PartWriter:
    """Keeps which part is open: text goes out as it is, and an opening only where the part changes."""

    def __init__(self) -> None:
        self._open: tuple[str, int, object] = ("text", 0, 0)
        self._halves: dict[tuple[str, int, object], tuple[OpenPart, str]] = {}

    def put(self, opening: OpenPart, text: str, items: list[Item], *, key: object = None, lossy: bool = False) -> None:
        """Text of a part. `key` tells parts apart that look alike (default: the index)."""
        where = (opening.part, opening.choice, opening.index if key is None else key)
        if lossy or where in self._halves:
            text = self._joined(where, opening, text)
        if text:
            if where != self._open:
                self.open(opening, items, key=key)
            items.append(text)

    def put_text(self, text: str, items: list[Item]) -> bool:
        """Text of choice 0 while it is open and has no half: the hot path. False if the long way must be taken."""
        if self._open != ("text", 0, 0) or self._halves:
            return False
        if text:
            items.append(text)
        return True

    def open(self, opening: OpenPart, items: list[Item], *, key: object = None) -> None:
        """Open a part, also one that has no text (a tool call without arguments)."""
        self._open = (opening.part, opening.choice, opening.index if key is None else key)
        items.append(opening)

    def flush(self, items: list[Item], choice: int | None = None) -> None:
        """No more text comes (for this choice): halves that stayed alone become U+FFFD."""
        for where in [where for where in self._halves if choice is None or where[1] == choice]:
            opening, _ = self._halves.pop(where)
            if where != self._open:
                self._open = where
                items.append(opening)
            items.append("\ufffd")

    def _joined(self, where: tuple[str, int, object], opening: OpenPart, text: str) -> str:
        if not text:
            return ""
        held = self._halves.pop(where, None)
        text = (held[1] if held else "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[where] = (opening, text[-1])
            text = text[:-1]
        return join_surrogates(text)


def join_surrogates(text: str) -> str:
    """The text with surrogate pairs as characters and U+FFFD for each lone one."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def counted(value: object, what: str) -> int:
    """An index of foreign JSON; a missing one is 0. Raises: UpstreamError."""
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000:
        return value
    raise malformed(f"the upstream sent {what} that is no index")


def objects(value: object, what: str) -> list[dict[str, Any]]:
    """A list of objects of foreign JSON; a missing one is empty. Raises: UpstreamError."""
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(item, dict) for item in cast("list[object]", value)):
        return cast("list[dict[str, Any]]", value)
    raise malformed(f"the upstream sent {what} that are no list of objects")


def _storable(value: Any, *, lossy: bool, depth: int = 0) -> Any:
    if isinstance(value, str):
        return join_surrogates(value) if lossy and _SURROGATE.search(value) else value
    if isinstance(value, float) and not math.isfinite(value):
        raise malformed("the upstream sent a number that JSON has no word for")
    if isinstance(value, dict | list):
        if depth == _DEEPEST:
            raise malformed(f"the upstream sent JSON that is nested more than {_DEEPEST} deep")
        if isinstance(value, list):
            return [_storable(item, lossy=lossy, depth=depth + 1) for item in value]  # pyright: ignore[reportUnknownVariableType]  # foreign JSON
        return {
            _storable(name, lossy=lossy): _storable(item, lossy=lossy, depth=depth + 1)
            for name, item in cast("dict[str, Any]", value).items()
        }
    return value


__all__ = [
    "DONE",
    "Decoder",
    "EventReader",
    "Item",
    "Outcome",
    "Part",
    "PartWriter",
    "UpstreamError",
    "counted",
    "join_surrogates",
    "objects",
    "outcome",
]
