"""Compaction: a conversation as the user's messages and one item that stands for all the rest. Pure.

The rest is a summary, written by the model that is asked. The item carries it in itself, so that it is understood by any
gateway, however long the conversation is kept. It is encoded, not encrypted: opaque to clients, and nothing that they may
not know. Compaction items of others are left as they are: who made them understands them.
Source: openresponses.org, `POST /responses/compact`.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Final

from tailrace.gateway.errors import ApiError
from tailrace.schemas import JsonObject

TYPE: Final = "compaction"
#: What ours begin with: the format's version is in it.
_OURS: Final = "tailrace1."
#: Their words count for as long as the conversation does. What the assistant said and what tools answered is summed up.
_KEPT_ROLES: Final = frozenset({"user", "system", "developer"})

_ASK: Final = (
    "Sum up our conversation up to this message. You will go on with it later and then see my own messages and your "
    "summary, but nothing else: neither your answers nor what tools returned. So keep all that you may need: facts, names, "
    "numbers, decisions and their reasons, results of tools, what is done and what is still to do. Reply with the summary "
    "alone, and do not answer earlier messages again."
)
_HEAD: Final = "Summary of the conversation so far:\n\n"


def asking(items: Sequence[JsonObject]) -> list[JsonObject]:
    """The items, and after them the request for a summary."""
    return [*items, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": _ASK}]}]


def kept(items: Iterable[JsonObject]) -> list[JsonObject]:
    """The items that stay as they are."""
    return [item for item in items if item.get("type") == "message" and item.get("role") in _KEPT_ROLES]


def packed(summary: str, item_id: str) -> JsonObject:
    """The item that stands for what was summed up."""
    content = base64.urlsafe_b64encode(json.dumps({"summary": summary}).encode()).decode()
    return {"id": item_id, "type": TYPE, "encrypted_content": _OURS + content}


def unpacked(items: Sequence[JsonObject]) -> list[JsonObject]:
    """The items with summaries in the place of our compaction items. Raises: ApiError for one that is damaged."""
    return [_summary(item, number) if _is_ours(item) else item for number, item in enumerate(items)]


def _is_ours(item: JsonObject) -> bool:
    return item.get("type") == TYPE and str(item.get("encrypted_content")).startswith(_OURS)


def _summary(item: JsonObject, number: int) -> JsonObject:
    try:
        content = json.loads(base64.urlsafe_b64decode(str(item["encrypted_content"]).removeprefix(_OURS)))
        summary = str(content["summary"])
    except (ValueError, TypeError, KeyError):
        where = f"input[{number}].encrypted_content"
        raise ApiError(
            400, f"{where}: not as it was given out: send it unchanged", code="invalid_request", param=where
        ) from None
    # The assistant's own words: a summary of what tools said must not have a system message's weight.
    text: JsonObject = {"type": "output_text", "text": _HEAD + summary, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [text]}
