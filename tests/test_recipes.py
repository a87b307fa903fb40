"""The recipes of docs/recipes.md: web applications driven as a server drives them, the notebook cell by cell, and that the
page shows the files."""

import ast
import asyncio
import importlib.util
import inspect
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest
from redis import Redis

from stack import Stack, running_stack
from tailrace import END, Status, Tailrace
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.upstreams._words import VERSES, tokenize

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
WATER = "Write me a 1 verse song about sparkling water."
TOKENS = tokenize(VERSES[WATER])
PATIENCE_S = 30
SHOWN = re.compile(r"^```python examples/(?P<name>\S+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def recipes_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture
def stack(recipes_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A worker, and its Redis and namespace in this process's environment."""
    with running_stack(recipes_server.url, rehearsal={"pace": 0.01}) as stack:
        for name, value in stack.environment.items():
            if name.startswith("TAILRACE_"):
                monkeypatch.setenv(name, value)
        yield stack


def loaded(name: str) -> ModuleType:
    """An example as a module of its own."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


class Web:
    """An ASGI application, asked as a server asks it. Source: asgi.readthedocs.io/en/latest/specs/www.html."""

    def __init__(self, app: Any) -> None:
        self._app = app

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Between the application's startup and its shutdown."""
        to_app, from_app = asyncio.Queue[Any](), asyncio.Queue[Any]()
        life = asyncio.create_task(
            self._app({"type": "lifespan", "asgi": {"version": "3.0"}}, to_app.get, from_app.put)
        )
        await to_app.put({"type": "lifespan.startup"})
        assert (await from_app.get())["type"] == "lifespan.startup.complete"
        try:
            yield
        finally:
            await to_app.put({"type": "lifespan.shutdown"})
            await life

    async def ask(self, method: str, path: str, *, body: bytes = b"", **headers: str) -> AsyncGenerator[Any]:
        """The status, then the pieces of the body as they come. Whoever stops listening hangs up."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        said, hung_up, asked = asyncio.Queue[Any](), asyncio.Event(), [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            if asked:
                return asked.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        answering = asyncio.create_task(self._app(scope, receive, said.put))
        answering.add_done_callback(lambda _: said.put_nowait(None))
        try:
            while (message := await asyncio.wait_for(said.get(), PATIENCE_S)) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"]
                elif message.get("body"):
                    yield message["body"]
        finally:
            hung_up.set()
            with suppress(asyncio.CancelledError):  # Django answers a hang-up so
                await asyncio.wait_for(answering, PATIENCE_S)

    async def answer(self, method: str, path: str, *, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """All of it."""
        async with aclosing(self.ask(method, path, body=body, **headers)) as pieces:
            status, *rest = [piece async for piece in pieces]
        return status, b"".join(rest)


class TestFastAPI:
    @pytest.fixture
    async def web(self, stack: Stack) -> AsyncIterator[Web]:
        assert os.environ["TAILRACE_NAMESPACE"] == stack.settings.namespace
        web = Web(loaded("fastapi_app").app)
        async with web.running():
            yield web

    async def submitted(self, web: Web, prompt: str = WATER) -> str:
        body = json.dumps({"prompt": prompt}).encode()
        status, answer = await web.answer("POST", "/jobs", body=body, content_type="application/json")
        assert status == 200
        return str(json.loads(answer)["id"])

    async def test_an_event_source_that_is_cut_off_goes_on_and_comes_no_more_after_the_end(self, web: Web) -> None:
        job_id = await self.submitted(web)
        events: list[dict[str, str]] = []
        async with aclosing(web.ask("GET", f"/jobs/{job_id}/stream")) as pieces:
            async for piece in pieces:
                if isinstance(piece, bytes):
                    events += parsed(piece)
                if len(events) >= 5:
                    break  # the line drops
        with Tailrace() as tailrace:
            assert tailrace.job(job_id).status() is Status.IN_PROGRESS
        status, rest = await web.answer("GET", f"/jobs/{job_id}/stream", last_event_id=events[-1]["id"])
        events += parsed(rest)
        assert status == 200
        assert [json.loads(event["data"]) for event in events if event["event"] == "chunk"] == TOKENS
        assert (events[-1]["event"], events[-1]["id"]) == ("end", END)
        assert await web.answer("GET", f"/jobs/{job_id}/stream", last_event_id=END) == (204, b"")

    async def test_a_job_that_fails_says_so_in_its_last_event(self, web: Web) -> None:
        job_id = await self.submitted(web)
        with Tailrace() as tailrace:
            tailrace.job(job_id).cancel()
        _, body = await web.answer("GET", f"/jobs/{job_id}/stream")
        last = parsed(body)[-1]
        assert last["event"] == "end"
        assert "cancelled" in last["data"]

    async def test_text_that_was_taken_back_is_told_whole(
        self, recipes_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = {
            "tokens": 20,
            "fault": "cut",
            "at": 10,
            "times": 1,
            "seed_by": "call",
            "differ_at": 5,
            "pace": 0.02,
            "key": "fastapi",
        }
        with running_stack(recipes_server.url, rehearsal=script) as stack:
            for name in ("TAILRACE_REDIS_URL", "TAILRACE_NAMESPACE"):
                monkeypatch.setenv(name, stack.environment[name])
            web = Web(loaded("fastapi_app").app)
            async with web.running():
                job_id = await self.submitted(web)
                _, body = await web.answer("GET", f"/jobs/{job_id}/stream")
        shown = ""
        for event in parsed(body):
            text = json.loads(event["data"])
            shown = text if event["event"] == "rewind" else shown + text
        with Tailrace(settings=stack.settings) as tailrace:
            assert shown == tailrace.job(job_id).text()
        assert "rewind" in {event["event"] for event in parsed(body)}

    async def test_an_unknown_job_is_not_found_and_the_page_is_there(self, web: Web) -> None:
        assert (await web.answer("GET", "/jobs/nobody/stream"))[0] == 404
        status, page = await web.answer("GET", "/")
        assert (status, page.decode()) == (200, (EXAMPLES / "fastapi_app.html").read_text())


def parsed(body: bytes) -> list[dict[str, str]]:
    """Events of an event stream."""
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in body.decode().split("\n\n") if block]


@pytest.fixture(scope="module")
def django_view() -> ModuleType:
    """Once: Django is set up once in a process."""
    pytest.importorskip("django")
    return loaded("django_view")


@pytest.mark.usefixtures("stack")
class TestDjango:
    @pytest.fixture
    def web(self, django_view: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Web:
        monkeypatch.setitem(sys.modules, "django_view", django_view)  # Django looks its URLs up by the module's name
        return Web(django_view.application)

    async def test_an_answer_streams_piece_by_piece(self, web: Web) -> None:
        headers = {"host": "localhost", "content_type": "application/x-www-form-urlencoded"}
        body = urlencode({"prompt": WATER}).encode()
        status, answer = await web.answer("POST", "/submit", body=body, content_length=str(len(body)), **headers)
        assert status == 200
        path = f"/jobs/{json.loads(answer)['id']}"
        async with aclosing(web.ask("GET", path, host="localhost")) as pieces:
            assert await anext(pieces) == 200
            assert [piece.decode() async for piece in pieces] == TOKENS

    async def test_an_unknown_job_is_not_found(self, web: Web) -> None:
        assert await web.answer("GET", "/jobs/nobody", host="localhost") == (404, b"no such job")


def blocking(url: str) -> Any:
    """redis-py's client, whose types say little."""
    return Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs


def cells() -> list[str]:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


async def executed(cell: str, names: dict[str, Any]) -> None:
    """As a notebook runs it: in names of its own, with await at the top."""
    outcome = eval(compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(outcome):
        await outcome


async def test_a_notebook_tails_and_a_cell_that_is_run_again_goes_on(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    submit, follow, result = cells()
    names: dict[str, Any] = {}
    await executed(submit, names)
    await executed(follow, names)
    assert capsys.readouterr().out == VERSES[WATER]
    with Tailrace() as tailrace:
        chunks = list(tailrace.job(names["job_id"]).stream())
    assert names["position"] == chunks[-1].position
    names["position"] = chunks[9].position  # as if it had been interrupted there
    await executed(follow, names)
    assert capsys.readouterr().out == "".join(chunks[10:])
    await executed(result, names)
    assert names["result"].text == VERSES[WATER]


def test_what_has_ended_is_kept_once_whoever_reads_it(
    recipes_server: EmbeddedServer, stack: Stack, tmp_path: Path
) -> None:
    def pipeline(how_many: int) -> list[str]:
        """The jobs that it says it has kept."""
        command = [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            str(EXAMPLES / "ended_pipeline.py"),
            str(file),
            str(how_many),
        ]
        done = subprocess.run(
            command, env=stack.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        return [line.split()[0] for line in done.stdout.splitlines()]

    def rows() -> dict[str, tuple[str, str]]:
        with closing(sqlite3.connect(file)) as database:
            return {job_id: (status, text) for job_id, status, text, _ in database.execute("SELECT * FROM answers")}

    file = tmp_path / "answers.db"
    with Tailrace() as tailrace:
        jobs = [tailrace.submit(WATER, model="gpt-3.5-turbo-instruct") for _ in range(3)]
        assert set(pipeline(3)) == {job.id for job in jobs} == set(rows())
        assert set(rows().values()) == {("completed", VERSES[WATER])}

        cancelled = tailrace.submit(WATER, delay=60)
        cancelled.cancel()
        # It was stored, but not acknowledged: whoever read it has died.
        for ended in tailrace.ended(group="answers"):
            with closing(sqlite3.connect(file)) as database, database:
                database.execute("INSERT INTO answers VALUES (?, 'cancelled', 'as it was', 0)", [ended.job_id])
            ended.release()
            break
        assert pipeline(1) == [cancelled.id]
        assert rows()[cancelled.id] == ("cancelled", "as it was")
    # Nothing is handed out a third time.
    with blocking(recipes_server.url) as redis:
        assert redis.xpending(f"{stack.settings.namespace}:ended", "answers")["pending"] == 0


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = {match["name"]: match["code"] for match in SHOWN.finditer((ROOT / "docs" / "recipes.md").read_text())}
    assert shown.keys() == {"fastapi_app.py", "django_view.py", "notebook.ipynb", "ended_pipeline.py"}
    assert shown.pop("notebook.ipynb").strip() == cells()[1]
    for name, code in shown.items():
        source = (EXAMPLES / name).read_text()
        docstring = ast.parse(source).body[0]
        assert code.strip() == "\n".join(source.splitlines()[docstring.end_lineno :]).strip(), name
