"""Packages for Node that a test needs, installed by npm: once, and kept in the user's cache."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from filelock import FileLock
from platformdirs import user_cache_path

_PATIENCE_S: Final = 40.0
_QUIET: Final = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
#: A machine without a network says so at once, not after npm's own half a minute of pauses.
_RETRIES: Final = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")


def installed_node_packages(source: Path) -> Path:
    """A folder whose `node_modules` has what the package-lock.json in `source` names. Skips where npm is not, or cannot."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    lock = (source / "package-lock.json").read_bytes()
    home = user_cache_path("tailrace") / "tests" / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "lock"):
        if (home / "installed").exists():
            return home
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, home / name)
        try:
            command = [npm, "ci", *_QUIET, *_RETRIES]
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install the packages of {source} within {_PATIENCE_S:g} s")
        if done.returncode:
            pytest.skip(f"npm could not install the packages of {source}: {done.stderr[-300:]}")
        (home / "installed").touch()
    return home
