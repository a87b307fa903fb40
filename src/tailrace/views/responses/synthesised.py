"""Events and items made of the parts of a stream: for upstreams of the completions APIs, and for tasks.

A choice's text and refusals are a message, its reasoning before it an item of its own, each tool call an item. A message
or a reasoning is over when the choice goes on with something else; a call when the choice is finished, because fragments
of parallel calls take turns.
"""

from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from tailrace.schemas import Entry, Finish, JsonObject, Logprobs, OpenPart
from tailrace.views._parts import Parts, Text
from tailrace.views.responses.drafts import TEXT_FIELDS, Draft
from tailrace.views.responses.logprobs import token_logprobs

#: The part of the log -> the type of item, and of content part, that it is text of.
_PLACES: Final = {
    "text": ("message", "output_text"),
    "refusal": ("message", "refusal"),
    "reasoning": ("reasoning", "reasoning_text"),
}
_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
#: Finish reasons after which an output is not whole.
CUT_SHORT: Final = frozenset({"length", "content_filter", "max_tokens", "max_output_tokens"})


@dataclass(slots=True)
class _Content:
    """A content part; of a call its arguments."""

    kind: str
    where: JsonObject
    """The fields that name it in events."""
    delta: str
    """The type of the event that carries its text."""
    text: list[str] = field(default_factory=list[str])
    logprobs: list[JsonValue] = field(default_factory=list[JsonValue])

    def whole(self) -> JsonObject:
        part: JsonObject = {"type": self.kind, TEXT_FIELDS[self.kind]: "".join(self.text)}
        if self.kind == "output_text":
            part |= {"annotations": [], "logprobs": [*self.logprobs]}
        return part


@dataclass(slots=True)
class _Item:
    number: int
    kind: str
    id: str
    choice: int
    content: list[_Content] = field(default_factory=list[_Content])
    call_id: str = ""
    name: str = ""
    status: str = "in_progress"

    def whole(self) -> JsonObject:
        item: JsonObject = {"id": self.id, "type": self.kind, "status": self.status}
        if self.kind == "function_call":
            arguments = "".join(self.content[0].text) if self.content else ""
            return item | {"call_id": self.call_id, "name": self.name, "arguments": arguments}
        if self.kind == "message":
            item["role"] = "assistant"
        else:
            item["summary"] = []
        item["content"] = [content.whole() for content in self.content]
        return item


@dataclass(slots=True)
class _Naming:
    """What is known of a call before it is an item."""

    id: str | None = None
    name: str | None = None
    item: _Item | None = None


