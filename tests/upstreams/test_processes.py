"""Servers as processes of their own: they come up, serve, and never outlive their starter."""

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from openai import AsyncOpenAI

from tailrace.upstreams._child import ChildServer, UpstreamNotStarted
from tailrace.upstreams.rehearsal import RehearsalProcess


def ask(base_url: str, method: str, path: str) -> Any:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=5)
    try:
        connection.request(method, path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], description: str, timeout: float = 10.0) -> None:
    gives_up = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < gives_up, f"waited in vain until {description}"
        time.sleep(0.01)


async def test_the_rehearsal_process_serves_shows_its_calls_and_ends() -> None:
    async with RehearsalProcess(script="text=from the default") as server:
        pid = server.pid
        async with AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            answer = await client.completions.create(model="m", prompt="p")
        assert answer.choices[0].text == "from the default"
        shown = await asyncio.to_thread(ask, server.base_url, "GET", "/rehearsal/calls")
        assert [call["path"] for call in shown["calls"]] == ["/v1/completions"]
        await asyncio.to_thread(ask, server.base_url, "POST", "/rehearsal/reset")
        assert (await asyncio.to_thread(ask, server.base_url, "GET", "/rehearsal/calls"))["calls"] == []
    assert not is_alive(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_by_itself_the_rehearsal_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tailrace.upstreams.rehearsal", "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("listening http://127.0.0.1:")
        assert ask(line.split()[1], "GET", "/healthz") == {"status": "ok"}
        process.send_signal(number)
        _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, b"")


STARTER = """
import sys, time
from tailrace.upstreams.rehearsal import RehearsalProcess
with RehearsalProcess() as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


def test_a_starter_that_is_killed_leaves_no_server_behind() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert is_alive(pid)
        starter.kill()
    wait_until(lambda: not is_alive(pid), "the server is gone")


def test_a_server_that_does_not_come_up_is_an_error_with_its_last_words() -> None:
    child = ChildServer("tailrace.upstreams.rehearsal", ["--script", "nonsense"])
    with pytest.raises(UpstreamNotStarted, match="nonsense"), child:
        pass
    with pytest.raises(RuntimeError, match="not running"):
        _ = child.base_url


async def test_a_start_that_is_cancelled_leaves_no_server_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    start = subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        pids.append(process.pid)
        return process

    monkeypatch.setattr("tailrace.upstreams._child.subprocess.Popen", remember)
    child = ChildServer("tailrace.upstreams.rehearsal", ["--port", "0"])
    monkeypatch.setattr("tailrace.upstreams._child._LISTENING", "never ")
    starting = asyncio.ensure_future(child.__aenter__())
    await asyncio.to_thread(wait_until, lambda: bool(pids), "the child is started")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_alive(pids[0])


def test_importing_the_room_loads_neither_aiohttp_nor_llama() -> None:
    probe = "import sys, tailrace.upstreams; print({'aiohttp', 'xllamacpp'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True)
    assert shown.stdout.strip() == b"set()"
