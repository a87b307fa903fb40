"""Worker processes on a private server, to be killed, stopped and counted."""

import asyncio
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

from tailrace import AsyncTailrace, Settings
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.upstreams.rehearsal import Rehearsal

_SCRIPT: Final = Path(__file__).with_name("recovery_process.py")


class Child:
    """A worker process."""

    def __init__(self, process: asyncio.subprocess.Process, said: IO[bytes]) -> None:
        self.process, self._said = process, said

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def said(self) -> list[str]:
        """The lines of its log."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace").splitlines()

    async def close(self) -> None:
        if self.alive:
            self.process.kill()
        await self.process.wait()
        self._said.close()


class Fleet:
    """A server, an upstream, a client and the workers that a test starts."""

    def __init__(self, server: EmbeddedServer, rehearsal: Rehearsal, settings: Settings, client: AsyncTailrace) -> None:
        self.server, self.rehearsal, self.settings, self.tailrace = server, rehearsal, settings, client
        self.children: list[Child] = []

    async def start(self) -> Child:
        """One more worker, once it takes jobs."""
        said = tempfile.TemporaryFile("a+b")  # noqa: SIM115  # closed with the child
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_SCRIPT),
            self.settings.model_dump_json(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
        )
        child = Child(process, said)
        self.children.append(child)
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n", child.said()
        return child


@asynccontextmanager
async def fleet(**worker: Any) -> AsyncGenerator[Fleet]:
    """`worker` are settings of the section of that name; without any, the defaults."""
    async with AsyncExitStack() as stack:
        server = EmbeddedServer(private=True)
        await asyncio.to_thread(server.__enter__)
        stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
        rehearsal = await stack.enter_async_context(Rehearsal())
        sections: Mapping[str, Any] = {
            "redis_url": server.tcp_url,
            "namespace": f"recovery-{uuid.uuid4().hex[:8]}",
            "upstreams": {"default": {"base_url": rehearsal.base_url, "api_key_env": "", "default_model": "rehearsal"}},
            "worker": worker,
        }
        settings = Settings.model_validate(sections)
        client = await stack.enter_async_context(AsyncTailrace(settings=settings))
        made = Fleet(server, rehearsal, settings, client)
        try:
            yield made
        finally:
            for child in made.children:
                await child.close()
