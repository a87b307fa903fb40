"""Values of runs as JSON: nothing is refused, nothing is given away, and what LangChain knows comes back as it was."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Never
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr

from tailrace.langchain import revive
from tailrace.schemas import OpenPart
from tailrace.worker.runnables import encode
from tailrace.worker.runnables.chunks import ModelStream

KEY = "sk-very-secret"

texts: st.SearchStrategy[str] = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(texts, json_values, max_size=4)
words: st.SearchStrategy[str | None] = st.none() | texts


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    return {"name": draw(texts), "args": draw(objects), "id": draw(words), "type": "tool_call"}


@st.composite
def call_chunks(draw: st.DrawFn) -> dict[str, Any]:
    index = draw(st.none() | st.integers(0, 9))
    return {"name": draw(words), "args": draw(words), "id": draw(words), "index": index, "type": "tool_call_chunk"}


usage: st.SearchStrategy[Any] = st.none() | st.integers(0, 10**6).map(
    lambda count: {"input_tokens": count, "output_tokens": 1, "total_tokens": count + 1}
)
contents: st.SearchStrategy[Any] = texts | st.lists(
    texts | texts.map(lambda text: {"type": "text", "text": text}), max_size=2
)


@st.composite
def messages(draw: st.DrawFn) -> BaseMessage:
    common: dict[str, Any] = {
        "content": draw(contents),
        "id": draw(words),
        "name": draw(words),
        "response_metadata": draw(objects),
        "additional_kwargs": draw(objects),
    }
    match draw(st.sampled_from(["human", "system", "ai", "chunk", "tool", "chat", "remove"])):
        case "human":
            return HumanMessage(**common)
        case "system":
            return SystemMessage(**common)
        case "ai":
            del common["additional_kwargs"]  # tool calls are made of some of its fields
            return AIMessage(tool_calls=draw(st.lists(calls(), max_size=2)), usage_metadata=draw(usage), **common)
        case "chunk":
            chunks: Any = draw(st.lists(call_chunks(), max_size=2))
            return AIMessageChunk(tool_call_chunks=chunks, usage_metadata=draw(usage), **common)
        case "tool":
            return ToolMessage(tool_call_id=draw(texts), artifact=draw(json_values), **common)
        case "chat":
            return ChatMessage(role=draw(texts), **common)
        case _:
            return RemoveMessage(id=draw(texts))


@st.composite
def known(draw: st.DrawFn) -> Any:
    match draw(st.sampled_from(["message", "document", "text", "prompt", "generation", "chat generation"])):
        case "document":
            return Document(draw(texts), metadata=draw(objects), id=draw(words))
        case "text":
            return StringPromptValue(text=draw(texts))
        case "prompt":
            return ChatPromptValue(messages=draw(st.lists(messages(), max_size=2)))
        case "generation":
            return Generation(text=draw(texts), generation_info=draw(st.none() | objects))
        case "chat generation":
            return ChatGeneration(message=draw(messages()), generation_info=draw(st.none() | objects))
        case _:
            return draw(messages())


class Colour(Enum):
    RED = "red"


class Raises:
    @property  # type: ignore[misc]  # what a proxy does, badly
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(KEY)

    def __repr__(self) -> str:
        return KEY


class RaisingMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> Never:
        raise RuntimeError(KEY)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Settings(BaseModel):
    key: SecretStr = SecretStr(KEY)
    client: str = Field(default=KEY, exclude=True)
    size: int = 3


@dataclass
class Point:
    x: int
    lock: Any


def circular() -> list[Any]:
    inside: list[Any] = []
    inside.append({"again": inside})
    return inside


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


def widening(depth: int) -> Any:
    value: Any = "leaf"
    for _ in range(depth):
        value = [value, value]
    return value


ODD: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "class": lambda: threading.Thread,
    "function": lambda: nested,
    "bytes": lambda: b"\x00" * 10_000_000,
    "circular": circular,
    "deep": lambda: nested(100_000),
    "wide": lambda: widening(60),
    "many": lambda: list(range(1_000_000)),
    "not a number": lambda: float("nan"),
    "infinity": lambda: float("-inf"),
    "huge integer": lambda: 10**10_000,
    "surrogate": lambda: "a\ud800b",
    "surrogate key": lambda: {"\ud800": 1},
    "odd keys": lambda: {(1, 2): "a", (3, 4): "b", None: "c", True: "d", 1.5: "e", Colour.RED: "f"},
    "raises": Raises,
    "raising mapping": RaisingMapping,
    "exception": lambda: ValueError(KEY),
    "generator": lambda: (number for number in range(3)),
    "secret": lambda: SecretStr(KEY),
    "model with a secret": Settings,
    "language model": lambda: ChatOpenAI(model="gpt-4o-mini", api_key=SecretStr(KEY), default_headers={"X-Key": KEY}),
    "dataclass": lambda: Point(1, threading.Lock()),
    "document": lambda: Document("page", metadata={"lock": threading.Lock()}),
    "message": lambda: ToolMessage("done", tool_call_id="1", artifact=threading.Lock()),
}

# Without those that take long, and what hypothesis itself cannot look at.
quick: st.SearchStrategy[str] = st.sampled_from(sorted(set(ODD) - {"deep", "wide", "many", "bytes", "raises"}))


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=3)
    return (
        lists | lists.map(tuple) | st.dictionaries(st.text(), inner, max_size=3) | inner.map(lambda one: Point(1, one))
    )


anything: st.SearchStrategy[Any] = st.recursive(
    json_values | known() | quick.map(lambda name: ODD[name]()) | st.binary() | st.floats() | st.text(),
    around,
    max_leaves=8,
)


def stored(value: object) -> Any:
    """As it comes out of the log."""
    text = json.dumps(encode(value), allow_nan=False, ensure_ascii=False)
    text.encode()
    return json.loads(text)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("place", ["alone", "inside", "in a dataclass"])
def test_there_is_no_value_that_cannot_be_told_and_none_that_tells_a_secret(name: str, place: str) -> None:
    value = ODD[name]()
    placed = {"alone": value, "inside": {"a": [value, 1]}, "in a dataclass": Point(value, value)}[place]
    encoded = json.dumps(stored(placed))
    assert KEY not in encoded
    assert len(encoded) < 20_000_000


@settings(deadline=None)
@given(anything)
def test_whatever_a_runnable_hands_on_becomes_json(value: object) -> None:
    assert KEY not in json.dumps(stored(value))


@settings(deadline=None)
@given(json_values)
def test_json_stays_as_it_is(value: object) -> None:
    assert stored(value) == value


@settings(deadline=None)
@given(known())
def test_what_langchain_knows_is_revived_as_it_was(value: Any) -> None:
    revived = revive(stored(value))
    assert type(revived) is type(value)
    assert revived == value
    assert revive(stored({"messages": [value]})) == {"messages": [value]}


def test_placeholders_name_the_class_and_nothing_of_the_value() -> None:
    assert stored(threading.Lock()) == {"type": "not_serializable", "class": "_thread.lock"}
    assert stored(b"abc") == {"type": "not_serializable", "class": "bytes", "size": 3}
    assert stored(Point) == {"type": "not_serializable", "class": f"type[{__name__}.Point]"}
    assert stored(float("nan")) == {"type": "not_serializable", "class": "float", "reason": "nan"}
    assert stored(circular()) == [{"again": {"type": "not_serializable", "class": "list", "reason": "circular"}}]
    assert stored(Settings()) == {
        "key": {"type": "not_serializable", "class": "pydantic.types.SecretStr"},
        "size": 3,
    }


def test_words_and_collections_have_their_usual_form() -> None:
    value = {
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "id": UUID(int=1),
        "price": Decimal("1.50"),
        "colour": Colour.RED,
        "some": deque([1, (2, 3)]),
        "one": {4},
    }
    assert stored(value) == {
        "when": "2026-01-02T00:00:00Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "price": "1.50",
        "colour": "red",
        "some": [1, [2, 3]],
        "one": [4],
    }


def test_keys_that_look_alike_are_kept_apart() -> None:
    assert stored({1: "a", "1": "b", (1,): "c", (2,): "d"}) == {"1": "a", "1 2": "b", "<tuple>": "c", "<tuple> 2": "d"}


def test_nothing_is_revived_by_a_name_in_the_data() -> None:
    envelope = {"lc": 1, "type": "constructor", "id": ["langchain_openai", "ChatOpenAI"], "kwargs": {"api_key": "x"}}
    assert revive(envelope) == envelope
    assert revive({"type": "tool", "content": "no id of a call"}) == {"type": "tool", "content": "no id of a call"}
    kept = {"type": "human", "content": "x", "additional_kwargs": {"inner": {"type": "ai", "content": "y"}}}
    assert revive(kept) == HumanMessage("x", additional_kwargs={"inner": {"type": "ai", "content": "y"}})


def test_calls_of_tools_are_told_apart_by_index_or_id_and_text_by_part() -> None:
    def calls(*several: dict[str, Any]) -> AIMessageChunk:
        given: Any = [{"type": "tool_call_chunk", "name": None, "args": None, "id": None, **one} for one in several]
        return AIMessageChunk(content="", tool_call_chunks=given)

    stream = ModelStream()
    items = [
        *stream.read(AIMessageChunk(content="", additional_kwargs={"reasoning_content": "hm"})).items,
        *stream.read(AIMessageChunk(content=[{"type": "text", "text": "so"}])).items,
        *stream.read(calls({"index": 0, "id": "a", "name": "one"}, {"index": 1, "id": "b", "name": "two"})).items,
        *stream.read(calls({"index": 0, "args": "{"}, {"index": 1, "args": "["})).items,
        *stream.read(calls({"index": 0, "args": "}"})).items,
    ]
    assert items == [
        OpenPart(part="reasoning"),
        "hm",
        OpenPart(part="text"),
        "so",
        OpenPart(part="tool_call", index=0, id="a", name="one"),
        OpenPart(part="tool_call", index=1, id="b", name="two"),
        OpenPart(part="tool_call", index=0),
        "{",
        OpenPart(part="tool_call", index=1),
        "[",
        OpenPart(part="tool_call", index=0),
        "}",
    ]
    image = AIMessageChunk(content=[{"type": "image_url", "image_url": {"url": "x"}}])
    assert stream.read(image) == ([], image)


def test_half_a_character_waits_for_its_other_half() -> None:
    stream = ModelStream()
    assert stream.read("a\ud83d").items == ["a"]
    assert stream.read("\ude00b").items == ["\N{GRINNING FACE}b"]
    assert stream.read("\ud83d").items == []
    assert stream.close() == ["\ufffd"]
