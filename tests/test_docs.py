"""Every Python block of the documentation runs, and prints what the block after it says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.schemas import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
#: A block that says so is a module with tasks: a worker loads it, other blocks submit to it.
MODULE = re.compile(r"# (?P<name>\w+)\.py\n")
LINK = re.compile(r"\]\((?!https?://)(?P<path>[^)#]+)(?:#[^)]*)?\)")

blocks = [
    pytest.param(
        match["code"], match["output"], id=f"{page.name}:{page.read_text()[: match.start()].count(chr(10)) + 1}"
    )
    for page in PAGES
    for match in BLOCK.finditer(page.read_text())
]


def write_modules(folder: Path) -> str:
    """The modules of the pages as files, and one that loads them all; its name."""
    codes = [match["code"] for page in PAGES for match in BLOCK.finditer(page.read_text())]
    modules = {match["name"]: code for code in codes if (match := MODULE.match(code))}
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    (folder / "all_tasks.py").write_text(f"import {', '.join(modules)}\nfrom my_app import tailrace\n")
    return "all_tasks"


@pytest.fixture(scope="module")
def environment(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell beside a worker on the rehearsal upstream and a gateway."""
    folder = tmp_path_factory.mktemp("docs")
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TAILRACE_"))},
        "TAILRACE_REDIS_URL": server_url,
        "TAILRACE_NAMESPACE": "docs",
        "PYTHONPATH": str(folder),
    }
    where = (write_modules(folder), "--rehearsal", "--port", "0", "--json")
    command = [sys.executable, "-m", "tailrace.cli", "dev", *where]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as started:
        assert started.stdout is not None
        base_url = json.loads(started.stdout.readline())["base_url"]
        yield {**variables, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none"}
        started.terminate()


@pytest.mark.parametrize(("code", "output"), blocks)
def test_a_block_of_the_documentation_prints_what_the_next_one_says(
    code: str, output: str | None, environment: dict[str, str]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    if output is not None:
        assert ran.stdout.rstrip() == output.rstrip()


def test_the_configuration_in_the_readme_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = re.search(r"^```toml\n(.*?)^```\n", PAGES[0].read_text(), re.DOTALL | re.MULTILINE)
    assert toml is not None
    file = tmp_path / "tailrace.toml"
    file.write_text(toml[1])
    monkeypatch.setenv("TAILRACE_CONFIG", str(file))
    settings = Settings.load()
    assert settings.upstreams["default"].fallback == "local"
    assert settings.upstreams["local"].concurrency == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(page.read_text()):
        assert (page.parent / match["path"]).exists(), match["path"]


def test_every_test_that_the_readme_names_exists() -> None:
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", PAGES[0].read_text())
    assert len(named) >= 10
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"
