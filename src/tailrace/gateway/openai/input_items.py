"""The input items of a response, as they are listed. Pure."""

from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from tailrace.gateway.errors import ApiError
from tailrace.gateway.openai.kept import Kept
from tailrace.schemas import JsonObject

_PREFIXES: Final[Mapping[object, str]] = {
    "compaction": "cmp",
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}


def listed(kept: Kept, *, after: str | None, limit: int, newest_first: bool) -> tuple[list[JsonObject], bool]:
    """A page behind the item `after`, and whether there are more. Raises: ApiError if there is no such item."""
    items = input_items(kept)
    if newest_first:
        items.reverse()
    begin = 0
    if after is not None:
        begin = next((number + 1 for number, item in enumerate(items) if item["id"] == after), -1)
        if begin < 0:
            raise ApiError(400, f"no input item {after!r} in {kept.job_id!r}", code="invalid_request", param="after")
    return items[begin : begin + limit], begin + limit < len(items)


def input_items(kept: Kept) -> list[JsonObject]:
    """All of them, the oldest first, as the API shows them."""
    return [
        _item(item, f"{_PREFIXES.get(item.get('type'), 'item')}_{kept.job_id}_in{number}")
        for number, item in enumerate([*kept.asked.before, *kept.asked.items])
    ]


def _item(item: JsonObject, item_id: str) -> JsonObject:
    """As the API shows it: with an id, messages with a status and a list of parts."""
    shown: JsonObject = {**item, "id": item.get("id") or item_id}
    if item.get("type") == "message":
        shown |= {"status": item.get("status") or "completed", "content": _content(item)}
    return shown


def _content(item: JsonObject) -> JsonValue:
    content = item.get("content")
    said = "output_text" if item.get("role") == "assistant" else "input_text"
    if not isinstance(content, str):
        return content
    part: JsonObject = {"type": said, "text": content}
    return [part | {"annotations": []} if said == "output_text" else part]
