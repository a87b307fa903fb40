"""Real processes on a real server with proxies between: what the fault tests break things in.

    async with world() as w:
        worker = await w.start_worker()
        job = await w.submit(tokens=60, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(10)
            worker.kill()
            await w.start_worker()
        await witness.check(w.text(60))

Its end checks what must hold whatever happened: no upstream call still open, no key without a time to live, no process
left over, no stack trace in what the workers said.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final, Self

import pytest
from fault_proxy import Proxy
from redis.asyncio import Redis
from witness import Witness, watching

from engine import wait_until
from tailrace import AsyncTailrace, Settings
from tailrace.client import AsyncJob
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.upstreams.rehearsal import Rehearsal

HERE: Final = Path(__file__).parent
LEASE_S: Final = 1.0
START_S: Final = 30.0
END_S: Final = 20.0


class Process:
    """A child of the test: a worker, a reader, a producer."""

    def __init__(self, process: asyncio.subprocess.Process, said: IO[bytes]) -> None:
        self._process = process
        self._said = said
        self.lines: list[str] = []
        self._moved = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen(), name="fault-process")
        self.checked = True
        """Whether its stack traces count as faults."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    async def ended(self, within_s: float = END_S) -> int:
        """Wait for its end; the return code."""
        try:
            async with asyncio.timeout(within_s):
                code = await self._process.wait()
                await self._listening
        except TimeoutError:
            pytest.fail(f"process {self.pid} does not end; it said:\n{self.said()}")
        return code

    async def until(self, condition: Callable[[list[str]], bool], what: str, within_s: float = START_S) -> None:
        """Wait until its output lines are so."""
        try:
            async with asyncio.timeout(within_s), self._moved:
                await self._moved.wait_for(lambda: condition(self.lines) or self._listening.done())
        except TimeoutError:
            pytest.fail(f"process {self.pid}: not {what} within {within_s} s; it said:\n{self.said()}")
        assert condition(self.lines), f"process {self.pid} ended before {what}; it said:\n{self.said()}"

    def said(self) -> str:
        """What it wrote to standard error."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._listening
        self._said.close()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            # A line that a kill cut short says nothing.
            if line.endswith(b"\n"):
                self.lines.append(line.decode().strip())
            async with self._moved:
                self._moved.notify_all()
        async with self._moved:
            self._moved.notify_all()


class World:
    """Made by `world`."""

    def __init__(
        self, server: EmbeddedServer, rehearsal: Rehearsal, stack: AsyncExitStack, sections: Mapping[str, Any]
    ) -> None:
        self.server = server
        self.rehearsal = rehearsal
        self.namespace = f"faults-{uuid.uuid4().hex[:12]}"
        self.workers: list[Process] = []
        self.port = port_of(server.tcp_url)
        self.worker_link = Proxy(self.port)
        """Between the workers and the server."""
        self.client_link = Proxy(self.port)
        """Between producers or readers and the server."""
        self.worker_url: str | None = None
        """Where workers find the server, if not by `worker_link`."""
        self.server_is_gone = False
        """Whether a test ends without the server: its keys cannot be looked at."""
        self._stack = stack
        self._sections = dict(sections)
        self._processes: list[Process] = []

    async def open(self) -> None:
        await self._stack.enter_async_context(self.worker_link)
        await self._stack.enter_async_context(self.client_link)
        self.tailrace = await self._stack.enter_async_context(self.client())
        make: Any = Redis
        self.redis: Any = await self._stack.enter_async_context(make.from_url(self.server.tcp_url))
        """Past all proxies."""

    def client(self, **more: Any) -> AsyncTailrace:
        """A client of its own, by way of `client_link`."""
        return AsyncTailrace(settings=self.settings(self.client_link), **more)

    def settings(self, link: Proxy, *, worker: Mapping[str, Any] | None = None) -> Settings:
        upstream = {"base_url": self.rehearsal.base_url, "api_key_env": "", "default_model": "rehearsal"}
        return Settings.model_validate(
            {
                "redis_url": link.url(self.server.tcp_url),
                "namespace": self.namespace,
                "upstreams": {"default": {**upstream, **self._sections.get("upstream", {})}},
                "worker": {
                    "lease_s": LEASE_S,
                    "retry_delay_s": 0.05,
                    "sweep_s": 0.3,
                    "drain_s": 10.0,
                    **self._sections.get("worker", {}),
                    **(worker or {}),
                },
            }
        )

    async def start_worker(
        self, *, app: str | None = None, env: Mapping[str, str] | None = None, **worker: Any
    ) -> Process:
        """A worker process, once it takes jobs. `app`: its tasks, as module:attribute (a module of this folder)."""
        settings = self.settings(self.worker_link, worker=worker)
        if self.worker_url is not None:
            settings = settings.model_copy(update={"redis_url": self.worker_url})
        arguments = [settings.model_dump_json(), *([app] if app else [])]
        process = await self._start("worker_process.py", *arguments, env=env)
        await process.until(lambda lines: bool(lines), "ready")
        self.workers.append(process)
        return process

    def owner(self, witness: Witness) -> Process:
        """The worker of the job's latest attempt."""
        return next(worker for worker in self.workers if worker.lines[0] == f"ready {witness.attempts[-1].worker}")

    async def start_client(self, what: str, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """A producer or a reader process; see client_process.py."""
        settings = self.settings(self.client_link).model_dump_json()
        return await self._start("client_process.py", what, settings, *arguments, env=env)

    async def _start(self, script: str, *arguments: str, env: Mapping[str, str] | None) -> Process:
        # Appending: reading it here must not move where the child writes.
        said = tempfile.TemporaryFile("a+b")  # noqa: SIM115  # closed with the process
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "OPENAI_"))}
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / script),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            env={**mine, **(env or {})},
        )
        process = Process(started, said)
        self._processes.append(process)
        return process

    async def submit(
        self,
        *,
        prompt: str = "x",
        rehearsal: Mapping[str, Any] | None = None,
        client: AsyncTailrace | None = None,
        **given: Any,
    ) -> AsyncJob:
        """A job; `tokens`, `pace`, `fault` ... are the rehearsal's, the rest is `submit`'s. `client`: not the world's."""
        ours = {
            "job_id",
            "queue",
            "deadline",
            "retention",
            "delay",
            "on_restart",
            "max_attempts",
            "model",
            "api",
            "metadata",
        }
        script = {**(rehearsal or {}), **{name: value for name, value in given.items() if name not in ours}}
        arguments = {name: value for name, value in given.items() if name in ours}
        return await (client or self.tailrace).submit(prompt, params={"rehearsal": script}, **arguments)

    def watching(self, job: AsyncJob) -> AbstractAsyncContextManager[Witness]:
        return watching(self.tailrace, job)

    @property
    def calls(self) -> int:
        """Upstream calls so far."""
        return len(self.rehearsal.calls)

    @staticmethod
    def text(tokens: int, *, call: int = 1, differ_at: int = 0) -> str:
        """What the rehearsal says for `tokens=`; with `seed_by="call"`, what it says at this call."""
        return "".join(
            f" token{number}" + (f".{call}" if call > 1 and number >= differ_at else "") for number in range(tokens)
        )

    async def restart_server(self) -> None:
        """Start the server that was killed or stopped, with its data."""
        await asyncio.to_thread(self.server.start)

    def aof(self) -> Path:
        """The server's append-only file that is being written."""
        files = sorted((self.server.folder / "appendonlydir").glob("*.incr.aof"), key=lambda file: file.stat().st_mtime)
        return files[-1]

    def aof_bytes(self) -> int:
        """A moment, for `lose_since`: all that was answered until now lies before it."""
        return self.aof().stat().st_size

    async def lose_since(self, moment: int, *, torn: int = 0) -> None:
        """A power cut: the server comes back with its data of that moment, less some bytes of the last command."""
        await self.kill_server()
        os.truncate(self.aof(), max(0, moment - torn))
        await self.restart_server()

    async def kill_server(self) -> None:
        """kill -9."""
        await asyncio.to_thread(self.server.kill)

    async def start_replica(self) -> "Replica":
        """A replica of the server, in step with it."""
        replica = Replica(self)
        await self._stack.enter_async_context(replica)
        return replica

    async def fail_over_to(self, replica: "Replica") -> None:
        """Kill the server; the replica takes its place, behind both proxies, with what it has."""
        await self.kill_server()
        await replica.redis.execute_command("REPLICAOF", "NO", "ONE")
        self.redis = replica.redis
        for link in (self.worker_link, self.client_link):
            link.lead_to(replica.port)

    async def stores(self) -> list[Any]:
        """Clients of every server that has keys."""
        return [self.redis]

    # The end.

    async def close(self) -> None:
        for process in self._processes:
            await process.close()

    async def check(self) -> None:
        """What must hold at the end of every test."""
        for process in self._processes:
            if process.checked:
                said = process.said()
                for word in ("Traceback", "never retrieved", "never awaited"):
                    assert word not in said, f"a process said:\n{said}"
        await self.close()
        await self.rehearsal.wait_until(lambda: self.rehearsal.open_streams == 0, "no upstream call is open")
        left = _processes_with(self.namespace)
        assert not left, f"processes are left: {left}"
        if self.server_is_gone:
            return
        stores = await self.stores()
        for_ever = [key for store in stores async for key in store.scan_iter() if await store.pttl(key) == -1]
        assert not for_ever, f"keys without a time to live: {for_ever}"


