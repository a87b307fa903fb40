"""What makes a step the same step: paths that are unique and stable, hashes that no process changes."""

import dataclasses
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePosixPath
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from tailrace import InvalidRequest
from tailrace.tasks import Identity, input_hash
from tailrace.tasks.identity import Paths, parent_of

names = st.text(min_size=1, max_size=12, alphabet="ab.0~%/#*1 é").filter(lambda name: bool(name.strip()))


@given(st.lists(st.tuples(st.integers(0, 3), names), max_size=25))
def test_no_two_calls_have_one_path_and_the_same_calls_have_the_same(calls: list[tuple[int, str]]) -> None:
    def walk() -> list[str]:
        scopes, paths = [Paths()], list[str]()
        for choice, name in calls:
            scope = scopes[choice % len(scopes)]
            path = scope.step(name)
            assert parent_of(path) == scope.parent
            paths.append(path)
            scopes.append(Paths(path))
            branches = scope.branches(2)
            paths += branches
            scopes += [Paths(branch) for branch in branches]
        return paths

    paths = walk()
    assert len(set(paths)) == len(paths)
    assert walk() == paths


@given(names, st.text(alphabet="0123456789abcdef", min_size=1))
def test_an_identity_survives_the_log(name: str, hashed: str) -> None:
    identity = Identity(Paths().step(name), hashed)
    assert Identity.parse(str(identity)) == identity


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, None, 7])
def test_a_step_without_a_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="needs a name"):
        Paths().step(name)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    words: set[str]
    when: date | None = None


@dataclasses.dataclass
class Data:
    name: str
    parts: frozenset[str]


class Plain:
    """Nothing that can be compared."""


def inputs() -> list[object]:
    """Of everything that has an order of its own in each process."""
    words = {"otter", "seal", "heron", "pike", "eel"}
    found: list[object] = [
        words,
        frozenset(words),
        {word: {word, "x"} for word in words},
        Model(words=words, when=date(2026, 1, 2)),
        Data("d", frozenset(words)),
        [Colour.RED, b"bytes", UUID(int=7), timedelta(seconds=3), Decimal("1.50"), PurePosixPath("/a")],
        partial(print, 1, sep=","),
        Plain(),
        Plain,
        None,
    ]
    return found


def test_hashes_are_the_same_in_every_process() -> None:
    code = "import test_tasks_identity as t; print([t.input_hash(x) for x in t.inputs()])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.path.dirname(__file__)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {str([input_hash(each) for each in inputs()])}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (1, True),
        ({1: "a"}, {"1": "a"}),
        (["a", "b"], ["ab"]),
        ({"a"}, {"b"}),
        (Colour.RED, Colour.BLUE),
        (Model(words={"a"}), Model(words={"b"})),
        (Model.model_validate({"words": [], "more": 1}), Model.model_validate({"words": [], "more": 2})),
        (Data("a", frozenset()), Data("b", frozenset())),
        (b"a", b"b"),
        (date(2026, 1, 1), date(2026, 1, 2)),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)),
        (Decimal(1), Decimal(2)),
        (PurePosixPath("a"), PurePosixPath("b")),
        (partial(print, 1), partial(print, 2)),
        (print, input),
        (float("inf"), float("-inf")),
        ((), None),
    ],
)
def test_another_input_has_another_hash(one: object, other: object) -> None:
    assert input_hash(one) != input_hash(other)


def test_what_cannot_be_compared_is_not_taken_for_a_change() -> None:
    assert input_hash(Plain()) == input_hash(Plain())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.randoms())
def test_the_order_of_a_mapping_is_no_input(value: Any, order: Any) -> None:
    def shuffled(one: Any) -> Any:
        if isinstance(one, dict):
            pairs = list(cast("dict[str, Any]", one).items())
            order.shuffle(pairs)
            return {name: shuffled(item) for name, item in pairs}
        if isinstance(one, list):
            items: list[Any] = one  # pyright: ignore[reportUnknownVariableType]  # any JSON
            return [shuffled(item) for item in items]
        return one

    assert input_hash(shuffled(value)) == input_hash(value)
