"""`tailrace worker MODULE:APP`: finding the application, saying what is wrong with it, running its tasks."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import Cli, Start, run

from tailrace.cli.applications import load_app
from tailrace.cli.exits import ExitCode
from tailrace.schemas import InvalidRequest
from tailrace.tasks import App

ONE = """
from tailrace import App, Context

tailrace = App()
number = 7


@tailrace.task
async def shout(ctx: Context, text: str) -> str:
    answer = await ctx.llm(text, params={"rehearsal": {"text": text.upper()}})
    child = await ctx.child(task="whisper", input=text)
    return answer + child.text


@tailrace.task
async def whisper(ctx: Context, text: str) -> str:
    return text.lower()
"""
TWO = ONE + "\nother = App()\n"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules of an author's, which is where the command is run."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name, source in (
        ("cli_one", ONE),
        ("cli_two", TWO),
        ("cli_none", "x = 1\n"),
        ("cli_breaks", "import nowhere\n"),
    ):
        (folder / f"{name}.py").write_text(source)
    monkeypatch.chdir(folder)
    path, loaded = sys.path.copy(), set(sys.modules)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - loaded:
        if name.startswith("cli_"):
            del sys.modules[name]


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("spec", ["cli_one:tailrace", "cli_one", "cli_two:tailrace"])
def test_an_application_is_found_by_module_and_name(spec: str) -> None:
    assert set(load_app(spec).tasks) == {"shout", "whisper"}


@pytest.mark.usefixtures("modules")
def test_an_application_under_two_names_is_one() -> None:
    module = Path("cli_alias.py")
    module.write_text(ONE + "\nalias = tailrace\n")
    assert isinstance(load_app("cli_alias"), App)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("cli_missing:tailrace", "there is no module 'cli_missing' in .*project or on the path"),
        ("cli_one:nothing", "should be a tailrace.App: 'cli_one' has nothing of that name there"),
        ("cli_one:number", "should be a tailrace.App: 'cli_one' has a int there"),
        ("cli_none", "module 'cli_none' has no tailrace.App: name the one to run"),
        ("cli_two", "module 'cli_two' has several: name the one to run, as in cli_two:tailrace"),
        (":tailrace", "':tailrace' names no application: give module:attribute"),
        (".cli_one:tailrace", "names no application"),
        ("./cli_one.py", "names no application"),
        ("", "names no application"),
    ],
)
def test_what_is_no_application_is_told(spec: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        load_app(spec)


@pytest.mark.usefixtures("modules")
def test_a_module_that_imports_what_is_not_there_says_what(cli: Cli) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        load_app("cli_breaks:tailrace")
    assert cli.url


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_wrong_application_ends_the_worker_at_once_with_the_exit_code_of_usage(cli: Cli, processes: str) -> None:
    ran = cli("worker", "cli_one:nothing", "--rehearsal", "--json", "--processes", processes)
    assert ran.code == ExitCode.USAGE
    assert "'cli_one' has nothing of that name there" in ran.error["message"]
    assert ran.out == ""


def test_a_wrong_application_is_told_in_words(cli: Cli) -> None:
    ran = run("worker", "no_such_module:app", "--rehearsal", "--redis-url", cli.url)
    assert ran.code == ExitCode.USAGE
    assert "there is no module 'no_such_module'" in ran.err


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(("spec", "processes"), [("cli_one:tailrace", "1"), ("cli_one", "2")])
def test_a_worker_runs_the_tasks_of_its_application(cli: Cli, start: Start, spec: str, processes: str) -> None:
    worker = start("worker", spec, "--rehearsal", "--json", "--processes", processes, "--namespace", cli.namespace)
    worker.wait_for('"ready"')
    assert json.loads(worker.out)["tasks"] == ["shout", "whisper"]
    from tailrace import Settings, Tailrace

    with Tailrace(settings=Settings(redis_url=cli.url, namespace=cli.namespace)) as tailrace:
        job = tailrace.submit(task="shout", input="Hello")
        assert job.text(timeout=20) == "HELLOhello"
    worker.signal(signal.SIGTERM)
    ran = worker.ended()
    assert ran.code == ExitCode.OK
    assert "tasks: shout, whisper" in ran.err
