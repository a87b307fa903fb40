"""Building what is shipped."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from installing import find_uv


def build(source: Path, out: Path, *kinds: str) -> None:
    """Build with hatchling itself where it is installed (needs no network), else by way of uv."""
    command: list[str | Path]
    uv = find_uv()
    if importlib.util.find_spec("hatchling") is not None:
        targets = [part for kind in kinds for part in ("--target", kind)]
        command = [sys.executable, "-m", "hatchling", "build", "--directory", out, *targets]
    elif uv is not None:
        command = [uv, "build", "--no-config", "--out-dir", out, *(f"--{kind}" for kind in kinds), "."]
    else:
        pytest.fail("nothing to build with: install hatchling (the build backend) or uv")
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
