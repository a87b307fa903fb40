"""`tailrace dev` as a process: what it prints is true, what it starts ends with it, what it cannot do it says."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest
from cli_runs import Cli, Start, Started, run
from redis import Redis

from tailrace import Settings, Tailrace
from tailrace.cli import dev
from tailrace.cli.exits import ExitCode
from tailrace.joblog.embedded import EmbeddedServer, embedded_status, stop_embedded
from tailrace.upstreams.rehearsal import RehearsalProcess
from tailrace.worker.app import Worker

SECRET = "tr-" + "x" * 32
SLOW = "rehearsal:tokens=40,pace=0.05"


def ready(started: Started) -> dict[str, Any]:
    started.wait_for("\n")
    found: dict[str, Any] = json.loads(started.out.splitlines()[0])
    assert found["ready"]
    return found


def test_the_three_lines_that_it_prints_work(start: Start, tmp_path: Path) -> None:
    # Without a server: it starts the embedded one, and stops it.
    home = tmp_path / "home"
    started = start("dev", "--rehearsal", "--port", "0", server=False, TAILRACE_DATA=str(home))
    started.wait_for("\n", times=3)
    sdk, console, curl = (line.split(maxsplit=1)[1] for line in started.out.splitlines())
    exported = re.fullmatch(r"SDK +export OPENAI_BASE_URL=(\S+) OPENAI_API_KEY=(\S+)", sdk)
    assert exported is not None
    with openai.OpenAI(base_url=exported[1], api_key=exported[2], max_retries=0) as client:
        begun = client.responses.create(model="rehearsal:text=Hello.", input="hello", background=True)
        events = list(client.responses.retrieve(begun.id, stream=True))
        assert events[-1].type == "response.completed"
        assert client.responses.retrieve(begun.id).output_text == "Hello."
    with urllib.request.urlopen(console, timeout=10) as page:
        assert b"<html" in page.read()
    if shutil.which("curl") is not None:
        answer = subprocess.run(["/bin/sh", "-c", curl], capture_output=True, timeout=20, check=True)
        assert b"event: response.completed" in answer.stdout
    started.signal(signal.SIGINT)
    ran = started.ended()
    assert ran.code == ExitCode.INTERRUPTED
    assert len(ran.out.splitlines()) == 3
    assert "Traceback" not in ran.err
    assert not stop_embedded(home), "the embedded server still ran"


def test_what_ctrl_c_cuts_off_goes_on_under_the_next_one_without_doubled_text(cli: Cli, start: Start) -> None:
    arguments = ("dev", "--rehearsal", "--port", "0", "--json", "--namespace", cli.namespace)
    first = start(*arguments)
    ready(first)
    with Tailrace(redis_url=cli.url, namespace=cli.namespace) as tailrace:
        job = tailrace.submit("hello", model=SLOW)
        chunks = job.stream()
        text = "".join(next(chunks) for _ in range(4))
        first.signal(signal.SIGINT)
        ran = first.ended()
        assert ran.code == ExitCode.INTERRUPTED
        assert "Traceback" not in ran.err
        assert job.status() == "in_progress"
        second = start(*arguments)
        ready(second)
        assert text + "".join(chunks) == "".join(f" token{number}" for number in range(40))
    second.signal(signal.SIGTERM)
    assert second.ended().code == ExitCode.OK


def test_an_embedded_server_that_somebody_uses_is_left_running(start: Start, tmp_path: Path) -> None:
    home = tmp_path / "home"
    started = start("dev", "--rehearsal", "--port", "0", "--json", server=False, TAILRACE_DATA=str(home))
    ready(started)
    status = embedded_status(home)
    assert status is not None
    redis: Any = Redis
    try:
        with redis.from_url(status.url) as client:
            client.ping()
            started.signal(signal.SIGTERM)
            assert started.ended().code == ExitCode.OK
            assert client.ping()
    finally:
        stop_embedded(home)


def test_the_tasks_of_a_module_run_without_an_upstream(cli: Cli, start: Start, tmp_path: Path) -> None:
    (tmp_path / "dev_tasks.py").write_text(
        "from tailrace import App, Context\n\ntailrace = App()\n\n\n@tailrace.task\n"
        "async def shout(ctx: Context, input: str) -> dict[str, str]:\n    return {'said': input.upper()}\n"
    )
    started = start("dev", "dev_tasks", "--port", "0", "--json", "--namespace", cli.namespace, PYTHONPATH=str(tmp_path))
    base_url = ready(started)["base_url"]
    job_id = cli("submit", "--task", "shout", "hello").out.strip()
    cli("tail", job_id)
    with urllib.request.urlopen(f"{base_url}/jobs/{job_id}", timeout=10) as answer:
        assert json.load(answer)["output"] == {"said": "HELLO"}
    started.signal(signal.SIGTERM)
    ran = started.ended()
    assert ran.code == ExitCode.OK
    assert "upstream 'default' has no key" in ran.err


def test_a_server_without_a_key_is_asked_for_a_model_for_the_curl_line(cli: Cli, start: Start) -> None:
    with RehearsalProcess() as upstream:
        where = ("--port", "0", "--json", "--namespace", cli.namespace)
        started = start("dev", *where, OPENAI_BASE_URL=upstream.base_url)
        assert '"model": "rehearsal"' in ready(started)["curl"]
        job_id = cli("submit", "hello", "--model", "rehearsal:text=Hello.").out.strip()
        assert cli("tail", job_id).out == "Hello."
        started.signal(signal.SIGTERM)
        assert started.ended().code == ExitCode.OK


def test_with_keys_configured_the_lines_ask_for_one(cli: Cli, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "tailrace.toml"
    file.write_text('[gateway]\nhost = "0.0.0.0"\n[gateway.tenants.acme]\nkey_env = "ACME_KEY"\n')
    # On all addresses, which no client can connect to by that name.
    where = ("--config", str(file), "--port", "0", "--namespace", cli.namespace)
    started = start("dev", "--rehearsal", *where, ACME_KEY=SECRET)
    started.wait_for("\n", times=3)
    assert "OPENAI_API_KEY=YOUR_KEY" in started.out
    assert re.search(r"OPENAI_BASE_URL=http://127\.0\.0\.1:\d+/v1", started.out)
    assert '-H "Authorization: Bearer $OPENAI_API_KEY"' in started.out
    started.signal(signal.SIGTERM)
    assert SECRET not in started.ended().out


def test_without_an_upstream_it_offers_those_that_need_no_key(cli: Cli) -> None:
    ran = cli("dev")
    assert ran.code == ExitCode.USAGE
    for way in ("OPENAI_API_KEY", "--local-model", "--rehearsal"):
        assert way in ran.err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_it_does_not_become_its_own_upstream(cli: Cli, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    # As in a shell in which its first line was carried out.
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}:8722/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    ran = cli("dev")
    assert ran.code == ExitCode.USAGE
    assert "unset it" in ran.err


def test_a_port_that_is_taken_is_said_in_a_line(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("dev", "--rehearsal", "--port", str(taken.getsockname()[1]))
    assert ran.code == ExitCode.USAGE
    assert "cannot listen on 127.0.0.1" in ran.err
    assert "--port 0" in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("module", ["tailrace.gateway", "tailrace.cli.serving"])
def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    ran = run("dev", "--rehearsal")
    assert ran.code == ExitCode.USAGE
    assert "pip install 'tailrace[worker,gateway,embedded]'" in ran.err


async def test_a_worker_that_fails_takes_the_gateway_with_it(
    cli_server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Worker) -> None:
        raise OSError("out of everything")

    monkeypatch.setattr(Worker, "run", fail)
    said: list[str] = []
    settings = Settings.load(redis_url=cli_server.url, namespace=namespace, gateway={"port": 0})
    with pytest.raises(OSError, match="out of everything"):
        await dev.run_together(settings, None, said.append)
    (url,) = said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5)
