"""docs/dependencies.md names every dependency, with the licence and author that it declares, and all that the core brings."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from dependencies import author_of, canonical, closure, licence_of
from installing import project
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None, heading
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[0].splitlines()[2:]]


def names(lines: list[str | dict[str, str]]) -> set[str]:
    return {str(canonical(Requirement(line).name)) for line in lines if isinstance(line, str)} - {"tailrace"}


def sections() -> Mapping[str, set[str]]:
    declared = project()["project"]
    extras = {f"Extra: {name}": names(lines) for name, lines in declared["optional-dependencies"].items()}
    groups = {f"Development: {name}": names(lines) for name, lines in project()["dependency-groups"].items()}
    return {
        name: wanted for name, wanted in ({"Core": names(declared["dependencies"])} | extras | groups).items() if wanted
    }


@pytest.mark.parametrize("heading", sections())
def test_the_page_names_every_dependency_and_no_other(heading: str) -> None:
    assert {cells[0] for cells in rows(heading)} == sections()[heading]


def test_the_page_has_a_section_for_nothing_else() -> None:
    told = set(re.findall(r"^## ((?:Extra|Development): \S+)$", PAGE, re.MULTILINE))
    assert told == set(sections()) - {"Core"}


@pytest.mark.parametrize("heading", sections())
def test_licences_and_authors_are_those_that_the_packages_declare(heading: str) -> None:
    assert {cells[0]: (cells[1], cells[4]) for cells in rows(heading)} == {
        package: (licence_of(package), author_of(package)) for package in sections()[heading]
    }


@pytest.mark.parametrize("heading", sections())
def test_why_it_and_not_another_is_said_of_each(heading: str) -> None:
    assert not [cells for cells in rows(heading) if len(cells) != 6 or not all(cells)]


def test_the_core_brings_what_the_page_says() -> None:
    assert {cells[0] for cells in rows("What `pip install tailrace` brings")} == closure("tailrace")


def test_no_licence_of_what_is_shipped_asks_for_more_than_a_notice() -> None:
    shipped = closure("tailrace", ["all"])
    lenient = re.compile(
        r"MIT|BSD|Apache|PSF|ISC|Python Software Foundation|MPL-2.0|Unlicense|0BSD|Zlib|CC0", re.IGNORECASE
    )
    strict = {package: licence_of(package) for package in shipped if not lenient.search(licence_of(package))}
    assert strict == {}


def test_the_lock_has_every_package_that_the_core_brings() -> None:
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert closure("tailrace") <= locked
