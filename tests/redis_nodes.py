"""Server processes for tests that need several: each on a loopback port and in a folder of its own, none outlives the test.

async with nodes() as yard:
    node = await yard.start("primary", {"appendonly": "yes"})
    await node.redis.ping()
    await node.kill()
    await node.start()      # same folder, same port
"""

import asyncio
import contextlib
import fcntl
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engine import wait_until
from tailrace.joblog import _guard
from tailrace.joblog._server import environment, find_binary
from tls_certificates import Certificates

LOOPBACK: Final = "127.0.0.1"
START_S: Final = 20.0
#: Below the ports that Linux gives to clients (32768 and up): nobody gets the port of a server that is down by accident.
PORTS: Final = range(12_000, 32_000)
GUARD: Final = Path(__file__).with_name("redis_nodes_guard.py")

CONFIG: Final[Mapping[str, str]] = {
    "bind": LOOPBACK,
    "protected-mode": "yes",
    "dir": ".",
    "pidfile": "server.pid",
    "logfile": "server.log",
}
#: As the embedded server keeps its data; replicas start at once instead of waiting 5 s for others.
STORE: Final[Mapping[str, str]] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "stream-node-max-bytes": "1024",
    "client-output-buffer-limit": "pubsub 8mb 2mb 30",
    "repl-diskless-sync-delay": "0",
}


class Node:
    """One server process. Made by `Yard.start`."""

    def __init__(
        self,
        name: str,
        binary: str,
        folder: Path,
        port: int,
        *,
        password: str,
        tls: Certificates | None,
        flags: Sequence[str],
    ) -> None:
        self.name = name
        self.port = port
        self.folder = folder
        self.paused = False
        self._command = [binary, "server.conf", *flags]
        self._process: subprocess.Popen[bytes] | None = None
        secure = {"ssl": True, "ssl_ca_certs": str(tls.authority), "ssl_check_hostname": False} if tls else {}
        # Any: redis-py's own annotations are partly unknown to a strict checker.
        make: Any = Redis
        self.redis: Any = make(
            host=LOOPBACK,
            port=port,
            password=password or None,
            socket_timeout=2.0,
            socket_connect_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            **secure,
        )
        """A client of this very process, whatever its role: redirects are errors, nothing is tried again."""

    def __repr__(self) -> str:
        return f"<{self.name} :{self.port}>"

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives, stopped or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def answers(self) -> bool:
        """Whether its process lives and is not stopped."""
        return self.running and not self.paused

    async def start(self) -> None:
        """Start it (again), on its own data. Returns when it answers, also while it loads or waits for its primary."""
        assert not self.running, f"{self} runs already"
        self._launch()
        await wait_until(f"{self} answers", self._is_up, START_S)

    async def kill(self) -> None:
        """kill -9; also one that is stopped."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self.paused = False
        await self.redis.connection_pool.disconnect()

    async def restart(self) -> None:
        """kill -9, and start it on its own data."""
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nobody."""
        self._signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.paused = False

    def said(self) -> str:
        """Its log."""
        return (self.folder / "server.log").read_text(errors="replace")

    async def close(self) -> None:
        if self.running:
            await self.kill()
        await self.redis.aclose()

    def _launch(self) -> None:
        with self._alive() as lock, (self.folder / "server.out").open("ab") as out:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[lock],
                start_new_session=True,
                umask=0o077,
            )
        self.paused = False

    async def _is_up(self) -> bool:
        if not self.running:
            pytest.fail(f"{self} did not start: {(self.folder / 'server.out').read_text()}{self.said()}")
        try:
            return bool(await self.redis.ping())
        except (RedisError, OSError) as error:
            # A replica without its primary, a cluster that is down: it answers.
            return str(error).startswith(("MASTERDOWN", "CLUSTERDOWN"))

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @contextmanager
    def _alive(self) -> Generator[int]:
        """The lock that the server inherits: what the guard knows it by."""
        lock = os.open(self.folder / "server.alive", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lock
        finally:
            os.close(lock)


class Yard:
    """Nodes that end together. Made by `nodes`."""

    def __init__(self, folder: Path, binary: str, password: str, tls: Certificates | None) -> None:
        self.folder = folder
        self.binary = binary
        self.password = password
        self.tls = tls
        self.nodes: list[Node] = []
        self._ports = ExitStack()

    def free_port(self) -> int:
        """A port that nobody listens on and that no other test of this machine is given while this one runs."""
        folder = Path(tempfile.gettempdir()) / f"tailrace-test-ports-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for port in random.Random(secrets.randbits(64)).sample(PORTS, 200):
            with ExitStack() as stack:
                lock = stack.enter_context((folder / str(port)).open("w"))
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    with socket.socket() as probe:
                        probe.bind((LOOPBACK, port))
                    self._ports.push(stack.pop_all())
                    return port
        pytest.fail("no free port on the loopback")

    async def start(
        self, name: str, config: Mapping[str, str], *, flags: Sequence[str] = (), password: str | None = None
    ) -> Node:
        """A node, once it answers. `config`: lines of its configuration file, besides CONFIG, port and password (None: the
        yard's)."""
        password = self.password if password is None else password
        port = self.free_port()
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        node = Node(name, self.binary, folder, port, password=password, tls=self.tls, flags=flags)
        lines = {**CONFIG, **self._listening(port, password), **config}
        (folder / "server.conf").write_text("".join(f"{key} {_word(value)}\n" for key, value in lines.items()))
        self.nodes.append(node)
        await node.start()
        return node

    async def close(self) -> None:
        for node in self.nodes:
            await node.close()
        self._ports.close()

    def _listening(self, port: int, password: str) -> dict[str, str]:
        secret = {"requirepass": password} if password else {}
        if self.tls is None:
            return {"port": str(port), **secret}
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(self.tls.folder / "server.pem"),
            "tls-key-file": str(self.tls.folder / "server.key"),
            "tls-ca-cert-file": str(self.tls.authority),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
            **secret,
        }


@asynccontextmanager
async def nodes(
    *, binary: str | None = None, password: str | None = None, tls: Certificates | None = None
) -> AsyncGenerator[Yard]:
    """Nodes of one program (`binary`; None: the embedded server's), behind one password (None: a random one)."""
    path = Path(tempfile.mkdtemp(prefix="tailrace-nodes-"))
    try:
        with _guarded(path):
            yard = Yard(path, binary or find_binary(), secrets.token_hex(12) if password is None else password, tls)
            try:
                yield yard
            finally:
                await yard.close()
    finally:
        shutil.rmtree(path, ignore_errors=True)


def binaries() -> list[Any]:
    """For `pytest.mark.parametrize`: the embedded server's program, and Debian's where it is installed."""
    found = [pytest.param(find_binary(), id="embedded")]
    installed = shutil.which("redis-server")
    skipped = pytest.mark.skipif(installed is None, reason="needs redis-server on PATH")
    return [*found, pytest.param(installed, id="redis-server", marks=skipped)]


@contextmanager
def _guarded(folder: Path) -> Generator[None]:
    """A process that ends the nodes and removes their folder when this one dies, by whatever signal."""
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), str(_guard.__file__), str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with guard:  # closes the pipe, which ends the guard, and waits for it
        yield


def _word(value: str) -> str:
    return value or '""'
