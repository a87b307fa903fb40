"""Nobody changes what users call without meaning to."""

import difflib
import importlib

import pytest
from public_api import PUBLIC, RECORDED, public_api


def test_the_public_names_are_those_that_are_recorded() -> None:
    diff = list(
        difflib.unified_diff(RECORDED.read_text(encoding="utf-8").splitlines(), public_api().splitlines(), lineterm="")
    )
    assert not diff, (
        "the public API is another than the recorded one:\n"
        + "\n".join(diff)
        + "\nIf that is meant (docs/releasing.md says what may change when): add a line to CHANGELOG.md and run "
        "`./run python tests/packaging/public_api.py`"
    )


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_recorded(module: str) -> None:
    names: list[str] = importlib.import_module(module).__all__
    lines = RECORDED.read_text(encoding="utf-8").splitlines()
    for name in names:
        path = f"{module}.{name}"
        assert any(
            line.removeprefix(kind).startswith(path) for line in lines for kind in ("class ", "def ", "async def ", "")
        ), path
