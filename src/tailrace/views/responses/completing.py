"""Events of upstreams that speak the Responses API by halves, with what is missing put in.

llama.cpp's server names no places (`output_index`, `content_index`) and no annotations. Whoever follows the events by them, as
OpenAI's packages do, would fail at the first delta.
"""

from typing import Final

from tailrace.schemas import JsonObject
from tailrace.views._fields import json_dict, string

_IN_SUMMARY: Final = ("response.reasoning_summary_part.", "response.reasoning_summary_text.")
_IN_CONTENT: Final = (
    "response.content_part.",
    "response.output_text.",
    "response.refusal.",
    "response.reasoning_text.",
)
_ADDED: Final = (".output_item.added", "_part.added")


class Completer:
    """Takes the events of one response in their order. One that lacks nothing comes back as it is."""

    def __init__(self) -> None:
        self._items: dict[str, int] = {}
        """The `output_index` of each item, by its id."""
        self._next = 0
        self._parts: dict[tuple[str, str], int] = {}
        """The index of the last part of each item."""

    def completed(self, event: JsonObject) -> JsonObject:
        """The event with its places."""
        kind = string(event.get("type")) or ""
        response, item, part = event.get("response"), event.get("item"), event.get("part")
        if isinstance(response, dict):
            return {**event, "response": _whole_response(response)}
        if isinstance(item, dict):
            event = {**event, "item": _whole_item(item, "completed" if kind.endswith(".done") else "in_progress")}
        elif isinstance(part, dict):
            event = {**event, "part": _whole_part(part)}
        elif "item_id" not in event:
            return event
        name = string(json_dict(item).get("id")) or string(event.get("item_id")) or ""
        event = self._placed(event, name, new=kind.endswith(_ADDED[0]))
        for prefixes, index in ((_IN_CONTENT, "content_index"), (_IN_SUMMARY, "summary_index")):
            if kind.startswith(prefixes):
                event = self._within(event, name, index, new=kind.endswith(_ADDED[1]))
        return event

    def _placed(self, event: JsonObject, name: str, *, new: bool) -> JsonObject:
        given = event.get("output_index")
        index = (
            given if isinstance(given, int) else self._next if new else self._items.get(name, max(self._next - 1, 0))
        )
        self._items[name] = index
        self._next = max(self._next, index + 1)
        return event if given == index else {**event, "output_index": index}

    def _within(self, event: JsonObject, name: str, index: str, *, new: bool) -> JsonObject:
        given, last = event.get(index), self._parts.get((name, index), -1)
        at = given if isinstance(given, int) else last + 1 if new else max(last, 0)
        self._parts[name, index] = at
        return event if given == at else {**event, index: at}


def _whole_response(response: JsonObject) -> JsonObject:
    output = response.get("output")
    if not isinstance(output, list):
        return response
    items = [_whole_item(item, "completed") if isinstance(item, dict) else item for item in output]
    return {**response, "output": items}


def _whole_item(item: JsonObject, status: str) -> JsonObject:
    content = item.get("content")
    whole: JsonObject = {**item}
    if isinstance(content, list):
        whole["content"] = [_whole_part(part) if isinstance(part, dict) else part for part in content]
    if item.get("type") in ("message", "function_call"):
        whole["status"] = item.get("status") or status
    return whole


def _whole_part(part: JsonObject) -> JsonObject:
    return {**part, "annotations": part.get("annotations") or []} if part.get("type") == "output_text" else part
