"""The Responses API's stream.

Text deltas become text of their part; every other event is kept whole (Native), so that the upstream's own stream can
be told again. Four kinds of event repeat what was streamed: `*.done` of a text, `content_part.done`,
`output_item.done` and the final response. The first two are left out where they say exactly what was streamed (they
would treble the size of a log); the last two are kept, because they carry what no delta has (status, annotations,
encrypted reasoning, usage).
"""

from typing import Any, Final, cast

from tailrace.schemas import Finish, Logprobs, Native, OpenPart
from tailrace.worker.sources.decoding import EventReader, Item, Outcome, Part, PartWriter, outcome
from tailrace.worker.sources.errors import broken, malformed, reported
from tailrace.worker.sse import Event

#: The event that carries text -> the part it is text of, and the key that tells parts of one item apart.
_DELTAS: Final[dict[str, tuple[Part, str]]] = {
    "response.output_text.delta": ("text", "content_index"),
    "response.refusal.delta": ("refusal", "content_index"),
    "response.reasoning_text.delta": ("reasoning", "content_index"),
    "response.reasoning_summary_text.delta": ("reasoning", "summary_index"),
    "response.function_call_arguments.delta": ("tool_call", "output_index"),
}
#: The event that repeats a text -> the field with the text.
_REPEATS: Final = {
    "response.output_text.done": "text",
    "response.refusal.done": "refusal",
    "response.reasoning_text.done": "text",
    "response.reasoning_summary_text.done": "text",
    "response.function_call_arguments.done": "arguments",
    "response.content_part.done": "part",
    "response.reasoning_summary_part.done": "part",
}
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})

#: Which text: item, place in the item, part.
_Key = tuple[object, object, str]


class ResponsesDecoder:
    """Decodes one stream of the Responses API. Its end is response.completed, .incomplete or .failed, nothing else."""

    def __init__(self, secret: str = "") -> None:
        self._reader = EventReader(secret)
        self._secret = secret
        self._parts = PartWriter()
        self._streamed: dict[_Key, list[str]] = {}
        self._calls: dict[object, tuple[int, str | None, str | None]] = {}  # item -> index, call id, name
        self._end: Outcome | None = None

    @property
    def complete(self) -> bool:
        return self._end is not None

    def feed(self, event: Event) -> list[Item]:
        """The items of one event. Raises: UpstreamError."""
        items: list[Item] = []
        if self._end is not None or event.data == b"[DONE]":
            return items
        body = self._reader.read(event)
        kind = body.get("type")
        if event.bare and not body:
            return items
        if not isinstance(kind, str):
            if "message" in body or "detail" in body:
                raise reported(self._reader.clean(body), secret=self._secret)
            raise malformed("the upstream sent an event without a type")
        if kind == "error":
            raise reported(self._reader.clean(body), secret=self._secret)
        if kind in _DELTAS and isinstance(body.get("delta"), str):
            self._delta(kind, body, items)
            return items
        if kind == "response.output_item.added":
            self._item_added(body)
        if kind in _ENDS:
            self._ended(kind, body, items)
        elif not self._repeats(kind, body):
            items.append(Native(event=self._reader.clean(body)))
        return items

    def close(self) -> Outcome:
        """How it ended. Raises: UpstreamError if no final response came."""
        self._reader.check_end()
        if self._end is None:
            raise broken("the stream ended without a final response")
        return self._end

    def _delta(self, kind: str, body: dict[str, Any], items: list[Item]) -> None:
        part, place = _DELTAS[kind]
        item, place_value = _told(self._reader.clean(body.get("item_id"))), _told(body.get(place))
        text: str = body["delta"]
        opening = OpenPart(part=part, id=item if isinstance(item, str) else None)
        if part == "tool_call":
            index, call_id, name = self._calls.setdefault(item, (len(self._calls), None, None))
            opening = OpenPart(part=part, index=index, id=call_id or opening.id, name=name)
        where = (item, place_value, part)
        self._streamed.setdefault(where, []).append(text)
        self._parts.put(opening, text, items, key=where, lossy=self._reader.lossy)
        if body.get("logprobs"):
            items.append(Logprobs(logprobs=self._reader.clean(body["logprobs"])))

    def _item_added(self, body: dict[str, Any]) -> None:
        item = body.get("item")
        if isinstance(item, dict):
            fields = cast("dict[str, Any]", item)
            if fields.get("type") == "function_call":
                call_id, name = (self._reader.clean(fields.get(field)) for field in ("call_id", "name"))
                self._calls[_told(fields.get("id"))] = (
                    len(self._calls),
                    call_id if isinstance(call_id, str) else None,
                    name if isinstance(name, str) else None,
                )

    def _repeats(self, kind: str, body: dict[str, Any]) -> bool:
        """Whether the event says nothing that was not streamed."""
        field = _REPEATS.get(kind)
        if field is None:
            return False
        item, value = _told(body.get("item_id")), body.get(field)
        if field == "part":
            part = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
            value = part.get("text", part.get("refusal"))
        return isinstance(value, str) and any(
            where[0] == item and where[1] in _places(body) and "".join(texts) == value
            for where, texts in self._streamed.items()
        )

    def _ended(self, kind: str, body: dict[str, Any], items: list[Item]) -> None:
        response = body.get("response")
        if not isinstance(response, dict):
            raise malformed(f"the upstream sent {kind} without a response")
        fields: dict[str, Any] = self._reader.clean(cast("dict[str, Any]", response))
        if kind == "response.failed":
            raise reported(fields, secret=self._secret)
        if kind == "response.incomplete":
            details = fields.get("incomplete_details")
            told = cast("dict[str, Any]", details).get("reason") if isinstance(details, dict) else None
            reason = told if isinstance(told, str) else "max_output_tokens"
        else:
            reason = "tool_calls" if self._calls else "stop"
        self._parts.flush(items)
        items.append(Finish(reason=reason))
        items.append(Native(event=self._reader.clean(body)))
        usage, model, response_id = fields.get("usage"), fields.get("model"), fields.get("id")
        self._end = outcome(
            reason,
            cast("dict[str, Any]", usage) if isinstance(usage, dict) else None,
            model if isinstance(model, str) else None,
            response_id if isinstance(response_id, str) else None,
        )


def _told(value: object) -> str | int | None:
    """An id or an index; None for what can be neither (a list would be no key of a dict)."""
    return value if isinstance(value, str | int) else None


def _places(body: dict[str, Any]) -> tuple[object, ...]:
    return tuple(body.get(name) for name in ("content_index", "summary_index", "output_index"))
