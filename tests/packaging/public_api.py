"""The public names with their signatures, as text: `python tests/packaging/public_api.py` writes public_api.txt again.

Read from the sources by griffe, so that it is the same on every Python. What a class inherits from another package is
that package's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import griffe

ROOT: Final = Path(__file__).parents[2]
RECORDED: Final = Path(__file__).with_name("public_api.txt")
#: The modules whose `__all__` is public. docs/releasing.md says the same.
PUBLIC: Final = ("tailrace", "tailrace.openai", "tailrace.langchain", "tailrace.gateway")


def public_api() -> str:
    loader = griffe.GriffeLoader(search_paths=[ROOT / "src"])
    package = loader.load("tailrace")
    loader.resolve_aliases()
    return "".join(f"{line}\n" for module in PUBLIC for line in lines_of(module, package))


# Any: griffe's objects are aliases and targets by turns.
def lines_of(module: str, package: Any) -> Iterator[str]:
    found = package if module == "tailrace" else package[module.removeprefix("tailrace.")]
    for name in sorted(str(name).strip("'\"") for name in found.exports):
        yield from told(f"{module}.{name}", found[name])


def told(path: str, found: Any) -> Iterator[str]:
    """One object: a line for itself, one for each member that is public."""
    if found.is_class:
        bases = ", ".join(str(base) for base in found.bases)
        yield f"class {path}({bases})"
        for name, member in sorted(found.all_members.items()):
            if name == "__init__" or not name.startswith("_"):
                yield from told(f"{path}.{name}", member)
    elif found.is_function:
        yield f"{'async ' if 'async' in found.labels else ''}def {path}{signature(found)}"
    elif found.is_attribute and "property" in found.labels:
        yield f"property {path}: {found.annotation}"
    elif found.is_attribute and found.annotation is None:
        yield path
    elif found.is_attribute:
        value = f" = {found.value}" if found.value is not None else ""
        yield f"{path}: {found.annotation}{value}"


def signature(function: Any) -> str:
    parts: list[str] = []
    starred = False
    for parameter in function.parameters:
        kind = parameter.kind
        if kind is griffe.ParameterKind.var_positional:
            starred = True
        elif kind is griffe.ParameterKind.keyword_only and not starred:
            parts.append("*")
            starred = True
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(kind, "")
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        # griffe gives *args and **kwargs the defaults () and {}.
        default = f" = {parameter.default}" if parameter.default is not None and not stars else ""
        parts.append(f"{stars}{parameter.name}{annotation}{default}")
    return f"({', '.join(parts)}) -> {function.returns}"


if __name__ == "__main__":
    RECORDED.write_text(public_api(), encoding="utf-8")
