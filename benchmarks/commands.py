"""tailrace's own command as a process of the benchmarks, started as its users start it: with a configuration file."""

import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.processes import Child, started


@dataclass(frozen=True, slots=True)
class Command:
    """A command that serves."""

    process: Child
    ready: dict[str, Any]
    """What it said of itself when it was ready."""

    @property
    def workers(self) -> tuple[int, ...]:
        """The process ids that do the work: those of a supervisor's children, or its own."""
        return tuple(self.ready.get("pids", (self.process.pid,)))


@asynccontextmanager
async def command(settings: Mapping[str, Any], *words: str) -> AsyncGenerator[Command]:
    """`tailrace <words>` with these settings, once it is ready. Raises: RuntimeError with the end of its log."""
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder) / "tailrace.toml", Path(folder) / "log"
        config.write_text(toml(settings))
        line = [sys.executable, "-m", "tailrace.cli", *words, "--json", "--config", str(config)]
        # Its log tells of what is done to it here on purpose.
        with log.open("wb") as errors:
            async with started(line, errors=errors) as process:
                try:
                    ready = json.loads(" ".join(await process.line()))
                except RuntimeError as error:
                    raise RuntimeError(log.read_text()[-2000:]) from error
                yield Command(process, ready)


def toml(settings: Mapping[str, Any], *path: str) -> str:
    """Our settings as TOML: strings, numbers and tables."""
    lines = [f"[{'.'.join(path)}]"] if path else []
    tables: list[str] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            tables.append(toml(cast("dict[str, Any]", value), *path, name))
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join([*lines, *tables])
