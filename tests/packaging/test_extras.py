"""Each extra in an environment of its own: it does what it promises, and what it does not bring says what to install."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from installing import RESOLUTION, extras, install
from smoke import PROMISES
from wheels import build

from stack import Stack, running_stack
from tailrace.upstreams.local_model import ensure_model

ROOT = Path(__file__).parents[2]
SMOKE = Path(__file__).with_name("smoke.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out, "wheel")
    [wheel] = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def stack(server_url: str) -> Iterator[Stack]:
    with running_stack(server_url) as stack:
        yield stack


def test_every_extra_has_a_promise() -> None:
    assert list(PROMISES) == ["core", *extras()]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("extra", PROMISES)
def test_an_extra_in_an_empty_environment_keeps_its_promise(
    extra: str, wheel: Path, stack: Stack, tmp_path: Path
) -> None:
    python = install(wheel, extra, tmp_path / "environment")
    variables = stack.environment | {"COLUMNS": "200"}
    variables.pop("PYTHONPATH", None)
    if extra == "local-model":
        variables["SMOKE_MODEL"] = str(ensure_model())
    # The oldest versions of some packages are themselves behind what the newest Python or others deprecate.
    strict = [] if RESOLUTION == "lowest-direct" else ["-W", "error"]
    ran = subprocess.run(
        [python, *strict, SMOKE, extra], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=150
    )
    assert ran.returncode == 0, ran.stderr
    assert sys.prefix not in ran.stderr
