"""Every block of the documentation runs, and prints what stands behind it; or says why it does not."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import yaml

from documentation import PAGES, ROOT, Block, all_blocks, commands_of
from tailrace.schemas import Settings

LINK = re.compile(r"\]\((?!https?://|mailto:)(?P<path>[^)#]+)(?:#[^)]*)?\)")
EXTERNAL = re.compile(r"https?://[^\s)>\"'`]+")
HOST = re.compile(
    r"https?://(?:[a-z0-9-]+\.)+[a-z]{2,}(?:[:/?#][!-~]*)?|https?://(?:127\.0\.0\.1|localhost|gateway)[!-~]*"
)
#: Between what one command of a console block says and the next.
MARK: Final = "\x1e"
#: No code: output, drawings, rules that stand as they are.
PROSE: Final = frozenset({"", "text"})

blocks = all_blocks()


def those(*languages: str) -> list[object]:
    """The blocks of these languages that run here. The others are skipped, with their reason."""
    return [
        pytest.param(
            block, id=block.id, marks=[] if block.not_run is None else pytest.mark.skip(f"not run: {block.not_run}")
        )
        for block in blocks
        if block.language in languages and block.run_by is None and block.shows is None
    ]


def write_modules(folder: Path) -> str:
    """The files of the pages as files, and a module whose App has all of their tasks; its name."""
    files = {block.file: block.code for block in blocks if block.file}
    for name, code in files.items():
        (folder / name).write_text(code, encoding="utf-8")
    modules = [name.removesuffix(".py") for name, code in files.items() if ".task" in code or ".add_runnable(" in code]
    all_tasks = f"""
from tailrace import App
import {", ".join(modules)}

tailrace = App()
apps = {{id(each): each for module in [{", ".join(modules)}] for each in vars(module).values() if isinstance(each, App)}}
for task in [task for app in apps.values() for task in app]:
    tailrace.add(task)
"""
    (folder / "all_tasks.py").write_text(all_tasks, encoding="utf-8")
    return "all_tasks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def environment(server_url: str, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a shell beside a worker on the rehearsal upstream and a gateway."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TAILRACE_"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONIOENCODING": "utf-8",
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


@pytest.mark.parametrize("block", those("python"))
def test_a_program_of_the_documentation_prints_what_the_next_block_says(
    block: Block, environment: dict[str, str], folder: Path
) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    if block.output is not None:
        assert ran.stdout.rstrip() == block.output.rstrip()


@pytest.mark.parametrize("block", those("console", "sh", "bash"))
def test_a_command_of_the_documentation_says_what_stands_behind_it(
    block: Block, environment: dict[str, str], folder: Path
) -> None:
    commands = commands_of(block.code)
    lines = [f"printf '{MARK}'\n{command.line}" for command in commands]
    said = folder / "said"
    with said.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-e", "-c", "\n".join(lines)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what the block leaves in the background ends with it
        )
        try:
            status = shell.wait(timeout=50)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    answers = said.read_text(encoding="utf-8", errors="replace").split(MARK)[1:]
    assert status == 0, answers
    for command, answer in zip(commands, answers, strict=True):
        assert command.says(answer), f"$ {command.line}\nsays\n{answer}\nand not\n{command.output}"


@pytest.mark.parametrize("block", those("toml"))
def test_a_configuration_in_the_documentation_is_one(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "tailrace.toml"
    file.write_text(block.code, encoding="utf-8")
    settings = Settings.load(config=file)
    assert settings.model_fields_set > {"config"}
    if block.page.name == "README.md":
        assert settings.upstreams["default"].fallback == "local"
        assert settings.upstreams["local"].concurrency == 4


@pytest.mark.parametrize("block", those("json", "yaml", "yml"))
def test_json_and_yaml_in_the_documentation_can_be_read(block: Block) -> None:
    assert json.loads(block.code) if block.language == "json" else list(yaml.safe_load_all(block.code))


def test_no_block_of_the_documentation_goes_unseen() -> None:
    """Each is run by a test above or by one that it names, says why it is not, or is no code."""
    ours = {"python", "console", "sh", "bash", "toml", "json", "yaml", "yml"} | PROSE
    assert [block.id for block in blocks if block.runs_here and block.language not in ours] == []
    commands = [
        block.id for block in blocks if block.runs_here and block.language in PROSE and block.code.startswith("$ ")
    ]
    assert commands == [], "these are commands: console blocks"
    assert [block.id for block in blocks if block.run_by and not (ROOT / block.run_by.split("::")[0]).exists()] == []
    assert [block.id for block in blocks if block.shows and not (ROOT / block.shows).exists()] == []
    assert len(blocks) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        assert (page.parent / match["path"]).exists(), match["path"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_out_of_the_documentation_are_well_formed(page: Path) -> None:
    wrong = [
        url for url in EXTERNAL.findall(page.read_text(encoding="utf-8")) if not HOST.fullmatch(url.rstrip(".,;*"))
    ]
    assert wrong == []


def test_every_test_that_the_readme_names_exists() -> None:
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", PAGES[0].read_text())
    assert len(named) >= 10
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"
