"""What containers are told, held to what tailrace understands: command lines, variables, files of settings."""

import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import typer
import yaml

from tailrace.cli import app
from tailrace.schemas import Settings
from tailrace.schemas.secrets import FILE

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
COMPOSE: Final = ROOT / "docker-compose.yml"
#: What the Compose file takes from .env, with its default.
VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
#: An image by an exact version: never `latest`, never a moving `9` or `9.1`.
EXACT: Final = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-\w+)*")
#: Where each is read: platformdirs' caches and the embedded server's data are no settings of a section.
_FOLDERS: Final = frozenset({"TAILRACE_CACHE", "TAILRACE_DATA"})


def composed() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(COMPOSE.read_text()))


def replaced(text: str) -> str:
    """With the defaults for what .env may say."""
    return VARIABLE.sub(lambda found: found[2] or "", text)


def check_command(arguments: Sequence[str]) -> None:
    """Raises: ValueError if the `tailrace` command would not take these arguments."""
    command: Any = typer.main.get_command(app)  # typer's own or click's, by its version
    rest = list(arguments)
    while hasattr(command, "commands"):
        name = rest.pop(0) if rest else ""
        if name not in command.commands:
            raise ValueError(f"there is no command {name!r}")
        command = command.commands[name]
    try:
        command.make_context(command.name, rest)
    except Exception as error:
        raise ValueError(f"{arguments}: {error}") from error


def settings_in(file: Path, monkeypatch: Any) -> Settings:
    """The settings of a file alone. Raises: InvalidRequest if it is none."""
    monkeypatch.delenv("TAILRACE_CONFIG", raising=False)
    return Settings.load(config=file)


def named_in(file: Path) -> set[str]:
    """The variables that a file's settings name (`api_key_env = ...`), and the default upstream's."""
    table = tomllib.loads(file.read_text())
    default = table.get("upstreams", {}).get("default", {})
    return {*_named(table), default.get("api_key_env", "OPENAI_API_KEY")} - {""}


def _named(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _named(value)  # pyright: ignore[reportUnknownArgumentType]  # TOML
        elif name.endswith("_env"):
            yield value


def unknown_variables(variables: Mapping[str, Any], files: Sequence[Path]) -> set[str]:
    """Of these variables those of tailrace's, and those that name files, that nobody reads."""
    fields = Settings.model_fields
    secrets = {f"TAILRACE_{name.upper()}" for name, field in fields.items() if not field.repr}
    secrets |= {name for file in files for name in named_in(file)}
    known = {f"TAILRACE_{name.upper()}" for name in fields} | secrets | _FOLDERS | {name + FILE for name in secrets}
    return {name for name in variables if name.startswith("TAILRACE_") or name.endswith(FILE)} - known


def bytes_of(size: str) -> int:
    """Bytes of `2g` (Compose, Valkey's gb) or `2Gi` (Kubernetes)."""
    found = re.fullmatch(r"(\d+)([kmg])(?:b|i)?", size.lower())
    assert found, size
    return int(found[1]) << 10 * ("kmg".index(found[2]) + 1)


def prepare(folder: Path, **environment: str) -> None:
    """Run deploy/prepare as if `folder` were the repository."""
    (folder / "deploy").mkdir(exist_ok=True)
    script = folder / "deploy" / "prepare"
    script.write_bytes((DEPLOY / "prepare").read_bytes())
    script.chmod(0o755)
    subprocess.run([script], check=True, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True)
