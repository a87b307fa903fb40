"""Two versions of tailrace on one server: this one, and the released wheel that TAILRACE_OLD_WHEEL names."""

import os
import subprocess
import sys
import uuid
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from versions import Version

from tailrace.joblog.embedded import EmbeddedServer

WHEEL = os.environ.get("TAILRACE_OLD_WHEEL")
#: An environment that has the old version already: nothing is installed then.
PYTHON = os.environ.get("TAILRACE_OLD_PYTHON")


@pytest.fixture(scope="session")
def upgrade_server() -> Iterator[EmbeddedServer]:
    """Not the session's server: these jobs are run by processes that others know nothing of."""
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the old version and what its workers need."""
    if PYTHON:
        return Path(PYTHON)
    if not WHEEL:
        pytest.skip("TAILRACE_OLD_WHEEL names no wheel of an earlier version")
    folder = tmp_path_factory.mktemp("old")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    wanted = f"{Path(WHEEL).resolve()}[worker,embedded]"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted], check=True)
    return python


@pytest.fixture
def versions(old_python: Path, upgrade_server: EmbeddedServer) -> Iterator[dict[str, Version]]:
    """`old` and `new`, on one server and in one namespace. What they have started ends with the test."""
    namespace = f"upgrade-{uuid.uuid4().hex[:8]}"
    both = {
        name: Version(str(python), upgrade_server.url, namespace)
        for name, python in (("old", old_python), ("new", sys.executable))
    }
    yield both
    for version in both.values():
        version.close()
