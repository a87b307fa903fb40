"""What makes a step the same step in the next attempt: where it is called, its name, how often before, its input."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from pydantic import BaseModel

from tailrace.schemas import InvalidRequest

_NAME_LIMIT: Final = 200
_HASH_DIGITS: Final = 16


class Identity(NamedTuple):
    """A step's place and input. Two calls with the same path are the same step; then their input must be the same too."""

    path: str
    input: str
    """A hash."""

    def __str__(self) -> str:
        return f"{self.path}#{self.input}"

    @classmethod
    def parse(cls, text: str) -> "Identity":
        path, _, given = text.rpartition("#")
        return cls(path, given)


class Paths:
    """Gives the steps of one scope (the task, a step, a branch of `gather`) their paths, in the order they are called."""

    def __init__(self, parent: str = "") -> None:
        self.parent = parent
        self._counts: Counter[str] = Counter()

    def step(self, name: str) -> str:
        """Raises: InvalidRequest for a name that is none."""
        if not isinstance(cast("object", name), str) or not name.strip() or len(name) > _NAME_LIMIT:
            raise InvalidRequest(f"a step needs a name of 1 to {_NAME_LIMIT} characters, not {name!r}")
        # The signs that paths are made of keep their meaning.
        for sign in "%/#*":
            name = name.replace(sign, f"%{ord(sign):02X}")
        return self._next(name)

    def branches(self, count: int) -> list[str]:
        """The paths of the branches of one `gather`."""
        gather = self._next("*")
        return [f"{gather}.{number}" for number in range(count)]

    def _next(self, name: str) -> str:
        number = self._counts[name]
        self._counts[name] += 1
        own = f"{name}.{number}"
        return f"{self.parent}/{own}" if self.parent else own


def parent_of(path: str) -> str:
    """The path of the scope that a step was called in; "" for the task itself."""
    return path.rpartition("/")[0]


def input_hash(*parts: object) -> str:
    """A hash of a step's input: the same in every process for equal JSON, models, dataclasses, sets and dates.

    Of other objects only the class counts: what cannot be seen to be the same is not taken for a change.
    """
    text = json.dumps(_canonical(parts), ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def _canonical(value: object) -> Any:
    """The value as JSON that does not depend on the process."""
    match value:
        case None | bool() | int() | float():
            return value
        case Enum():
            return _canonical(value.value)
        case str():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return hashlib.sha256(cast("bytes", value)).hexdigest()
        case BaseModel():
            fields = {name: getattr(value, name) for name in type(value).model_fields}
            return _canonical({**fields, **(value.model_extra or {})})
        case Mapping():
            mapping = cast("Mapping[object, object]", value)
            return {json.dumps(_canonical(name), sort_keys=True): _canonical(item) for name, item in mapping.items()}
        case AbstractSet():
            members = [json.dumps(_canonical(item), sort_keys=True) for item in cast("AbstractSet[object]", value)]
            return sorted(members)
        case Sequence():
            return [_canonical(item) for item in cast("Sequence[object]", value)]
        case date() | time() | timedelta() | UUID() | Decimal() | PurePath():
            return str(value)
        case partial():
            bound = cast("partial[object]", value)
            return [_canonical(bound.func), _canonical(bound.args), _canonical(bound.keywords)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: _canonical(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _ if callable(value) and hasattr(value, "__qualname__"):
            return f"{getattr(value, '__module__', '')}.{cast('Any', value).__qualname__}"
        case _:
            return f"{type(value).__module__}.{type(value).__qualname__}"
