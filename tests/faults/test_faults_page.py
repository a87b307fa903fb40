"""The page of guarantees names tests that exist, and every test of this folder is named there."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guarantees.md"
NAMED = re.compile(r"`(\w+)::(\w+)(?:\[[^`]*\])?`")
#: This file proves no promise.
UNNAMED = {"page"}


def test_every_test_on_the_page_of_guarantees_exists_and_every_fault_is_on_it() -> None:
    named = set(NAMED.findall(PAGE.read_text(encoding="utf-8"))) - {("file", "test")}
    there = {
        (file.stem.removeprefix("test_faults_"), name)
        for file in HERE.glob("test_faults_*.py")
        for name in re.findall(r"^(?:async )?def test_(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named - there == set(), "named on the page, but not there"
    assert {(file, name) for file, name in there - named if file not in UNNAMED} == set(), "not on the page"
