"""What LangChain's models stream, as the items that sources make of an upstream's stream. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import Generation

from tailrace.schemas import Extra, Finish, Logprobs, OpenPart
from tailrace.worker.runnables.encoding import encode, encode_object
from tailrace.worker.sources import Item
from tailrace.worker.sources.decoding import Part, PartWriter

_TEXT_BLOCK = frozenset({"type", "text", "index"})
#: Of `additional_kwargs`: tool calls come as chunks of calls as well.
_TOLD_ELSEWHERE = frozenset({"tool_calls", "function_call", "reasoning_content", "refusal"})


class Piece(NamedTuple):
    """A chunk, taken apart."""

    items: list[Item]
    rest: object = None
    """What no item can say: told as a chunk of its own."""


class ModelStream:
    """The stream of one run."""

    def __init__(self) -> None:
        self._parts = PartWriter()
        self._calls: dict[object, int] = {}
        self._named: dict[int, tuple[str | None, str | None]] = {}
        self._finished = False

    def read(self, chunk: object) -> Piece:
        match chunk:
            case str():
                return Piece(self.text(chunk))
            case Generation():
                items = self.text(chunk.text)
                self._ending(chunk.generation_info or {}, items)
                return Piece(items)
            case AIMessageChunk():
                return self._message(chunk)
            case _:
                return Piece([], chunk)

    def text(self, text: str, part: Part = "text") -> list[Item]:
        items: list[Item] = []
        self._put(OpenPart(part=part), text, items)
        return items

    def close(self) -> list[Item]:
        """Half a character that stayed alone."""
        items: list[Item] = []
        self._parts.flush(items)
        return items

    def _put(self, opening: OpenPart, text: str, items: list[Item]) -> None:
        self._parts.put(opening, text, items, lossy=not text.isascii())

    def _message(self, chunk: AIMessageChunk) -> Piece:
        text = plain_text(chunk)
        if text is None:
            return Piece([], chunk)
        kwargs = chunk.additional_kwargs
        items: list[Item] = []
        for name, part in (("reasoning_content", "reasoning"), ("refusal", "refusal")):
            if isinstance(kwargs.get(name), str):
                items += self.text(kwargs[name], cast("Part", part))
        items += self.text(text)
        for call in chunk.tool_call_chunks:
            self._call(cast("Mapping[str, Any]", call), items)
        extra = {name: value for name, value in kwargs.items() if name not in _TOLD_ELSEWHERE}
        if extra:
            items.append(Extra(fields=encode_object(extra)))
        self._ending(chunk.response_metadata, items)
        if chunk.usage_metadata is None:
            return Piece(items)
        return Piece(items, AIMessageChunk(content="", usage_metadata=chunk.usage_metadata))

    def _call(self, call: Mapping[str, Any], items: list[Item]) -> None:
        call_id, name, text = (
            value if isinstance(value := call.get(field), str) and value else None for field in ("id", "name", "args")
        )
        index = call.get("index")
        key: object = index if index is not None else ("id", call_id)
        if index is None and call_id is None and self._calls:
            key = next(reversed(self._calls))
        number = self._calls.setdefault(key, len(self._calls))
        known_id, known_name = self._named.get(number, (None, None))
        if number not in self._named or (call_id and not known_id) or (name and not known_name):
            self._named[number] = (known_id or call_id, known_name or name)
            self._parts.open(OpenPart(part="tool_call", index=number, id=call_id, name=name), items)
        self._put(OpenPart(part="tool_call", index=number), text or "", items)

    def _ending(self, told: Mapping[str, Any], items: list[Item]) -> None:
        logprobs = told.get("logprobs")
        if logprobs:
            items.append(Logprobs(logprobs=encode(logprobs)))
        reason = told.get("finish_reason")
        if isinstance(reason, str) and reason and not self._finished:
            self._finished = True
            self._parts.flush(items)
            items.append(Finish(reason=reason))


def plain_text(message: BaseMessage) -> str | None:
    """A message's content, if that is text and nothing else."""
    content = message.content
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for block in content:
        if isinstance(block, str):
            texts.append(block)
        elif block.keys() <= _TEXT_BLOCK and block.get("type") == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        else:
            return None
    return "".join(texts)


def text_of(value: object) -> str:
    """The text that a runnable's output or a piece of it is; "" if it is none."""
    match value:
        case str():
            return str.__str__(value)
        case Generation():
            return value.text
        case AIMessage():
            return str(value.text)
        case _:
            return ""
