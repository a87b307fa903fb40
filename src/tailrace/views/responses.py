"""The Responses API's events, of a job whose upstream speaks that API.

Such a log holds the upstream's own events whole, but for what repeats: text deltas are chunks, and the `done` events that
say again what was streamed are left out. This view puts both back and numbers everything from 0 without holes.
Source: platform.openai.com/docs/api-reference/responses-streaming.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from tailrace.schemas import EndRecord, JsonObject, Logprobs, Native, OpenPart
from tailrace.views._fields import json_dict, number, string
from tailrace.views._openai import OpenAIView
from tailrace.views._parts import Piece, Text

#: The type of a content part -> the part of the log, and the field that its `done` events say the text in.
_CONTENT: Final = {
    "output_text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning", "text"),
    "summary_text": ("reasoning", "text"),
}
_ADDED: Final = frozenset({"response.content_part.added", "response.reasoning_summary_part.added"})
_PART_DONE: Final = frozenset({"response.content_part.done", "response.reasoning_summary_part.done"})
_TEXT_DONE: Final = {
    "response.output_text.done": "text",
    "response.refusal.done": "refusal",
    "response.reasoning_text.done": "reasoning",
    "response.reasoning_summary_text.done": "reasoning",
    "response.function_call_arguments.done": "tool_call",
}
#: What a `done` event that came whole says that nothing of ours has to say again.
_NO_MORE: Final = frozenset({*_PART_DONE, *_TEXT_DONE})


@dataclass(slots=True)
class _Place:
    """A text in the output that is being streamed: a content part, a summary part, or a call's arguments."""

    part: str
    item_id: str
    where: JsonObject
    """The fields that name it in events."""
    event: str
    """`response.<event>.delta`, `response.<event>.done`."""
    opened: JsonObject
    """The part as it was added; empty for a call."""
    said_in: str
    text: list[str] = field(default_factory=list[str])
    logprobs: list[JsonValue] = field(default_factory=list[JsonValue])
    text_done: bool = False
    part_done: bool = False


class ResponsesView(OpenAIView):
    """The bodies of a response's events, `sequence_number` and all."""

    def _begin(self) -> None:
        self._sequence = 0
        self._places: list[_Place] = []
        self._calls: list[_Place] = []
        self._open: _Place | None = None

    def _fold(self, piece: Piece) -> Iterator[JsonObject]:
        match piece:
            case Native():
                yield from self._native(piece.event)
            case OpenPart():
                self._open = self._find(piece)
            case Text():
                # Text of an event that an older writer kept whole reads as Text too: it has no place of its own.
                place = self._open or self._latest(piece.part)
                if place is not None:
                    yield self._delta(place, piece.text, piece.logprobs)
            case Logprobs() if self._open is not None and isinstance(piece.logprobs, list):
                self._open.logprobs += piece.logprobs
            case _:
                pass

    def _close(self, end: EndRecord) -> Iterator[JsonObject]:  # noqa: ARG002 - the final response is in the log
        return iter(())

    def failed(self, error: JsonObject) -> JsonObject:
        """The `response.failed` event for a job that ended badly after it had begun to answer."""
        response: JsonObject = {
            "id": f"resp_{self.job_id}",
            "object": "response",
            "created_at": self.created,
            "model": self.model,
            "status": "failed",
            "error": error,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        return self._event("response.failed", response=response)

    def _native(self, event: JsonObject) -> Iterator[JsonObject]:
        kind = string(event.get("type")) or ""
        if kind == "response.output_item.done":
            yield from self._finish(string(json_dict(event.get("item")).get("id")) or "")
        elif kind in _NO_MORE:
            yield from self._seen(kind, event)
        yield {**event, "sequence_number": self._next()}
        if kind in _ADDED:
            self._added(kind, event)
        elif kind == "response.output_item.added":
            self._item_added(event)

    def _added(self, kind: str, event: JsonObject) -> None:
        opened = json_dict(event.get("part"))
        content = string(opened.get("type")) or ""
        if content not in _CONTENT:
            return
        part, said_in = _CONTENT[content]
        index = "summary_index" if "summary" in kind else "content_index"
        name = "reasoning_summary_text" if content == "summary_text" else content
        where: JsonObject = {key: event.get(key) for key in ("item_id", "output_index", index)}
        item_id = string(event.get("item_id")) or ""
        self._places.append(_Place(part, item_id, where, f"response.{name}", opened, said_in))

    def _item_added(self, event: JsonObject) -> None:
        item = json_dict(event.get("item"))
        if item.get("type") == "function_call":
            item_id = string(item.get("id")) or ""
            where: JsonObject = {"item_id": item_id, "output_index": number(event.get("output_index"), 0)}
            place = _Place("tool_call", item_id, where, "response.function_call_arguments", {}, "arguments")
            place.opened = {"name": item.get("name")}
            self._places.append(place)
            self._calls.append(place)

    def _find(self, opening: OpenPart) -> _Place | None:
        if opening.part == "tool_call":
            return self._calls[opening.index] if opening.index < len(self._calls) else None
        return self._latest(opening.part, opening.id)

    def _latest(self, part: str, item_id: str | None = None) -> _Place | None:
        fitting = (place for place in reversed(self._places) if place.part == part and item_id in (None, place.item_id))
        return next(fitting, None)

    def _delta(self, place: _Place, text: str, logprobs: JsonValue) -> JsonObject:
        place.text.append(text)
        if isinstance(logprobs, list):
            place.logprobs += logprobs
        more: JsonObject = {"logprobs": logprobs or []} if place.part == "text" else {}
        return self._event(f"{place.event}.delta", **place.where, delta=text, **more)

    def _seen(self, kind: str, event: JsonObject) -> Iterator[JsonObject]:
        """A `done` event that came whole, because it says something that was not streamed."""
        for place in self._places:
            if place.item_id == event.get("item_id") and all(event.get(key) == at for key, at in place.where.items()):
                if kind in _PART_DONE:
                    yield from self._text_done(place)
                    place.part_done = True
                else:
                    place.text_done = True

    def _finish(self, item_id: str) -> Iterator[JsonObject]:
        """What the upstream said before an item was done, where the log leaves it out."""
        for place in self._places:
            if place.item_id == item_id:
                yield from self._text_done(place)
                if not place.part_done and place.part != "tool_call":
                    place.part_done = True
                    kind = "reasoning_summary_part" if "summary" in place.event else "content_part"
                    yield self._event(f"response.{kind}.done", **place.where, part=_whole(place))

    def _text_done(self, place: _Place) -> Iterator[JsonObject]:
        if place.text_done:
            return
        place.text_done = True
        said: JsonObject = {place.said_in: "".join(place.text)}
        if place.part == "tool_call":
            said |= {"name": place.opened.get("name")}
        elif place.part == "text":
            said |= {"logprobs": [*place.logprobs]}
        yield self._event(f"{place.event}.done", **place.where, **said)

    def _event(self, kind: str, **fields: JsonValue) -> JsonObject:
        return {"type": kind, "sequence_number": self._next(), **fields}

    def _next(self) -> int:
        number_, self._sequence = self._sequence, self._sequence + 1
        return number_


def _whole(place: _Place) -> JsonObject:
    part: JsonObject = {**place.opened, place.said_in: "".join(place.text)}
    if place.part == "text":
        part["logprobs"] = [*place.logprobs]
    return part
