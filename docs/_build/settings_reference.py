"""What can be set, read off the settings' own classes: name, type, default, bounds, and the docstring below each field."""

import inspect
import json
from collections.abc import Iterator
from typing import Any, Final, get_args

from field_docs import field_docs
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tailrace import Settings

#: Sections whose names are the operator's: `[upstreams.<name>]`.
_NAMED: Final = "<name>"
#: Types as TOML calls them.
_PLAIN: Final = {int: "int", float: "float", str: "string", bool: "bool"}


def markdown() -> str:
    return "\n".join(_section(Settings, ()))


def _section(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    told = _docstrings(model)
    fields = dict(model.model_fields)
    sections = {name: _model_in(field.annotation) for name, field in fields.items()}
    if path:
        yield f"### `[{'.'.join(path)}]`\n"
        yield _first_paragraph(model) + "\n"
    yield "| setting | type | default | |\n|---|---|---|---|"
    for name, field in fields.items():
        if sections[name] is None:
            environment = "" if path else f"`TAILRACE_{name.upper()}`. "
            yield _row(f"`{name}`", _type(field), _default(field), environment + told.get(name, ""))
    yield ""
    for name, field in fields.items():
        if (section := sections[name]) is not None:
            is_named = "dict" in str(field.annotation)
            yield from _section(section, (*path, name, *([_NAMED] if is_named else [])))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The class of a section, also of one in a dict by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each)) is not None), None)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What is said of each field, by the class or by those of ours that it inherits from."""
    ours = [kind for kind in reversed(model.__mro__) if kind.__module__.startswith("tailrace")]
    return {name: text for kind in ours for name, text in field_docs(kind).items()}


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    bounds = [
        f"{sign} {value}"
        for each in field.metadata
        for name, sign in _BOUNDS.items()
        if (value := getattr(each, name, None)) is not None
    ]
    return ", ".join([_words(annotation), *bounds])


_BOUNDS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _words(annotation: Any) -> str:
    arguments = get_args(annotation)
    shown = str(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if shown.startswith("typing.Literal"):
        return " or ".join(f"`{each}`" for each in arguments)
    if arguments and type(None) in arguments:
        return _words(next(each for each in arguments if each is not type(None)))
    if shown.startswith("tuple"):
        return f"list of {_words(arguments[0])}"
    return "path" if getattr(annotation, "__name__", "") == "Path" else "string"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.is_required() else ""
    if field.default in (None, ()):
        return ""
    return f"`{json.dumps(field.default)}`"


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
