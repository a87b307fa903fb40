"""The references are whole: every public name, route, command and setting is in them, and drawings are as drawn."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tailrace
import tailrace.langchain
import tailrace.openai
from documentation import ROOT
from tailrace import Settings

BUILD = ROOT / "docs" / "_build"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> type["Built"]:
    monkeypatch.syspath_prepend(BUILD)  # pyright: ignore[reportUnknownMemberType]  # untyped in pytest
    return Built


class Built:
    """The modules that write the site's pages, which are in no package."""

    @staticmethod
    def module(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        finally:
            sys.modules.pop(name, None)


def test_the_python_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))
    public = {f"tailrace.{name}" for name in tailrace.__all__}
    public |= {f"tailrace.openai.{name}" for name in tailrace.openai.__all__}
    public |= {f"tailrace.langchain.{name}" for name in tailrace.langchain.__all__}
    assert public - {"tailrace.langchain.JobOptions"} <= shown


def test_the_python_page_draws_the_tree_of_errors_as_the_code_does() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    told = (importlib.import_module("tailrace.schemas.errors").__doc__ or "").split("\n\n", 1)[1].strip()
    assert f"```text\n{told}\n```" in page


def test_the_http_reference_has_every_route_and_links_only_to_shapes_that_are_there(built: type[Built]) -> None:
    http = built.module("http_reference")
    text: str = http.markdown()
    document = http.document()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"### `{method.upper()} {path}`" in text
    linked = set(re.findall(r"\(#(shape-\w+)\)", text))
    assert linked <= {f"shape-{name.lower()}" for name in document["components"]["schemas"]}
    assert linked


def test_the_command_line_reference_has_every_command_and_option(built: type[Built]) -> None:
    cli = built.module("cli_reference")
    text: str = cli.markdown()
    commands = cli.commands()
    assert {"tailrace submit", "tailrace keys new", "tailrace doctor"} <= commands.keys()
    for name, command in commands.items():
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--help" not in parameter.opts:
                assert parameter.opts[0] in section, (name, parameter.opts)


def test_the_reference_of_settings_has_every_setting_and_what_is_said_of_it(built: type[Built]) -> None:
    text: str = built.module("settings_reference").markdown()
    for name, field in Settings.model_fields.items():
        is_section = any(f"[{name}{end}" in text for end in ("]", ".<name>]"))
        assert is_section or f"| `{name}` |" in text, (name, field)
    assert "A dead worker's jobs run again after this long." in text
    assert "| `max_jobs` | int, at least 1 | `1000` |" in text


def test_the_diagrams_are_those_that_their_script_draws(built: type[Built]) -> None:
    diagrams = built.module("diagrams")
    for name in diagrams.DIAGRAMS:
        file = Path(diagrams.FOLDER) / f"{name}.svg"
        assert file.read_text(encoding="utf-8") == diagrams.drawn(name), f"run docs/_build/diagrams.py: {name}"
    assert {file.stem for file in Path(diagrams.FOLDER).glob("*.svg")} == set(diagrams.DIAGRAMS)


def test_the_colours_of_diagrams_are_the_same_in_their_files_and_on_the_site(built: type[Built]) -> None:
    style: str = built.module("diagrams").STYLE
    sheet = (ROOT / "docs" / "assets" / "site.css").read_text(encoding="utf-8")
    assert set(re.findall(r"\.dg \.(\w+)", style)) == set(re.findall(r"\.dg \.(\w+)", sheet))


def test_every_figure_that_is_compared_side_by_side_was_measured() -> None:
    """A figure of the comparison that the benchmarks no longer give must not stay there."""
    performance = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    comparison = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| side by side .*?\n\n", comparison, re.DOTALL | re.MULTILINE)
    prose = comparison.split("## When not to use tailrace")[1]
    figures = [
        figure for text in (*tables, prose) for figure in re.findall(r"(\d[\d,.]*) (ms|us|s|%|B)(?![\w])", text)
    ] + [(number, "chunks/s") for number in ("120,216", "62,690")]
    assert len(figures) > 15
    for number, unit in figures:
        assert f"| {number} {unit} |" in performance, f"{number} {unit}"
    assert re.search(r"queue \d+, arq 2004, worker 2085,", performance)
    assert "1.04 x" in performance