class Replica:
    """A second server that follows the first over a link of its own, which can be held."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.link = Proxy(world.port)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.link)
            password = password_of(self._world.server.tcp_url)
            config = {"replicaof": f"127.0.0.1 {self.link.port}", "masterauth": password}
            server = await running_server(stack, config)
            self.port = port_of(server.tcp_url)
            make: Any = Redis
            self.redis: Any = await stack.enter_async_context(make.from_url(server.tcp_url))
            await wait_until("the replica is in step", self._in_step, START_S)
            # Clients come with the first server's password.
            await self.redis.config_set("requirepass", password)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _in_step(self) -> bool:
        return bool((await self.redis.info("replication"))["master_link_status"] == "up")


async def running_server(stack: AsyncExitStack, config: Mapping[str, str] | None) -> EmbeddedServer:
    """A private server that ends with the stack."""
    server = EmbeddedServer(private=True, extra_config=config)
    await asyncio.to_thread(server.__enter__)
    stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
    return server


def port_of(url: str) -> int:
    """The port in a Redis URL."""
    return int(re.findall(r":(\d+)/", url)[0])


def password_of(url: str) -> str:
    """The password in a Redis URL."""
    return str(re.findall(r":([^:@/]+)@", url)[0])


def _processes_with(word: str) -> list[str]:
    """Command lines of processes that have the word in them. Empty where there is no /proc."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if word.encode() in line:
            found.append(line.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


@asynccontextmanager
async def world(
    *,
    server: Mapping[str, str] | None = None,
    upstream: Mapping[str, Any] | None = None,
    script: Mapping[str, Any] | None = None,
    **sections: Any,
) -> AsyncGenerator[World]:
    """A server of one's own (`server`: its configuration), a rehearsal upstream (`script`: for all requests), a client;
    no worker yet."""
    async with AsyncExitStack() as stack:
        private = await running_server(stack, {"repl-diskless-sync-delay": "0", **(server or {})})
        rehearsal = await stack.enter_async_context(Rehearsal(script=script))
        made = World(private, rehearsal, stack, {"upstream": upstream or {}, **sections})
        await made.open()
        stack.push_async_callback(made.close)
        yield made
        await made.check()


def counts(said: str, phrase: str) -> int:
    """How many lines of a process's log have the phrase."""
    return sum(phrase in line for line in said.splitlines())
