"""Worker processes under the demo's eyes: it knows each by name, may kill it, and starts another one."""

import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

from redis.exceptions import RedisError

from tailrace.cli.worker_process import ready_line
from tailrace.joblog import connected_by
from tailrace.queue import hand_back
from tailrace.schemas import Settings, TailraceError

_READY: Final = ready_line("")[:-1]


class WorkerNotStarted(TailraceError):
    """A worker process ended before it took jobs; the message has the last lines of what it said."""


@dataclass(frozen=True, slots=True)
class _Child:
    process: Process
    name: str


class Workers:
    """Keeps `count` worker processes running while `run` does: one that dies has its jobs handed back at once and is
    started again. They end with `run`, and by themselves should this process be killed.

    As `tailrace worker --processes`, whose supervisor says what it does in lines on the terminal; here a screen is there.
    """

    def __init__(self, settings: Settings, count: int, tell: Callable[[str], object]) -> None:
        self._settings, self._count, self._tell = settings, count, tell
        self._ready: dict[str, _Child] = {}
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Until it is cancelled. Raises: WorkerNotStarted."""
        async with asyncio.TaskGroup() as places:
            for _ in range(self._count):
                places.create_task(self._keep())

    async def all_ready(self) -> None:
        """Return when each takes jobs."""
        async with self._moved:
            await self._moved.wait_for(lambda: len(self._ready) == self._count)

    def kill(self, name: str) -> int | None:
        """End it by SIGKILL; its process id. None if there is none of that name."""
        child = self._ready.get(name)
        if child is None:
            return None
        child.process.kill()
        return child.process.pid

    async def _keep(self) -> None:
        while True:
            with tempfile.TemporaryFile() as said:
                name = await self._live(said)
                if name is None:
                    said.seek(0)
                    last = said.read().decode(errors="replace").strip()[-2000:]
                    raise WorkerNotStarted(f"a worker process did not start: {last or 'it said nothing'}")
            await self._hand_back(name)

    async def _live(self, said: IO[bytes]) -> str | None:
        """One child, from its start to its end; its name if it took jobs."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tailrace.cli.worker_process"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=said,
            # Ctrl-C in the terminal is for the demo, which ends its workers.
            start_new_session=True,
        )
        name: str | None = None
        try:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  # opened as pipes
            with suppress(ConnectionError):  # it died at once
                process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
                await process.stdin.drain()
            async for line in process.stdout:
                if line.startswith(_READY):
                    name = line.removeprefix(_READY).decode().strip()
                    await self._set_ready(name, _Child(process, name))
            await process.wait()
        finally:
            if name is not None:
                self._ready.pop(name, None)
            if process.returncode is None:
                # Nothing of it is worth a drain: the job has ended, or the demo is interrupted.
                process.kill()
                await process.wait()
        return name

    async def _set_ready(self, name: str, child: _Child) -> None:
        async with self._moved:
            self._ready[name] = child
            self._moved.notify_all()

    async def _hand_back(self, name: str) -> None:
        settings = self._settings
        # While Redis is away its jobs run again when their leases end.
        with suppress(RedisError, OSError, TailraceError):
            async with connected_by(settings) as broker:
                given = await hand_back(
                    broker.queue.redis,
                    settings.keys,
                    name,
                    lease_s=settings.worker.lease_s,
                    queues=settings.worker.queues,
                )
            self._tell(f"the dead worker's jobs are handed back ({given}); another worker process is started")