class SynthesisedFold:
    """Items of parts. Ids follow from the job's id and the number of the item: the log has none that could be used."""

    final: JsonObject | None = None

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._parts = Parts()
        self._items: list[_Item] = []
        self._speaking: dict[int, _Item] = {}
        """The message or reasoning of each choice that is not over."""
        self._calls: dict[tuple[int, int], _Naming] = {}

    def take(self, entry: Entry) -> list[Draft]:
        piece = self._parts.read(entry)
        match piece:
            case Text(part="tool_call"):
                return self._argue(piece)
            case Text() if piece.text and piece.part in _PLACES:
                return self._speak(piece)
            case OpenPart(part="tool_call"):
                return self._name(piece)
            case Logprobs():
                return self._weigh(piece)
            case Finish():
                status = "incomplete" if piece.reason in CUT_SHORT else "completed"
                return self._finish(piece.choice, status)
            case _:
                return []

    def open_items(self) -> list[int]:
        return [item.number for item in self._items if item.status == "in_progress"]

    def close(self, item: int, status: str) -> list[Draft]:
        return self._end(self._items[item], status)

    def items(self) -> list[tuple[int, JsonObject]]:
        return [(item.number, item.whole()) for item in self._items]

    def _speak(self, piece: Text) -> list[Draft]:
        kind, part = _PLACES[piece.part]
        item, drafts = self._speaking.get(piece.choice), list[Draft]()
        if item is not None and item.kind != kind:
            drafts += self._end(item, "completed")
            item = None
        if item is None:
            item = self._begin(kind, piece.choice, drafts)
            self._speaking[piece.choice] = item
        content = item.content[-1] if item.content else None
        if content is None or content.kind != part:
            if content is not None:
                drafts += [Draft(item.number, False, body) for body in _part_done(content)]
            content = self._begin_part(item, part, drafts)
        content.text.append(piece.text)
        body: JsonObject = {"type": content.delta, **content.where, "delta": piece.text}
        if part == "output_text":
            body["logprobs"] = []
        drafts.append(Draft(item.number, False, body))
        return drafts

    def _weigh(self, piece: Logprobs) -> list[Draft]:
        """Log probabilities come in a record behind their text: in a delta of their own, which has no text."""
        item = self._speaking.get(piece.choice)
        content = item.content[-1] if item is not None else None
        found = token_logprobs(piece.logprobs)
        if item is None or content is None or content.kind != "output_text" or not found:
            return []
        content.logprobs += found
        body: JsonObject = {"type": content.delta, **content.where, "delta": "", "logprobs": found}
        return [Draft(item.number, False, body)]

    def _name(self, opening: OpenPart) -> list[Draft]:
        call = self._calls.setdefault((opening.choice, opening.index), _Naming())
        call.id, call.name = call.id or opening.id, call.name or opening.name
        return self._begin_call(call, opening.choice) if call.item is None and call.name else []

    def _argue(self, piece: Text) -> list[Draft]:
        if not piece.text:
            return []
        call = self._calls.setdefault((piece.choice, piece.call), _Naming())
        drafts = self._begin_call(call, piece.choice) if call.item is None else []
        item = call.item
        assert item is not None  # noqa: S101 - just begun
        # A finished call that goes on (a restart has voided its finish) is open again.
        item.status = "in_progress"
        content = item.content[0]
        content.text.append(piece.text)
        drafts.append(Draft(item.number, False, {"type": content.delta, **content.where, "delta": piece.text}))
        return drafts

    def _begin_call(self, call: _Naming, choice: int) -> list[Draft]:
        drafts: list[Draft] = []
        speaking = self._speaking.get(choice)
        if speaking is not None:
            drafts += self._end(speaking, "completed")
        call.item = item = self._begin("function_call", choice, drafts, call)
        where: JsonObject = {"item_id": item.id, "output_index": item.number}
        item.content.append(_Content("arguments", where, "response.function_call_arguments.delta"))
        return drafts

    def _begin(self, kind: str, choice: int, drafts: list[Draft], call: _Naming | None = None) -> _Item:
        number = len(self._items)
        item = _Item(number, kind, f"{_PREFIXES[kind]}_{self._job_id}_{number}", choice)
        if call is not None:
            item.call_id, item.name = call.id or f"call_{self._job_id}_{number}", call.name or ""
        self._items.append(item)
        added: JsonObject = {"type": "response.output_item.added", "output_index": number, "item": item.whole()}
        drafts.append(Draft(number, False, added))
        return item

    def _begin_part(self, item: _Item, kind: str, drafts: list[Draft]) -> _Content:
        where: JsonObject = {"item_id": item.id, "output_index": item.number, "content_index": len(item.content)}
        content = _Content(kind, where, f"response.{kind}.delta")
        item.content.append(content)
        added: JsonObject = {"type": "response.content_part.added", **where, "part": content.whole()}
        drafts.append(Draft(item.number, False, added))
        return content

    def _finish(self, choice: int, status: str) -> list[Draft]:
        unnamed = [call for (of, _), call in self._calls.items() if of == choice and call.item is None]
        begun = [draft for call in unnamed for draft in self._begin_call(call, choice)]
        mine = [item for item in self._items if item.choice == choice and item.status == "in_progress"]
        return begun + [draft for item in mine for draft in self._end(item, status)]

    def _end(self, item: _Item, status: str) -> list[Draft]:
        item.status = status
        if self._speaking.get(item.choice) is item:
            del self._speaking[item.choice]
        bodies = _part_done(item.content[-1], item.name) if item.content else []
        bodies.append({"type": "response.output_item.done", "output_index": item.number, "item": item.whole()})
        return [Draft(item.number, True, body) for body in bodies]


def _part_done(content: _Content, name: str = "") -> list[JsonObject]:
    kind = content.delta.removesuffix("delta") + "done"
    if content.kind == "arguments":
        return [{"type": kind, **content.where, "name": name, "arguments": "".join(content.text)}]
    whole = content.whole()
    said = {key: value for key, value in whole.items() if key not in ("type", "annotations")}
    return [
        {"type": kind, **content.where, **said},
        {"type": "response.content_part.done", **content.where, "part": whole},
    ]
