"""The story that a log tells a reader of the Responses API: which events each record gives, numbered.

The events follow from the records alone, in their order, each from those before it: whoever reads the log gets the same
events with the same numbers, however it was sent, whenever it is read. So what a rewind voids is told too.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from tailrace.schemas import CHUNK, ROOT, EndRecord, Entry, JsonObject, Status
from tailrace.views._fields import Point, json_dict, json_object, read_end, string
from tailrace.views._standing import ATTEMPT, DELTA, END_RECORD, JOB, REWIND, drop_after, rewound_to
from tailrace.views.responses.drafts import Draft, Fold, joined
from tailrace.views.responses.native import NativeFold
from tailrace.views.responses.object import response_of
from tailrace.views.responses.synthesised import SynthesisedFold

#: The records that bear on the story.
TOLD: Final = frozenset({JOB, ATTEMPT, CHUNK, DELTA, REWIND, END_RECORD})

_LAST_EVENTS: Final = {
    Status.COMPLETED: "response.completed",
    Status.INCOMPLETE: "response.incomplete",
    Status.FAILED: "response.failed",
    Status.EXPIRED: "response.failed",
}


@dataclass(slots=True)
class _Told:
    """An item as the reader knows it."""

    index: int
    """Its `output_index`."""
    id: str
    call_id: str
    drafts: int = 0
    """How many events of its content were told."""
    done: bool = False


class Telling:
    """What was told so far. `take` the records in order, whole logs from their first."""

    def __init__(self, job_id: str, fields: JsonObject) -> None:
        self.job_id = job_id
        self.fields = fields
        self.job: JsonObject = {}
        self.end: EndRecord | None = None
        self._started = False
        self._make: Callable[[], Fold] = lambda: SynthesisedFold(job_id)
        self._fold: Fold = self._make()
        self._stands: list[Entry] = []
        """The entries of the output that no rewind has voided."""
        self._told: dict[int, _Told] = {}
        """The items that stand, by their number in the fold."""
        self._indexes = 0
        self._names: set[str] = set()
        """Ids of items and calls that were used: what is told again needs others."""
        self._sequence = 0

    def take(self, entry: Entry) -> list[JsonObject]:
        """The events of the next record."""
        match entry.field:
            case "chunk" | "delta":
                self._stands.append(entry)
                return self._tell(self._fold.take(entry))
            case "job":
                return self._submitted(json_object(entry.value))
            case "attempt" if not self._started:
                self._started = True
                return [self._event("response.in_progress", response=self.response())]
            case "rewind":
                to = rewound_to(json_object(entry.value), ROOT)
                return [] if to is None else self._rewind(to)
            case "end":
                return self._ended(read_end(entry))
            case _:
                return []

    def response(self) -> JsonObject:
        """The Response object as it is now."""
        going = Status.IN_PROGRESS if self._started else Status.QUEUED
        return response_of(
            self.job_id,
            self.job,
            status=self.end.status if self.end is not None else going,
            output=self._output(),
            end=self.end,
            final=self._fold.final,
            fields=self.fields,
        )

    def _submitted(self, job: JsonObject) -> list[JsonObject]:
        self.job = job
        if job.get("api") == "responses":
            self._make = NativeFold
            self._fold = NativeFold()
        return [self._event(kind, response=self.response()) for kind in ("response.created", "response.queued")]

    def _tell(self, drafts: list[Draft]) -> list[JsonObject]:
        for draft in drafts:
            if not draft.closing and draft.item is not None:
                known = self._told.get(draft.item)
                if known is not None and known.done:
                    return self._tell_grown(drafts)
        return self._bodies(drafts)

    def _tell_grown(self, drafts: list[Draft]) -> list[JsonObject]:
        """More of items that were said to be over, because a restart has voided that: they are told again, as new ones."""
        grown = {
            draft.item
            for draft in drafts
            if not draft.closing and draft.item is not None and draft.item in self._told and self._told[draft.item].done
        }
        for item in grown:
            del self._told[item]
        again = self._refold()[1]
        bodies = self._bodies(draft for draft in drafts if draft.item not in grown)
        return bodies + [body for item in sorted(grown) for body in self._tell_again(item, again)]

    def _rewind(self, to: Point) -> list[JsonObject]:
        if not drop_after(self._stands, to):
            return []
        before = self._fold
        self._fold, drafts = self._refold()
        counts = Counter(draft.item for draft in drafts if not draft.closing)
        void = [item for item, told in self._told.items() if told.drafts != counts[item]]
        bodies = [body for item in void for body in self._bodies(before.close(item, "incomplete"))]
        for item in void:
            del self._told[item]
        return bodies + [body for item in sorted(void) for body in self._tell_again(item, drafts)]

    def _refold(self) -> tuple[Fold, list[Draft]]:
        """What stands, folded anew."""
        fold = self._make()
        return fold, [draft for entry in self._stands for draft in fold.take(entry)]

    def _tell_again(self, item: int, drafts: Iterable[Draft]) -> list[JsonObject]:
        """An item anew, as another one: as far as these drafts have it."""
        mine = [draft for draft in drafts if draft.item == item]
        last = max((at for at, draft in enumerate(mine) if not draft.closing), default=-1)
        content = [draft for draft in mine[: last + 1] if not draft.closing]
        bodies = self._bodies(joined(content) + mine[last + 1 :])
        if content:
            self._told[item].drafts = len(content)
        return bodies

    def _ended(self, end: EndRecord) -> list[JsonObject]:
        self.end = end
        status = "completed" if end.status is Status.COMPLETED else "incomplete"
        bodies: list[JsonObject] = []
        for item in self._fold.open_items():
            bodies += self._bodies(self._fold.close(item, status))
        # The API has no event for a cancelled response: its stream is over.
        if end.status in _LAST_EVENTS:
            bodies.append(self._event(_LAST_EVENTS[end.status], response=self.response()))
        return bodies

    def _output(self) -> list[JsonObject]:
        known = [(self._told[item], body) for item, body in self._fold.items() if item in self._told]
        said = (self._fold.final or {}).get("output")
        if isinstance(said, list):
            by_id = {string(body.get("id")): told for told, body in known}
            finals = [(json_dict(item), by_id.get(string(json_dict(item).get("id")))) for item in said]
            return [item if told is None else _renamed(item, told) for item, told in finals]
        return [_renamed(body, told) for told, body in sorted(known, key=lambda pair: pair[0].index)]

    def _bodies(self, drafts: Iterable[Draft]) -> list[JsonObject]:
        bodies: list[JsonObject] = []
        for item, closing, body in drafts:
            if item is not None:
                told = self._told.get(item)
                if told is None:
                    told = self._told[item] = self._new(body)
                if closing and told.done:
                    continue
                if not closing:
                    told.drafts += 1
                body["output_index"] = told.index
                if "item_id" in body:
                    body["item_id"] = told.id
                described = body.get("item")
                if isinstance(described, dict):
                    body["item"] = _renamed(described, told)
                    told.done = told.done or body["type"] == "response.output_item.done"
            body["sequence_number"] = self._sequence
            self._sequence += 1
            bodies.append(body)
        return bodies

    def _new(self, body: JsonObject) -> _Told:
        described = json_dict(body.get("item"))
        index, self._indexes = self._indexes, self._indexes + 1
        item_id = string(body.get("item_id")) or string(described.get("id")) or ""
        return _Told(index, self._unused(item_id, index), self._unused(string(described.get("call_id")) or "", index))

    def _unused(self, name: str, index: int) -> str:
        unused = f"{name}_{index}" if name in self._names else name
        if name:
            self._names.add(unused)
        return unused

    def _event(self, kind: str, *, response: JsonObject) -> JsonObject:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence - 1, "response": response}


def _renamed(item: JsonObject, told: _Told) -> JsonObject:
    named: JsonObject = {**item}
    if told.id and "id" in item:
        named["id"] = told.id
    if told.call_id and "call_id" in item:
        named["call_id"] = told.call_id
    return named
