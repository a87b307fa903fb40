"""Values of LangChain's runs as JSON: whatever they are, never an exception, never a class by its name. Pure.

Messages, documents, prompt values and generations become objects with their `type` (`tailrace.langchain.revive` makes them
again), other models and dataclasses objects of their fields. What JSON has no word for becomes a placeholder that names the
class and nothing of the value: a representation may hold a key.
"""

import dataclasses
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import Any, Final, cast
from uuid import UUID

from langchain_core.agents import AgentAction, AgentFinish, AgentStep
from langchain_core.documents.base import BaseMedia
from langchain_core.load.serializable import Serializable
from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable
from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from tailrace.schemas import JsonObject
from tailrace.worker.sources.decoding import join_surrogates

NOT_SERIALIZABLE: Final = "not_serializable"
PROMPT: Final = "[prompt]"

#: pydantic reads JSON to a depth of 200; the record and the reader's event add some levels.
_DEEPEST: Final = 100
#: Some megabytes of the smallest values; shared parts of a value are written as often as they occur.
_MOST_VALUES: Final = 100_000
#: json writes no integer of more than 4,300 digits.
_INTEGER_BITS: Final = 4096
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

#: What of LangChain's own is data. Everything else of it is machinery that may know keys.
_DATA: Final = (BaseMessage, BaseMedia, PromptValue, Generation, AgentAction, AgentFinish, AgentStep)


def encode(value: object, *, hidden: frozenset[str] = frozenset()) -> JsonValue:
    """The value as JSON. Texts that are in `hidden` are left out."""
    return _Encoder(hidden).encode(value)


def encode_object(value: Mapping[Any, Any] | None) -> JsonObject:
    """As `encode`, for what is an object."""
    encoded = encode(value or {})
    return encoded if isinstance(encoded, dict) else {"value": encoded}


def placeholder(value: object, reason: str | None = None, size: int | None = None) -> JsonObject:
    """What stands for a value that is not shown."""
    described: JsonObject = {"type": NOT_SERIALIZABLE, "class": _class_name(value)}
    if reason is not None:
        described["reason"] = reason
    if size is not None:
        described["size"] = size
    return described


class _Encoder:
    def __init__(self, hidden: frozenset[str]) -> None:
        self._hidden = hidden
        self._left = _MOST_VALUES
        self._above: set[int] = set()

    def encode(self, value: object) -> JsonValue:
        self._left -= 1
        if self._left < 0:
            return placeholder(value, "too_many")
        try:
            return self._encode(value)
        except Exception:
            return placeholder(value, "unreadable")

    def _encode(self, value: object) -> JsonValue:
        # The base classes' own methods throughout: a subclass may have others.
        match value:
            case None:
                return None
            case bool():
                return value
            case Enum():
                return self.encode(value.value)
            case str():
                return self._text(str.__str__(value))
            case int():
                number = int.__index__(value)
                return number if number.bit_length() <= _INTEGER_BITS else placeholder(value, "too_large")
            case float():
                real = float.__float__(value)
                return real if math.isfinite(real) else placeholder(value, float.__repr__(real))
            case bytes() | bytearray() | memoryview():
                return placeholder(cast("object", value), size=memoryview(cast("bytes", value)).nbytes)
            case date() | time() | timedelta() | UUID() | Decimal() | PurePath():
                word: JsonValue = to_jsonable_python(value)
                return word
            case _:
                return self._inside(value)

    def _inside(self, value: object) -> JsonValue:
        if id(value) in self._above:
            return placeholder(value, "circular")
        if len(self._above) >= _DEEPEST:
            return placeholder(value, "too_deep")
        self._above.add(id(value))
        try:
            return self._structure(value)
        finally:
            self._above.discard(id(value))

    def _structure(self, value: object) -> JsonValue:
        if isinstance(value, BaseModel):
            if isinstance(value, Serializable | Runnable) and not isinstance(value, _DATA):
                return placeholder(cast("object", value))
            known = isinstance(value, _DATA)
            fields = self._fields(_model_fields(value), drop_none=known)
            if known:  # some say what they are only by their class
                fields.setdefault("type", type(value).__name__)
            return fields
        if isinstance(value, type | Runnable):
            return placeholder(cast("object", value))
        if dataclasses.is_dataclass(value):
            return self._fields((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        if isinstance(value, dict):
            return self._fields(dict[object, object].items(cast("dict[object, object]", value)))
        if isinstance(value, Mapping):
            mapping = cast("Mapping[object, object]", value)
            return self._fields(islice(mapping.items(), max(self._left, 0)))
        if isinstance(value, list | tuple | deque | AbstractSet):
            return [self.encode(item) for item in islice(cast("Iterable[object]", value), max(self._left, 0))]
        return placeholder(value)

    def _fields(self, fields: Iterable[tuple[object, object]], *, drop_none: bool = False) -> JsonObject:
        encoded: JsonObject = {}
        same: Counter[str] = Counter()
        for name, item in fields:
            if item is None and drop_none:
                continue
            key = _key(name)
            while key in encoded:
                same[key] += 1
                key = f"{key} {same[key] + 1}"
            encoded[key] = self.encode(item)
            if self._left < 0:
                break
        return encoded

    def _text(self, text: str) -> str:
        return PROMPT if text in self._hidden else _clean(text)


def _clean(text: str) -> str:
    return join_surrogates(text) if not text.isascii() and _SURROGATE.search(text) else text


def _key(name: object) -> str:
    """A key as `json` writes it; of what that refuses, the class."""
    match name:
        case Enum():
            return _key(name.value)
        case str():
            return _clean(str.__str__(name))
        case None:
            return "null"
        case bool():
            return "true" if name else "false"
        case int() | float():
            return repr(float.__float__(name)) if isinstance(name, float) else str(int.__index__(name))
        case _:
            return f"<{_class_name(name)}>"


def _model_fields(value: BaseModel) -> Iterable[tuple[str, object]]:
    for name, field in type(value).model_fields.items():
        if not field.exclude:
            yield name, getattr(value, name)
    yield from (value.__pydantic_extra__ or {}).items()


def _class_name(value: object) -> str:
    try:
        kind = value if isinstance(value, type) else type(value)
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    except Exception:  # an object may answer nothing, nor its metaclass
        return "unknown"
    return f"type[{name}]" if kind is value else name
