"""The metadata of what is shipped, as an index reads it."""

import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from installing import project
from markdown_it import MarkdownIt
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from wheels import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """METADATA of the wheel, PKG-INFO of the sdist."""
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out, "sdist", "wheel")
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        found = {"wheel": archive.read(name).decode()}
    with tarfile.open(sdist) as archive:
        [member] = [member for member in archive if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO")]
        file = archive.extractfile(member)
        assert file is not None
        found["sdist"] = file.read().decode()
    return found


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_metadata_is_valid_by_the_specification(texts: dict[str, str], kind: str) -> None:
    # Source: packaging.python.org/en/latest/specifications/core-metadata
    metadata = Metadata.from_email(texts[kind], validate=True)
    assert metadata.name == "tailrace"
    assert metadata.license_expression == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert str(metadata.requires_python) == ">=3.11"
    assert metadata.description_content_type == "text/markdown"


def test_wheel_and_sdist_say_the_same(texts: dict[str, str]) -> None:
    assert texts["wheel"] == texts["sdist"]


def test_every_requirement_of_the_project_is_in_the_metadata(texts: dict[str, str]) -> None:
    message: Message = Parser().parsestr(texts["wheel"])
    named = {Requirement(line).name for line in message.get_all("Requires-Dist") or []}
    lists = [project()["project"]["dependencies"], *project()["project"]["optional-dependencies"].values()]
    assert {Requirement(line).name for lines in lists for line in lines} - {"tailrace"} == named


def test_no_requirement_is_a_path_or_an_address(texts: dict[str, str]) -> None:
    message: Message = Parser().parsestr(texts["wheel"])
    assert not [line for line in message.get_all("Requires-Dist") or [] if Requirement(line).url is not None]


def test_the_long_description_is_the_readme_and_renders(texts: dict[str, str]) -> None:
    description = Metadata.from_email(texts["wheel"]).description
    assert description is not None
    assert description.strip() == (ROOT / "README.md").read_text().strip()
    html = MarkdownIt("commonmark").enable("table").render(description)
    assert html.count("<h1>") == 1
    assert "<table>" in html
    assert '<pre><code class="language-python">' in html
