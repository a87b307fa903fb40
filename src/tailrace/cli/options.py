"""Options that several commands share, and what their words mean."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from tailrace.schemas import InvalidRequest, Settings

_SERVER: Final = "Where and what"
_LOGS: Final = "What it tells"

RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        metavar="URL",
        help="Redis; default: TAILRACE_REDIS_URL, else the embedded server.",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="NAME",
        help="Jobs of other namespaces are not seen; default: TAILRACE_NAMESPACE, else tailrace.",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings in TOML: upstreams, limits; default: TAILRACE_CONFIG.",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]
LogFormat = Annotated[
    Literal["text", "json"] | None,
    typer.Option(
        "--log-format",
        help="What goes to standard error: text, or a JSON object a line; default: TAILRACE_LOG_FORMAT, else text.",
        show_default=False,
        rich_help_panel=_LOGS,
    ),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(
        "--log-level",
        help="From which level on; default: TAILRACE_LOG_LEVEL, else info.",
        show_default=False,
        rich_help_panel=_LOGS,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object a line on standard output; errors as JSON on standard error.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def settings_of(redis_url: str | None, namespace: str | None, config: Path | None, **logs: str | None) -> Settings:
    """The settings that the options, the environment and the file make together. `logs`: `log_format` and `log_level`.

    Raises: InvalidRequest.
    """
    return Settings.load(redis_url=redis_url, namespace=namespace, config=config, **logs)


def duration(option: str, text: str | None) -> float | None:
    """Seconds from `90`, `1.5m`, `2h`. Raises: InvalidRequest."""
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"{option} {text!r} is no duration: write seconds, or a number with ms, s, m, h or d")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """`name=value` options as a dict. Raises: InvalidRequest."""
    found: dict[str, str] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"{option} {pair!r} is no name=value")
        if name in found:
            raise InvalidRequest(f"{option} {name!r} is given twice")
        found[name] = value
    return found


def json_pairs(option: str, given: Sequence[str] | None) -> dict[str, Any]:
    """As `pairs`, each value JSON where it is JSON, else the text itself. Raises: InvalidRequest."""
    return {name: _json_or_text(value) for name, value in pairs(option, given).items()}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def prompt_text(given: str | None, *, limit: int) -> str:
    """The prompt: the argument, or standard input for `-` and where something is piped in. Raises: InvalidRequest."""
    if given is not None and given != "-":
        return given
    if given is None and sys.stdin.isatty():
        raise InvalidRequest("no prompt: write one as the argument, or pipe it in")
    # One byte over the limit is enough to be refused; a pipe may never end.
    raw = sys.stdin.buffer.read(limit + 1)
    try:
        # Cut at the limit, a character may be cut too: the request is refused for its length then.
        text = raw.decode("utf-8", "ignore" if len(raw) > limit else "strict")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"standard input is not UTF-8 (byte {error.start}): convert it first") from None
    # echo and editors end the last line; a shell's $(...) takes that off as well.
    return text.removesuffix("\n")


def task_input(given: str | None, *, limit: int) -> Any:
    """A task's input: the argument, or standard input as for a prompt; as JSON if it is that, else as text. None if there is
    neither. Raises: InvalidRequest."""
    if given is None and sys.stdin.isatty():
        return None
    text = prompt_text(given, limit=limit)
    try:
        return json.loads(text)
    except ValueError:
        return text or None
