"""The benchmarks run, and say something: never how fast, that is the machine's affair."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from benchmarks.rows import ROWS

#: The first test waits for the run of all rows.
pytestmark = pytest.mark.timeout(200)

KEYS: Final = [row.key for row in ROWS]
ROOT: Final = Path(__file__).parent.parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)


def figures(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [figure for row in report["rows"].values() for figure in row["figures"]]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """What one quick run of all rows gave: the JSON, the page, the terminal's text."""
    folder = tmp_path_factory.mktemp("bench")
    page = folder / "performance.md"
    page.write_text("# Performance\n\nBefore.\n")
    done = run("--quick", "--json", folder / "figures.json", "--write", page)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "figures.json").read_text()), page.read_text(), done.stdout


def test_every_row_measures_both_sides(smoke: tuple[dict[str, Any], str, str]) -> None:
    report, _, _ = smoke
    assert list(report["rows"]) == KEYS
    for row in report["rows"].values():
        assert len({figure["subject"] for figure in row["figures"]}) >= 2
        assert "tailrace" in {figure["subject"] for figure in row["figures"]}


def test_every_figure_is_a_number_above_nought(smoke: tuple[dict[str, Any], str, str]) -> None:
    report, _, _ = smoke
    for figure in figures(report):
        assert figure["samples"] > 0
        assert figure["round_p50s"]
        for value in (figure["p50"], *figure["round_p50s"]):
            # A difference of two sides' medians, from a few samples on a busy machine, may have either sign.
            assert math.isfinite(value) if figure["what"].startswith("added") else value > 0, figure


def test_the_rows_with_a_floor_set_what_is_measured_in_relation_to_it(smoke: tuple[dict[str, Any], str, str]) -> None:
    report, _, _ = smoke
    with_floor = {key for key, row in report["rows"].items() if any(figure["of_floor"] for figure in row["figures"])}
    assert with_floor == {
        key for key, row in report["rows"].items() if any(figure["subject"] == "floor" for figure in row["figures"])
    }
    assert with_floor == {"relay", "fan-out", "gateway"}


def test_the_tables_are_whole_in_140_columns(smoke: tuple[dict[str, Any], str, str]) -> None:
    report, _, shown = smoke
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 140
    for subject in {figure["subject"] for figure in figures(report)}:
        assert any(line.startswith(f"  {subject} ") for line in shown.splitlines()), subject


def test_the_page_keeps_its_text_and_gets_the_tables_once(
    smoke: tuple[dict[str, Any], str, str], tmp_path: Path
) -> None:
    report, page, shown = smoke
    assert page.startswith("# Performance\n\nBefore.\n")
    for row in report["rows"].values():
        assert page.count(f"### {row['title']}\n") == 1
        assert row["title"] in shown
    links = [line for line in page.splitlines() if line.startswith("![")]
    curves = [curve for row in report["rows"].values() for curve in row["curves"]]
    assert curves
    assert 0 < len(links) <= len(curves)
    again = tmp_path / "performance.md"
    again.write_text(page + "After.\n")
    done = run("pickup", "--quick", "--write", again)
    assert done.returncode == 0, done.stderr
    text = again.read_text()
    assert text.startswith("# Performance\n\nBefore.\n")
    assert text.endswith("After.\n")
    assert text.count("### ") == 1


def test_a_page_names_versions_and_cores_but_neither_host_nor_folder(smoke: tuple[dict[str, Any], str, str]) -> None:
    report, page, _ = smoke
    machine = report["machine"]
    assert machine["cores"] >= 1
    assert f"{machine['cores']} cores of {machine['cpu']}" in page
    assert {"tailrace", "redis", "arq", "openai"} <= set(machine["packages"])
    assert str(Path.home()) not in page
    assert str(ROOT) not in page


def test_the_project_s_page_takes_whole_runs_only() -> None:
    done = run("--quick", "--write")
    assert done.returncode == 2
    assert "whole run" in done.stderr


def test_an_unknown_row_is_named_with_the_known_ones() -> None:
    done = run("nonesuch")
    assert done.returncode == 2
    assert "nonesuch" in done.stderr
    assert ", ".join(KEYS) in " ".join(done.stderr.split())
