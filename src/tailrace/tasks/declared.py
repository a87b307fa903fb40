"""A task as it was declared: its function, and the types of what goes in and comes out."""

import inspect
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
)
from pydantic import create_model as create_pydantic_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import PydanticSerializationError, from_json

from tailrace.schemas import InvalidRequest

_STREAMS: Final = (AsyncGenerator, AsyncIterator, AsyncIterable)
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

T = TypeVar("T")


@dataclass(frozen=True)
class Returned:
    """How a function's value travels through the log: as JSON of its annotated type, and back."""

    adapter: TypeAdapter[Any] | None
    """None: not annotated; it comes back as plain JSON."""

    def dump(self, value: object) -> JsonValue:
        """Raises: InvalidRequest for what is no JSON and no model."""
        try:
            adapter = self.adapter or TypeAdapter[Any](type(value) if isinstance(value, BaseModel) else Any)
            dumped: JsonValue = from_json(adapter.dump_json(value, warnings="error"))
        except (PydanticSerializationError, PydanticSchemaGenerationError, ValueError) as error:
            raise InvalidRequest(
                f"it returned a {type(value).__qualname__}, which cannot be stored: return JSON, a dataclass or a "
                "pydantic model (and annotate the function with it)"
            ) from error
        return dumped

    def load(self, stored: JsonValue) -> Any:
        """The value again. Raises: InvalidRequest if it does not fit the type (any more)."""
        if self.adapter is None:
            return stored
        try:
            return self.adapter.validate_json(json.dumps(stored))
        except ValidationError as error:
            raise InvalidRequest(f"what it returned is no {_name(self.adapter)}: {_first(error)}") from None


def returned_by(function: Callable[..., Any]) -> Returned:
    """What a step's function returns, by its annotation; nothing is known if that cannot be read."""
    try:
        annotation = get_type_hints(function, include_extras=True).get("return", Any)
    except (NameError, TypeError):
        return Returned(None)
    if annotation is Any or get_origin(annotation) in _STREAMS or annotation in _STREAMS:
        return Returned(None)
    try:
        return Returned(TypeAdapter(annotation))
    except (PydanticSchemaGenerationError, PydanticUserError):
        return Returned(None)


@dataclass(frozen=True)
class Task:
    """A registered task."""

    name: str
    function: Callable[..., Any]
    streams: bool
    """Whether it is a generator, whose text comes piece by piece."""
    parameters: tuple[str, ...] = ()
    """Those behind the context."""
    whole: bool = True
    """Whether `input` is the one parameter's value, not an object with a value for each."""
    input: TypeAdapter[Any] = field(default_factory=lambda: TypeAdapter(Any))
    returned: Returned = field(default_factory=lambda: Returned(None))
    description: str = ""

    def arguments(self, given: JsonValue) -> dict[str, Any]:
        """What to call the function with, behind the context. Raises: InvalidRequest naming what does not fit."""
        if not self.parameters:
            if given is not None:
                raise InvalidRequest(f"task {self.name!r} takes no input")
            return {}
        if self.whole and given is None and self._optional():
            return {}
        try:
            value = self.input.validate_json(json.dumps(given))
        except ValidationError as error:
            raise InvalidRequest(f"task {self.name!r}: {_first(error, 'input')}") from None
        if self.whole:
            return {self.parameters[0]: value}
        return {name: getattr(value, _field(number)) for number, name in enumerate(self.parameters)}

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the input, for those who submit. {} if there is none to give."""
        if not self.parameters:
            return {"type": "null"}
        try:
            schema = self.input.json_schema()
        except (PydanticInvalidForJsonSchema, PydanticUserError):
            return {}
        return {"anyOf": [schema, {"type": "null"}]} if self.whole and self._optional() else schema

    def _optional(self) -> bool:
        parameter = inspect.signature(self.function).parameters[self.parameters[0]]
        return parameter.default is not inspect.Parameter.empty


def declare(function: Callable[..., Any], *, name: str | None, names: Mapping[str, Any]) -> Task:
    """The task that a function is. `names`: what its annotations may refer to besides its module's.

    Raises: TypeError saying what to change.
    """
    own = name or str(getattr(function, "__name__", ""))
    streams = inspect.isasyncgenfunction(function)
    if not streams and not inspect.iscoroutinefunction(function):
        raise TypeError(
            f"task {own!r} must be an `async def` function or generator: what blocks goes into a step of its own, "
            "`await ctx.step(name, function, ...)`"
        )
    try:
        hints = get_type_hints(function, localns=dict(names), include_extras=True)
    except NameError as error:
        raise TypeError(f"task {own!r}: an annotation names what is not there at run time: {error}") from error
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise TypeError(f"task {own!r} needs a first parameter for its context: `async def {own}(ctx: Context, ...)`")
    behind = parameters[1:]
    for parameter in behind:
        if parameter.kind in _MANY or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"task {own!r}: parameter {parameter.name!r} must be a plain one: `input` names its values")
    try:
        kind = hints.get(behind[0].name, Any) if len(behind) == 1 else _model(own, behind, hints)
        given, returned = TypeAdapter[Any](kind), _returned(hints.get("return", Any), streams=streams)
    except PydanticUserError as error:
        raise TypeError(f"task {own!r}: an annotation is of no type that JSON can be checked by: {error}") from error
    return Task(
        name=own,
        function=function,
        streams=streams,
        parameters=tuple(parameter.name for parameter in behind),
        whole=len(behind) == 1,
        input=given,
        returned=returned,
        description=inspect.getdoc(function) or "",
    )


def _model(name: str, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        _field(number): (
            hints.get(parameter.name, Any),
            Field(... if parameter.default is inspect.Parameter.empty else parameter.default, alias=parameter.name),
        )
        for number, parameter in enumerate(parameters)
    }
    return create_pydantic_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _field(number: int) -> str:
    """The model's own name for a parameter: pydantic does not take every name that Python does."""
    return f"input_{number}"


def _returned(annotation: Any, *, streams: bool) -> Returned:
    if streams:
        yielded = get_args(annotation)[0] if get_args(annotation) else str
        if not (isinstance(yielded, type) and issubclass(yielded, str)) and yielded is not Any:
            raise TypeError(f"a task yields str (its text), not {yielded!r}: emit() carries what is no text")
        return Returned(None)
    return Returned(None if annotation is Any else TypeAdapter(annotation))


def _first(error: ValidationError, root: str = "") -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(part for part in (root, *(str(part) for part in first["loc"])) if part)
    return f"{where}: {first['msg']}" if where else first["msg"]


def _name(adapter: TypeAdapter[Any]) -> str:
    kind: Any = getattr(adapter, "_type", None)
    return getattr(kind, "__name__", None) or str(kind)
