"""`tailrace serve` as a process: its signals, what it says of itself, what it refuses."""

import json
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

from cli_runs import Cli, Start, Started

from tailrace.cli.exits import ExitCode

SLOW = "rehearsal:tokens=400,pace=0.02"


def get(url: str, path: str) -> bytes:
    with urllib.request.urlopen(url + path, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def ready(serving: Started) -> str:
    serving.wait_for("\n")
    found: dict[str, Any] = json.loads(serving.out.splitlines()[0])
    assert found["ready"]
    return str(found["url"])


def test_a_job_submitted_on_the_command_line_is_read_over_http(worked: Cli, start: Start) -> None:
    serving = start("serve", "--port", "0", "--json", "--namespace", worked.namespace)
    url = ready(serving)
    job_id = worked.finished("rehearsal:tokens=5")
    assert json.loads(get(url, f"/v1/jobs/{job_id}"))["status"] == "completed"
    assert get(url, f"/v1/jobs/{job_id}/stream").count(b"data: ") == 6
    serving.signal(signal.SIGTERM)
    ran = serving.ended()
    assert ran.code == ExitCode.OK
    assert "Traceback" not in ran.err


def test_ctrl_c_ends_it_in_mid_stream_without_an_end(worked: Cli, start: Start) -> None:
    serving = start("serve", "--port", "0", "--json", "--namespace", worked.namespace)
    url = ready(serving)
    job_id = worked("submit", "hello", "--model", SLOW).out.strip()
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as reader:
        reader.sendall(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        got = b""
        while b"token3" not in got:
            got += reader.recv(65536)
        serving.signal(signal.SIGINT)
        while received := reader.recv(65536):
            got += received
    assert not got.endswith(b"0\r\n\r\n")
    ran = serving.ended()
    assert ran.code == ExitCode.INTERRUPTED
    assert "Traceback" not in ran.err
    worked("cancel", job_id)


def test_without_a_key_it_serves_nobody_else(cli: Cli) -> None:
    ran = cli("serve", "--host", "0.0.0.0", "--port", "0")
    assert ran.code == ExitCode.USAGE
    assert "no key is configured" in ran.err


def test_a_port_that_is_taken_is_said_in_a_line(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("serve", "--port", str(taken.getsockname()[1]))
    assert ran.code == ExitCode.USAGE
    assert "cannot listen on 127.0.0.1" in ran.err


def test_the_file_says_where_to_listen(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "tailrace.toml"
    file.write_text(f'[gateway]\nhost = "localhost"\nport = {port}\n')
    serving = start("serve", "--json", "--config", str(file))
    assert ready(serving).endswith(f":{port}")
    serving.signal(signal.SIGTERM)
    assert serving.ended().code == ExitCode.OK
