"""Declaring tasks: what is refused and why, what input is taken, what is told of them."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from tailrace import App, Context, InvalidRequest
from tailrace.tasks import Task
from tailrace.tasks.declared import Returned, returned_by


class Question(BaseModel):
    text: str
    depth: int = 1


@dataclass
class Answer:
    text: str


class Opaque:
    """Nothing that pydantic can check."""


def declared(function: Any) -> Task:
    app = App()
    app.task(function)
    task = app.get(function.__name__)
    assert task is not None
    return task


def test_what_is_no_coroutine_function_is_refused() -> None:
    def plain(ctx: Context) -> None: ...

    with pytest.raises(TypeError, match=r"'plain' must be an `async def` function or generator: what blocks goes into"):
        App().task(plain)


def test_a_task_needs_a_context() -> None:
    async def bare() -> None: ...

    async def keyword(*, ctx: Context) -> None: ...

    for function in (bare, keyword):
        with pytest.raises(TypeError, match="needs a first parameter for its context"):
            App().task(function)


def test_parameters_that_no_input_can_name_are_refused() -> None:
    async def several(ctx: Context, *more: int) -> None: ...

    async def named(ctx: Context, **more: int) -> None: ...

    async def placed(ctx: Context, one: int, /) -> None: ...

    for function, name in ((several, "more"), (named, "more"), (placed, "one")):
        with pytest.raises(TypeError, match=f"parameter '{name}' must be a plain one"):
            App().task(function)


def test_an_annotation_that_is_not_there_is_told() -> None:
    async def lost(ctx: Context, one: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]  # the point

    with pytest.raises(TypeError, match="an annotation names what is not there at run time: name 'Missing'"):
        App().task(lost)  # pyright: ignore[reportUnknownArgumentType]


def test_an_annotation_that_nothing_can_be_checked_by_is_told() -> None:
    async def one(ctx: Context, given: Opaque) -> None: ...

    async def two(ctx: Context, given: Opaque, more: int) -> None: ...

    async def back(ctx: Context) -> Opaque: ...  # type: ignore[empty-body]

    for function in (one, two, back):
        with pytest.raises(TypeError, match=f"task '{function.__name__}': an annotation is of no type that JSON"):
            App().task(function)


def test_a_generator_yields_text() -> None:
    async def numbers(ctx: Context) -> AsyncGenerator[int]:
        yield 1

    with pytest.raises(TypeError, match="a task yields str"):
        App().task(numbers)


def test_a_name_is_taken_once() -> None:
    app = App()

    @app.task(name="one")
    async def first(ctx: Context) -> None: ...

    with pytest.raises(ValueError, match="there is a task 'one' already"):

        @app.task(name="one")
        async def second(ctx: Context) -> None: ...

    assert list(app.tasks) == ["one"]
    assert repr(app) == "App(one)"


def test_types_that_are_local_to_a_function_are_found() -> None:
    class Local(BaseModel):
        x: int

    app = App()

    @app.task
    async def local(ctx: Context, given: "Local") -> "Local":
        return given

    task = app.get("local")
    assert task is not None
    assert task.arguments({"x": 3}) == {"given": Local(x=3)}


async def none(ctx: Context) -> None: ...
async def one_of(ctx: Context, question: Question) -> None: ...
async def optional(ctx: Context, depth: int = 3) -> None: ...
async def untyped(ctx: Context, given: Any) -> None: ...
async def several(ctx: Context, text: str, depth: int = 2, *, json: bool = False, _own: str = "") -> None: ...


@pytest.mark.parametrize(
    ("function", "given", "arguments"),
    [
        (none, None, {}),
        (one_of, {"text": "why"}, {"question": Question(text="why")}),
        (optional, None, {}),
        (optional, 5, {"depth": 5}),
        (untyped, {"any": ["thing"]}, {"given": {"any": ["thing"]}}),
        (several, {"text": "a"}, {"text": "a", "depth": 2, "json": False, "_own": ""}),
        (several, {"text": "a", "json": True, "_own": "b"}, {"text": "a", "depth": 2, "json": True, "_own": "b"}),
    ],
)
def test_input_becomes_arguments(function: Any, given: Any, arguments: dict[str, Any]) -> None:
    assert declared(function).arguments(given) == arguments


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (none, 1, "task 'none' takes no input"),
        (one_of, {"text": 5}, r"task 'one_of': input\.text: Input should be a valid string"),
        (one_of, None, "task 'one_of': input: Input should be an object"),
        (optional, "x", "task 'optional': input: Input should be a valid integer"),
        (several, {}, r"task 'several': input\.text: Field required"),
        (several, {"text": "a", "more": 1}, r"task 'several': input\.more: Extra inputs are not permitted"),
        (several, ["a"], "task 'several': input: Input should be an object"),
    ],
)
def test_input_that_does_not_fit_is_named(function: Any, given: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        declared(function).arguments(given)


def test_the_schema_tells_what_a_task_takes() -> None:
    assert declared(none).schema() == {"type": "null"}
    schema = declared(several).schema()
    assert set(schema["properties"]) == {"text", "depth", "json", "_own"}
    assert schema["required"] == ["text"]
    assert schema["additionalProperties"] is False
    assert {"type": "null"} in declared(optional).schema()["anyOf"]


def test_a_card_has_the_first_of_the_docstring() -> None:
    app = App()

    @app.task
    async def documented(ctx: Context) -> None:
        """Does a thing."""

    assert app.cards() == {"documented": {"input": {"type": "null"}, "description": "Does a thing."}}


async def gives_answer() -> Answer: ...  # type: ignore[empty-body]
async def gives_bytes() -> bytes: ...  # type: ignore[empty-body]
async def gives_pieces() -> AsyncIterator[str]: ...  # type: ignore[empty-body]
async def gives_opaque() -> Opaque: ...  # type: ignore[empty-body]
def gives_unknown(): ...  # type: ignore[no-untyped-def]  # the point


def test_what_a_step_returns_comes_back_as_its_type() -> None:
    returned = returned_by(gives_answer)
    stored = returned.dump(Answer("yes"))
    assert stored == {"text": "yes"}
    assert returned.load(stored) == Answer("yes")
    assert returned_by(gives_bytes).load(returned_by(gives_bytes).dump(b"ab")) == b"ab"


@pytest.mark.parametrize("function", [gives_pieces, gives_opaque, gives_unknown])
def test_what_is_not_annotated_comes_back_as_json(function: Any) -> None:
    returned = returned_by(function)
    assert returned == Returned(None)
    assert returned.load(returned.dump((1, {"a": Question(text="x")}))) == [1, {"a": {"text": "x", "depth": 1}}]


@pytest.mark.parametrize(
    ("function", "value"), [(gives_answer, {"text": 5}), (gives_unknown, Opaque()), (gives_unknown, float)]
)
def test_what_cannot_be_stored_is_told(function: Any, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"it returned a {type(value).__name__}, which cannot be stored"):
        returned_by(function).dump(value)


def test_a_stored_value_of_another_type_is_told() -> None:
    with pytest.raises(InvalidRequest, match="no Answer"):
        returned_by(gives_answer).load([1])
