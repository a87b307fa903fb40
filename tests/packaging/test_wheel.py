"""What is shipped: real files, all rooms, nothing of the repository's; the same from the tree as from the sdist."""

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from wheels import build

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "src" / "tailrace"


class Built(NamedTuple):
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out, "sdist", "wheel")
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    with tarfile.open(sdist) as archive:
        # Python 3.11.0 to 3.11.3 know no filters; the archive is our own.
        options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(out / "unpacked", **options)
    [tree] = (out / "unpacked").iterdir()
    build(tree, out / "again", "wheel")
    [again] = (out / "again").glob("*.whl")
    yield Built(sdist, wheel, again)
    shutil.rmtree(out)


def modules() -> set[str]:
    """What the package has in the tree, as paths in a wheel."""
    found = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in found}


def test_the_wheel_holds_every_module_of_every_room_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == modules()
    assert "tailrace/py.typed" in names
    for room in ("schemas", "producer", "worker", "consumer", "gateway", "joblog", "views", "queue", "client"):
        assert f"tailrace/{room}/__init__.py" in names


def test_the_wheel_holds_files_with_their_content_and_no_links(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        for entry in archive.infolist():
            # The high half of external_attr is the Unix mode: 0o12.... would be a symbolic link.
            assert (entry.external_attr >> 28) != 0o12, entry.filename
        for name in modules():
            assert archive.read(name) == (PACKAGE.parent / name).read_bytes(), name


def test_the_wheel_names_its_licence_its_command_and_its_extras(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        [folder] = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
        metadata = archive.read(f"{folder}/METADATA").decode()
        assert "tailrace = tailrace.cli:main" in archive.read(f"{folder}/entry_points.txt").decode()
    for extra in ("worker", "embedded", "all"):
        assert f"Provides-Extra: {extra}\n" in metadata


def test_the_sdist_holds_the_sources_and_neither_root_links_nor_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = {member.name.split("/", 1)[1] for member in members}
    assert {f"src/{name}" for name in modules()} <= names
    # hatchling adds the version control's ignore file to what pyproject.toml names.
    others = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", ".gitignore"}
    assert {name for name in names if not name.startswith("src/")} == others


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_tree(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as one, zipfile.ZipFile(built.wheel_of_sdist) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in one.namelist():
            assert one.read(name) == other.read(name), name
