"""Events before they are told: of items that the fold of one log counts for itself, without sequence numbers."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from tailrace.schemas import Entry, JsonObject
from tailrace.views._fields import string

#: The parts of a chat's stream and the content parts of an item -> the field that says their text.
TEXT_FIELDS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text", "summary_text": "text"}


class Draft(NamedTuple):
    """An event of a fold. Whoever tells it may change its body: nobody else holds it."""

    item: int | None
    """Which item of the fold's output it is of; None if of none."""
    closing: bool
    """Whether it only says again, because the item is over, what its other events have said."""
    body: JsonObject


class Fold(Protocol):
    """From the entries of a run that stand to events and items.

    The drafts of an entry follow from that entry and those before it, so the fold of a beginning of a log gives the
    beginning of the log's drafts.
    """

    @property
    def final(self) -> JsonObject | None:
        """The upstream's own final response object, if it sent one."""
        ...

    def take(self, entry: Entry) -> list[Draft]:
        """The events that the next entry gives."""
        ...

    def open_items(self) -> list[int]:
        """The items that are not over."""
        ...

    def close(self, item: int, status: str) -> list[Draft]:
        """The events that end an open item."""
        ...

    def items(self) -> list[tuple[int, JsonObject]]:
        """The items as they are now, with their numbers."""
        ...


def joined(drafts: Iterable[Draft]) -> list[Draft]:
    """The same with deltas of one text after another as one delta: for what is told again."""
    told: list[Draft] = []
    for draft in drafts:
        before = told[-1] if told else None
        if before is None or not _goes_on(before.body, draft.body):
            told.append(draft)
            continue
        body = {**before.body, "delta": f"{before.body['delta']}{draft.body['delta']}"}
        one, two = body.get("logprobs"), draft.body.get("logprobs")
        if isinstance(one, list) and isinstance(two, list):
            body["logprobs"] = one + two
        told[-1] = before._replace(body=body)
    return told


def _goes_on(one: JsonObject, two: JsonObject) -> bool:
    if not (string(two.get("type")) or "").endswith(".delta") or not isinstance(two.get("delta"), str):
        return False
    varying = {"delta", "logprobs"}
    return one.keys() == two.keys() and all(one[name] == two[name] for name in one.keys() - varying)
