"""The command line as Markdown, read off the commands themselves, and their exit codes."""

from collections.abc import Iterator
from typing import Any, Final

import typer.main
from field_docs import field_docs

from tailrace.cli import ExitCode, app

#: Options that nearly all commands have: told once.
COMMON: Final = ("redis_url", "namespace", "config", "json")
_HELP: Final = "--help"


def commands() -> dict[str, Any]:
    """Every command by its whole name, in the order of `tailrace --help`."""
    return dict(_walk(typer.main.get_command(app), "tailrace"))


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    below: dict[str, Any] = getattr(command, "commands", {})
    if not below and not command.hidden:
        yield name, command
    for each, child in below.items():
        if not child.hidden:
            yield from _walk(child, f"{name} {each}")


def markdown() -> str:
    return "\n".join(
        [*_exit_codes(), *_common(), *(line for name, each in commands().items() for line in _command(name, each))]
    )


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield (command.help or "") + "\n"
    parameters = [each for each in command.params if not getattr(each, "hidden", False) and _HELP not in each.opts]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    usage = " ".join(each.metavar or each.name.upper() for each in arguments)
    yield f"```text\n{name} {'[OPTIONS] ' if len(parameters) > len(arguments) else ''}{usage}".rstrip() + "\n```\n"
    own = [each for each in parameters if each.name not in COMMON]
    if own:
        yield "| | default | |\n|---|---|---|"
        for each in own:
            yield _row(_names(each), _default(each), each.help or "")
        yield ""
    common = [f"`{each.opts[0]}`" for each in parameters if each.name in COMMON]
    if common:
        yield f"And {', '.join(common)}: [above](#options-of-most-commands).\n"


def _common() -> Iterator[str]:
    found: dict[str, Any] = {}
    for command in commands().values():
        for each in command.params:
            if each.name in COMMON and each.param_type_name == "option":
                found.setdefault(each.name, each)
    yield "## Options of most commands\n"
    yield "| | | |\n|---|---|---|"
    for name in COMMON:
        yield _row(_names(found[name]), "", found[name].help or "")
    yield ""


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    value = "" if parameter.is_flag else f" {parameter.metavar}" if parameter.metavar else ""
    return ", ".join(f"`{each}{value}`" for each in [*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    default = parameter.default
    if default in (None, False, (), []) or callable(default):
        return "required" if parameter.required else ""
    return f"`{getattr(default, 'value', default)}`"


def _exit_codes() -> Iterator[str]:
    told = field_docs(ExitCode)
    yield "## Exit codes\n"
    yield "| | |\n|---|---|"
    for code in ExitCode:
        yield _row(f"`{code.value}`", told.get(code.name, "Done."))
    yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
