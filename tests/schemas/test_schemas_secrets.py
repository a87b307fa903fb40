"""Secrets come from a variable or from the file that it names; what is wrong is told without them."""

from pathlib import Path

import pytest

from tailrace.schemas import InvalidRequest
from tailrace.schemas.secrets import secret_of


def test_a_secret_comes_from_its_variable_or_from_the_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" sk-1 sk-2\n")
    assert secret_of("KEY", {"KEY": " sk-0\n"}) == "sk-0"
    assert secret_of("KEY", {"KEY_FILE": str(file)}) == "sk-1 sk-2"
    assert secret_of("KEY", {"KEY": "sk-0", "KEY_FILE": ""}) == "sk-0"
    assert secret_of("KEY", {"KEY": "", "KEY_FILE": str(file)}) == "sk-1 sk-2"
    assert secret_of("KEY", {}) == ""


@pytest.mark.parametrize(
    ("content", "value", "says"),
    [
        (None, "", "KEY_FILE names cannot be read"),
        (b"sk-secret\xff", "", "KEY_FILE names is not UTF-8"),
        (b"sk-secret" * 10_000, "", "KEY_FILE names is too large"),
        (b"sk-secret", "sk-secret-2", "KEY and KEY_FILE are both set"),
    ],
)
def test_what_is_wrong_names_the_variable_and_never_the_secret(
    tmp_path: Path, content: bytes | None, value: str, says: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=says) as caught:
        secret_of("KEY", {"KEY": value, "KEY_FILE": str(file)})
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
