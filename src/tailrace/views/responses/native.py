"""Events and items of an upstream that speaks the Responses API itself.

Such a log holds the upstream's own events whole, but for what repeats: text deltas are chunks, and the `done` events that
say again what was streamed are left out. This fold puts both back.
Source: platform.openai.com/docs/api-reference/responses-streaming.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from tailrace.schemas import Entry, JsonObject, Logprobs, Native, OpenPart
from tailrace.views._fields import json_dict, number, string
from tailrace.views._parts import Parts, Piece, Text
from tailrace.views.responses.completing import Completer
from tailrace.views.responses.drafts import TEXT_FIELDS, Draft

#: The type of a content part -> the part of the log that it is text of.
_CONTENT: Final = {
    "output_text": "text",
    "refusal": "refusal",
    "reasoning_text": "reasoning",
    "summary_text": "reasoning",
}
_ADDED: Final = frozenset({"response.content_part.added", "response.reasoning_summary_part.added"})
_PART_DONE: Final = frozenset({"response.content_part.done", "response.reasoning_summary_part.done"})
_TEXT_DONE: Final = frozenset(
    {
        "response.output_text.done",
        "response.refusal.done",
        "response.reasoning_text.done",
        "response.reasoning_summary_text.done",
        "response.function_call_arguments.done",
    }
)
#: What a `done` event that came whole says that nothing of ours has to say again.
_NO_MORE: Final = frozenset({*_PART_DONE, *_TEXT_DONE})
#: Events of the whole response. A job has its own.
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_LIFE: Final = frozenset({"response.created", "response.queued", "response.in_progress", *_ENDS})
#: Items that know no status `incomplete`.
_FAILING: Final = frozenset({"web_search_call", "image_generation_call"})


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
    """The part as it was added; of a call its name."""
    said_in: str
    text: list[str] = field(default_factory=list[str])
    logprobs: list[JsonValue] = field(default_factory=list[JsonValue])
    text_done: bool = False
    part_done: bool = False

    def whole(self) -> JsonObject:
        part: JsonObject = {**self.opened, self.said_in: "".join(self.text)}
        if self.part == "text":
            part["logprobs"] = [*self.logprobs]
        return part


class NativeFold:
    """The upstream's events, its own numbers of items and its ids in them."""

    def __init__(self) -> None:
        self.final: JsonObject | None = None
        self._parts = Parts()
        self._completer = Completer()
        self._places: list[_Place] = []
        self._calls: list[_Place] = []
        self._open: _Place | None = None
        self._items: dict[int, JsonObject] = {}
        """As they were added; as they were done when they are."""
        self._done: set[int] = set()

    def take(self, entry: Entry) -> list[Draft]:
        piece = self._parts.read(entry)
        match piece:
            case None:
                return []
            case Logprobs():
                body = self.weigh(piece)
                return [] if body is None else [_draft(body)]
            case Native():
                over = piece.event.get("type") == "response.output_item.done"
                bodies = self.bodies(piece)
                return [_draft(body, closing=over) for body in bodies if body.get("type") not in _LIFE]
            case _:
                return [_draft(body) for body in self.bodies(piece)]

    def open_items(self) -> list[int]:
        return [item for item in self._items if item not in self._done]

    def close(self, item: int, status: str) -> list[Draft]:
        if item not in self._items:  # events of an item that the upstream has never added
            return []
        if string(self._items[item].get("type")) in _FAILING and status == "incomplete":
            status = "failed"
        bodies = [*self._finish(string(self._items[item].get("id")) or "")]
        done: JsonObject = {**self._now(item), "status": status}
        self._items[item] = done
        self._done.add(item)
        bodies.append({"type": "response.output_item.done", "output_index": item, "item": {**done}})
        return [_draft(body, closing=True) for body in bodies]

    def items(self) -> list[tuple[int, JsonObject]]:
        return [(item, self._now(item)) for item in sorted(self._items)]

    def bodies(self, piece: Piece) -> Iterator[JsonObject]:
        """The events of a piece; their `sequence_number`, if any, is the upstream's."""
        match piece:
            case Native():
                yield from self._native(piece.event)
            case OpenPart():
                self._open = self._find(piece)
            case Text():
                # Text of an event that an older writer kept whole reads as Text too: it has no place of its own.
                place = self._open or self._latest(piece.part)
                if place is not None:
                    yield _delta(place, piece.text, piece.logprobs)
            case _:
                pass

    def weigh(self, piece: Logprobs) -> JsonObject | None:
        """Log probabilities in a record of their own, behind their text: a delta without text."""
        if self._open is None or self._open.part != "text" or not isinstance(piece.logprobs, list):
            return None
        return _delta(self._open, "", piece.logprobs)

    def _native(self, event: JsonObject) -> Iterator[JsonObject]:
        event = self._completer.completed(event)
        kind = string(event.get("type")) or ""
        response = event.get("response")
        if kind == "response.output_item.done":
            yield from self._finish(string(json_dict(event.get("item")).get("id")) or "")
            self._item_done(event)
        elif kind in _NO_MORE:
            yield from self._seen(kind, event)
        elif kind in _ENDS and isinstance(response, dict):
            self.final = response
        yield {**event}
        if kind in _ADDED:
            self._added(kind, event)
        elif kind == "response.output_item.added":
            self._item_added(event)

    def _added(self, kind: str, event: JsonObject) -> None:
        opened = json_dict(event.get("part"))
        content = string(opened.get("type")) or ""
        if content not in _CONTENT:
            return
        index = "summary_index" if "summary" in kind else "content_index"
        name = "reasoning_summary_text" if content == "summary_text" else content
        where: JsonObject = {key: event.get(key) for key in ("item_id", "output_index", index)}
        item_id = string(event.get("item_id")) or ""
        place = _Place(_CONTENT[content], item_id, where, f"response.{name}", opened, TEXT_FIELDS[content])
        self._places.append(place)

    def _item_added(self, event: JsonObject) -> None:
        item, index = json_dict(event.get("item")), number(event.get("output_index"), 0)
        self._items[index] = item
        if item.get("type") == "function_call":
            item_id = string(item.get("id")) or ""
            where: JsonObject = {"item_id": item_id, "output_index": index}
            opened: JsonObject = {"name": item.get("name")}
            place = _Place("tool_call", item_id, where, "response.function_call_arguments", opened, "arguments")
            self._places.append(place)
            self._calls.append(place)

    def _item_done(self, event: JsonObject) -> None:
        index = number(event.get("output_index"), 0)
        self._items[index] = json_dict(event.get("item"))
        self._done.add(index)

    def _now(self, index: int) -> JsonObject:
        """An item with the text that was streamed so far."""
        item = self._items[index]
        if index in self._done:
            return {**item}
        now: JsonObject = {**item}
        content: list[JsonValue] = []
        summary: list[JsonValue] = []
        for place in self._places_of(string(item.get("id")) or ""):
            if place.part == "tool_call":
                now["arguments"] = "".join(place.text)
            else:
                (summary if "summary" in place.event else content).append(place.whole())
        if content:
            now["content"] = content
        if summary:
            now["summary"] = summary
        return now

    def _find(self, opening: OpenPart) -> _Place | None:
        if opening.part == "tool_call":
            return self._calls[opening.index] if opening.index < len(self._calls) else None
        return self._latest(opening.part, opening.id)

    def _latest(self, part: str, item_id: str | None = None) -> _Place | None:
        fitting = (place for place in reversed(self._places) if place.part == part and item_id in (None, place.item_id))
        return next(fitting, None)

    def _places_of(self, item_id: str) -> list[_Place]:
        return [place for place in self._places if place.item_id == item_id]

    def _seen(self, kind: str, event: JsonObject) -> Iterator[JsonObject]:
        """A `done` event that came whole, because it says something that was not streamed."""
        for place in self._places_of(string(event.get("item_id")) or ""):
            if all(event.get(key) == at for key, at in place.where.items()):
                if kind in _PART_DONE:
                    yield from _text_done(place)
                    place.part_done = True
                else:
                    place.text_done = True

    def _finish(self, item_id: str) -> Iterator[JsonObject]:
        """What the upstream said before an item was done, where the log leaves it out."""
        for place in self._places_of(item_id):
            yield from _text_done(place)
            if not place.part_done and place.part != "tool_call":
                place.part_done = True
                kind = "reasoning_summary_part" if "summary" in place.event else "content_part"
                yield {"type": f"response.{kind}.done", **place.where, "part": place.whole()}


def _draft(body: JsonObject, *, closing: bool = False) -> Draft:
    item = body.get("output_index")
    return Draft(item if isinstance(item, int) else None, closing, body)


def _delta(place: _Place, text: str, logprobs: JsonValue) -> JsonObject:
    place.text.append(text)
    body: JsonObject = {"type": f"{place.event}.delta", **place.where, "delta": text}
    if place.part == "text":
        if isinstance(logprobs, list):
            place.logprobs += logprobs
        body["logprobs"] = logprobs or []
    return body


def _text_done(place: _Place) -> Iterator[JsonObject]:
    if place.text_done:
        return
    place.text_done = True
    said: JsonObject = {place.said_in: "".join(place.text)}
    if place.part == "tool_call":
        said |= {"name": place.opened.get("name")}
    elif place.part == "text":
        said |= {"logprobs": [*place.logprobs]}
    yield {"type": f"{place.event}.done", **place.where, **said}
