"""Installing what was built into environments that have nothing else: by uv, which takes from its cache."""

import os
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
#: "locked": the versions of uv.lock; "lowest-direct": the oldest that pyproject.toml allows; "highest": the newest.
RESOLUTION: Final = os.environ.get("TAILRACE_TEST_RESOLUTION", "locked")


def find_uv() -> str | None:
    return os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".bootstrap" / "bin"))


def uv(*arguments: str | Path) -> str:
    """What uv prints. Skips the test where there is no uv."""
    program = find_uv()
    if program is None:
        pytest.skip("uv is not here: `./run test` brings it")
    variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def extras() -> list[str]:
    return list(project()["project"]["optional-dependencies"])


@cache
def locked() -> str:
    """uv.lock's versions, as constraints."""
    return uv(
        "export", "--frozen", "--all-extras", "--no-default-groups", "--no-emit-project", "--no-hashes", "--quiet"
    )


def install(wheel: Path, extra: str, environment: Path) -> Path:
    """An environment with the wheel in it, with an extra ("core": none); its interpreter."""
    uv("venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    wanted = "tailrace" if extra == "core" else f"tailrace[{extra}]"
    options: list[str | Path] = []
    if RESOLUTION == "locked":
        constraints = environment / "constraints.txt"
        constraints.write_text(locked())
        options = ["--constraint", constraints]
    else:
        options = ["--resolution", RESOLUTION]
    uv("pip", "install", "--quiet", "--python", python, *options, f"{wanted} @ {wheel.as_uri()}")
    return python
