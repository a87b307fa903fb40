"""A Redis server without installing one: shared by all of a user's processes, or private to one.

`embedded_url()` starts or finds the shared server. It is detached: a job submitted in one terminal can be followed in
another, so it runs until `stop_embedded()` (`tailrace stop`) or a reboot, and keeps its data in the user's data folder
(`TAILRACE_DATA` names another). The first process starts it, under a file lock; the others find it, and believe it only
if it holds the lock in that folder and knows the identity that it was started with: whatever else listens is never
adopted. What a crash left over (state, socket, pid file, an append-only file cut short) is healed at the next start.

`EmbeddedServer` is a server of one's own in a temporary folder, for tests and the demo. It dies with its parent process,
also when that is killed.

All of this blocks, for some 100 ms at a start: call it by `asyncio.to_thread` from async code.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from filelock import FileLock, Timeout
from platformdirs import user_data_path
from redis.exceptions import RedisError

from tailrace.joblog import _guard
from tailrace.joblog._repair import repair_after_damage
from tailrace.joblog._server import Folder, ServerDied, State, connect
from tailrace.schemas.errors import BrokerUnavailable

__all__ = ["EmbeddedServer", "EmbeddedStatus", "embedded_status", "embedded_url", "stop_embedded"]

LOCK_TIMEOUT_SECONDS: Final = 330.0  # the holder may wait for a server that loads its data
STOP_TIMEOUT_SECONDS: Final = 10.0
DYING_SECONDS: Final = 2.0
START_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """The shared server as it runs."""

    url: str
    tcp_url: str
    """For programs that cannot use a unix socket."""
    pid: int
    port: int
    socket: str | None
    started_at: float
    """Seconds since the epoch."""
    folder: Path
    log: Path


def embedded_url(data_dir: Path | None = None) -> str:
    """The URL, password included, of this user's shared server, which is started unless it runs.

    By unix socket where the folder's path is short enough for one, else by the loopback port.
    Raises: BrokerUnavailable, saying what to do.
    """
    with _start_lock(data_dir) as folder:
        return (_find(folder) or _start(folder)).url


def embedded_status(data_dir: Path | None = None) -> EmbeddedStatus | None:
    """The shared server, or None if it does not run. Starts nothing.

    Raises: BrokerUnavailable if it runs but does not answer.
    """
    with _start_lock(data_dir) as folder:
        state = _find(folder)
    if state is None or state.pid is None or state.started_at is None:
        return None
    return EmbeddedStatus(
        url=state.url,
        tcp_url=state.tcp_url,
        pid=state.pid,
        port=state.port,
        socket=state.socket,
        started_at=state.started_at,
        folder=folder.path,
        log=folder.log,
    )


def stop_embedded(data_dir: Path | None = None) -> bool:
    """Stop the shared server; its data stays. False if it did not run."""
    with _start_lock(data_dir) as folder:
        if not folder.is_alive():
            return False
        for stop in (_ask_to_stop, _kill):
            stop(folder)
            if folder.await_death(seconds=STOP_TIMEOUT_SECONDS):
                return True
    raise BrokerUnavailable(f"the embedded server (pid {folder.pid()}, folder {folder.path}) cannot be stopped")


def _data_folder(data_dir: Path | None) -> Path:
    named = os.environ.get("TAILRACE_DATA")
    if data_dir is None:
        data_dir = Path(named) if named else user_data_path("tailrace", appauthor=False)
    return data_dir.expanduser().absolute() / "server"


@contextmanager
def _start_lock(data_dir: Path | None) -> Generator[Folder]:
    """One process at a time looks, starts or stops."""
    folder = Folder(_data_folder(data_dir))
    folder.prepare()
    try:
        with FileLock(folder.path / "start.lock", timeout=LOCK_TIMEOUT_SECONDS):
            yield folder
    except Timeout as error:
        raise BrokerUnavailable(
            f"another process has been starting the embedded server in {folder.path} for too long: see {folder.log}"
        ) from error


def _find(folder: Folder) -> State | None:
    """The server that lives on the folder, once it answers. None if there is none.

    Nothing is asked, and so no password sent, unless the lock says that our server lives: another user's program may
    listen on the port of a dead one.
    """
    if not folder.is_alive():
        return None
    state = folder.read_state()
    if state is None:
        # A process that was killed may still be dying: its threads go one by one, and the lock with the last.
        if folder.await_death(seconds=DYING_SECONDS):
            return None
        raise BrokerUnavailable(
            f"the embedded server (pid {folder.pid()}) runs, but its state file {folder.state} is damaged: "
            "stop it with `tailrace stop`"
        )
    try:
        return folder.await_answer(state, is_alive=folder.is_alive)
    except ServerDied:
        return None


def _start(folder: Folder) -> State:
    old = folder.read_state()
    for last in (False,) * (START_TRIES - 1) + (True,):
        state = folder.new_state(old)
        # It forks and leaves at once; what stays is nobody's child, so it outlives this process and leaves no zombie.
        folder.launch(state, detached=True, extra_config={}).wait()
        try:
            state = folder.await_answer(state, is_alive=folder.is_alive)
        except ServerDied:
            if last:
                raise
            if repair_after_damage(folder):
                continue
            # The port can be taken between our look at it and the server's: try another one.
            old = None if old is None else State(old.server_id, old.password, 0, old.socket)
        else:
            folder.write_state(state)
            return state
    raise AssertionError("unreachable")


def _ask_to_stop(folder: Folder) -> None:
    state = folder.read_state()
    if state is None:
        return
    with suppress(RedisError):
        client = connect(state)
        try:
            client.shutdown(nosave=True)
        finally:
            client.close()


def _kill(folder: Folder) -> None:
    pid = folder.pid()
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class EmbeddedServer:
    """A private server in a temporary folder, from `with` to its end; a killed parent takes it along.

    `extra_config` adds to the server's configuration or replaces what is there (`{"maxmemory": "20mb"}`). `kill()` and
    `start()` in between restart it on the same data, port and password, so `url` stays. (`private` only says at the
    call what this is: the shared server is `embedded_url`'s.)
    """

    def __init__(
        self,
        *,
        private: Literal[True] = True,  # noqa: ARG002 - a word for the reader of the call
        extra_config: Mapping[str, str] | None = None,
    ) -> None:
        self._extra_config = dict(extra_config or {})
        self._stack = ExitStack()
        self._folder: Folder | None = None
        self._state: State | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            path = Path(tempfile.mkdtemp(prefix="tailrace-"))
            stack.callback(shutil.rmtree, path, ignore_errors=True)
            self._folder = Folder(path)
            stack.enter_context(_guarded(path))
            stack.callback(self._end)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """As `embedded_url`: by unix socket where that can be."""
        return self._opened()[1].url

    @property
    def tcp_url(self) -> str:
        return self._opened()[1].tcp_url

    @property
    def folder(self) -> Path:
        """Where its data, configuration and log are."""
        return self._opened()[0].path

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        """Start it (again), on the same data, port and password. Returns when it answers."""
        folder = self._folder
        if folder is None:
            raise RuntimeError("use `with EmbeddedServer() as server`")
        if self._process is not None:
            raise RuntimeError("the server runs already")
        for last in (False,) * (START_TRIES - 1) + (True,):
            # A restart keeps its port, or the URLs that were handed out would lead nowhere.
            state = self._state or folder.new_state(None)
            process = folder.launch(state, detached=False, extra_config=self._extra_config)
            self._process = process
            try:
                self._state = folder.await_answer(state, is_alive=partial(_runs, process))
            except ServerDied:
                self._process = None
                if last:
                    raise
                repair_after_damage(folder)
            else:
                return

    def kill(self) -> None:
        """End it as by `kill -9`, or a crash."""
        process = self._running()
        process.kill()
        self._wait(process)

    def stop(self) -> None:
        """End it in order."""
        process = self._running()
        self.resume()
        process.terminate()
        self._wait(process)

    def pause(self) -> None:
        """Let it hang (SIGSTOP): connections stay open, nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._opened()[0].await_death(seconds=STOP_TIMEOUT_SECONDS)
        self._process = None

    def _end(self) -> None:
        if self._process is not None:
            self.kill()

    def _opened(self) -> tuple[Folder, State]:
        if self._folder is None or self._state is None:
            raise RuntimeError("use `with EmbeddedServer() as server`")
        return self._folder, self._state

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server does not run: start() it")
        return self._process


def _runs(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


@contextmanager
def _guarded(folder: Path) -> Generator[None]:
    """While this process lives, so does a guard, which ends the server and removes its folder when the process dies."""
    guard = subprocess.Popen(  # noqa: S603 - this interpreter on a file of ours
        [sys.executable, "-I", "-S", str(_guard.__file__), str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with guard:  # closes the pipe, which ends the guard, and waits for it
        yield
