"""The strings below the fields of a class, which say what each is. Python does not keep them: they are read from the source."""

import ast
import inspect


def field_docs(kind: type) -> dict[str, str]:
    """By the field's name, each in one line; of the class itself, not of those that it inherits from."""
    found: dict[str, str] = {}
    for definition in ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body:
        if isinstance(definition, ast.ClassDef):
            for field, below in zip(definition.body, definition.body[1:], strict=False):
                name, text = _name(field), _text(below)
                if name and text:
                    found[name] = text
    return found


def _name(statement: ast.stmt) -> str | None:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case _:
            return None


def _text(statement: ast.stmt) -> str | None:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.split())
        case _:
            return None
