"""The gateway's OpenAPI document as Markdown: routes by group, then the shapes of what they take and give."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tailrace import Settings
from tailrace.gateway import create_app

#: In this order; a group that is not here comes last.
GROUPS: Final = {
    "jobs": "Jobs",
    "streams": "Streams of a job",
    "openai": "The OpenAI API",
    "access": "Read tokens",
    "health": "Health",
}
_METHODS: Final = ("get", "post", "put", "patch", "delete")
#: What the framework writes where nobody has said anything: the status says as much.
_FILLER: Final = "Successful Response"


def document() -> dict[str, Any]:
    """The OpenAPI document of a gateway without configuration."""
    return create_app(Settings()).openapi()


def markdown() -> str:
    return "\n".join(_reference(document()))


def _reference(document: Mapping[str, Any]) -> Iterator[str]:
    schemas: Mapping[str, Any] = document["components"]["schemas"]
    groups: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {group: [] for group in GROUPS}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                operation = methods[method]
                groups.setdefault(next(iter(operation.get("tags", [])), "other"), []).append((method, path, operation))
    for group, operations in groups.items():
        if operations:
            yield f"## {GROUPS.get(group, group.capitalize())}\n"
            for method, path, operation in operations:
                yield from _operation(method, path, operation)
    yield "## Shapes\n"
    yield f"Errors are {_type({'$ref': 'ErrorBody'})}.\n"
    for name, schema in sorted(schemas.items()):
        yield from _shape(name, schema)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield f"**{operation['summary']}.**\n" if "summary" in operation else ""
    yield _prose(operation.get("description", "")) + "\n"
    if parameters := operation.get("parameters"):
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for parameter in parameters:
            schema = parameter["schema"]
            told = (parameter.get("description", ""), _default(schema))
            yield _row(f"`{parameter['name']}`", parameter["in"], _type(schema), _sentences(*told))
        yield ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Takes {_type(content.get('schema', {}))} as `{media}`.\n"
    good = {status: response for status, response in operation["responses"].items() if status.startswith("2")}
    for status, response in sorted(good.items()):
        yield f"`{status}`: {': '.join(filter(None, (_given(response), _said(response)))) or 'nothing'}  "
    refused = {
        status: _said(response) for status, response in sorted(operation["responses"].items()) if status not in good
    }
    if refused:
        yield "Errors: " + "; ".join(f"`{status}` {said}".strip() for status, said in refused.items()) + "."
    yield ""


def _given(response: Mapping[str, Any]) -> str:
    content: Mapping[str, Any] = response.get("content", {})
    schemas = [_type(each["schema"]) for media, each in content.items() if "schema" in each and media.endswith("json")]
    streams = [f"`{media}`" for media in content if not media.endswith("/json")]
    return ", ".join([*schemas, *streams])


def _said(response: Mapping[str, Any]) -> str:
    description = response.get("description", "")
    return "" if description == _FILLER else _prose(description)


def _shape(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name} {{: #{_anchor(name)} }}\n"
    yield _prose(schema.get("description", "")) + "\n"
    if "enum" in schema:
        yield "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n"
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        yield "| field | type | |\n|---|---|---|"
        for field, content in properties.items():
            told = (_prose(content.get("description", "")), _default(content), "required" if field in required else "")
            yield _row(f"`{field}`", _type(content), _sentences(*told))
        yield ""
        if schema.get("additionalProperties"):
            yield "Other fields are taken as they are.\n"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to shapes."""
    if reference := schema.get("$ref"):
        name = str(reference).rsplit("/", 1)[-1]
        return f"[{name}](#{_anchor(name)})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(each) for each in choices))
    if values := schema.get("enum"):
        return " or ".join(f"`{value}`" for value in values)
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), Mapping):
            return f"object of {_type(schema['additionalProperties'])}"
        case str(kind):
            return kind
        case _:
            return "any JSON"


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return (
        ""
        if default in (None, [], {})
        else f"default `{str(default).lower() if isinstance(default, bool) else default}`"
    )


def _sentences(*told: str) -> str:
    return ". ".join(each.strip().rstrip(".") for each in told if each)


def _anchor(name: str) -> str:
    return f"shape-{name.lower()}"


def _prose(text: str) -> str:
    """A docstring's lines as one paragraph each."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text).strip()


def _row(*cells: str) -> str:
    return "| " + " | ".join(re.sub(r"\s*\n\s*", " ", cell).replace("|", "\\|") for cell in cells) + " |"
