"""A page in Chinese is its English page: the same blocks, the same sections, links that lead to the same places."""

import re
from pathlib import Path

import pytest

from documentation import ROOT, blocks_of

TRANSLATED = sorted([*ROOT.glob("*.zh.md"), *(ROOT / "docs").glob("*.zh.md")])
LINK = re.compile(r"\]\(([^)]+)\)")
TEST = re.compile(r"`[a-z_/]+\.py::\w+`")


def test_the_readme_and_the_tutorial_are_translated() -> None:
    assert {"README.zh.md", "tutorial.zh.md"} <= {page.name for page in TRANSLATED}


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_a_translation_has_the_blocks_sections_links_and_tests_of_its_page(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh.", "."))
    sections = re.compile(r"^(#+) ", re.MULTILINE)
    ours, theirs = page.read_text(encoding="utf-8"), english.read_text(encoding="utf-8")
    assert [block.code for block in blocks_of(page)] == [block.code for block in blocks_of(english)]
    assert sections.findall(ours) == sections.findall(theirs)
    assert {link.replace(".zh.md", ".md") for link in LINK.findall(ours)} == {
        link.replace(".zh.md", ".md") for link in LINK.findall(theirs)
    }
    assert TEST.findall(ours) == TEST.findall(theirs)
    for link in LINK.findall(ours):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.split("#")[0]).exists(), link
