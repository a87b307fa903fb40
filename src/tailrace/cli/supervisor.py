"""Several worker processes on one machine: started, watched, started again when they die."""

import asyncio
import logging
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from signal import SIGTERM, Signals
from typing import Final

from redis.exceptions import RedisError

from tailrace.cli.serving import on_signals
from tailrace.joblog import connected_by
from tailrace.queue import hand_back
from tailrace.schemas import InvalidRequest, Settings, TailraceError

logger = logging.getLogger("tailrace.supervisor")

_PORTS: Final = 65536
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 30.0
#: Who lived so long did not die of its start: the next pause is the shortest again.
_LONG_LIFE_S: Final = 60.0


def pause_after(deaths: int) -> float:
    """Seconds until a child is started again after so many short lives in a row."""
    return min(_FIRST_PAUSE_S * 2.0 ** min(deaths - 1, 16), _LONGEST_PAUSE_S)


def _settings_at(settings: Settings, place: int) -> Settings:
    """Of the child in that place: each shows its metrics on a port of its own, the same again when it is started again."""
    first = settings.worker.metrics_port
    if not first:
        return settings
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"metrics_port": first + place})})


class Supervisor:
    """Keeps `count` worker processes running until `stop`. Signals are passed on: the second one hands jobs back.

    The jobs of a child that died go back into the queue at once; while Redis is away, when their leases run out.
    """

    def __init__(self, settings: Settings, count: int, *, app: str | None = None) -> None:
        """`app`: where the tasks are, as `module:attribute`; every child imports it."""
        self._settings, self._count = settings, count
        self._app = [app] if app else []
        self._children: dict[int, Process] = {}
        self._ready: set[int] = set()
        self._stopping = asyncio.Event()
        self._told_ready = False
        self.stopped_by: Signals | None = None

    async def run(self, ready: Callable[[list[int]], None]) -> None:
        """`ready` is called once, with the process ids, when every child takes jobs.

        Raises: InvalidRequest if there are too few ports for their metrics.
        """
        if (self._settings.worker.metrics_port or 0) + self._count > _PORTS:
            raise InvalidRequest(f"metrics of {self._count} processes do not fit below port {_PORTS}: begin lower")
        with on_signals(self.stop):
            async with asyncio.TaskGroup() as places:
                for place in range(self._count):
                    places.create_task(self._keep(place, ready))

    def stop(self, number: Signals = SIGTERM) -> None:
        self.stopped_by = self.stopped_by or number
        self._stopping.set()
        for child in self._children.values():
            with suppress(ProcessLookupError):
                child.send_signal(SIGTERM)

    async def _keep(self, place: int, ready: Callable[[list[int]], None]) -> None:
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._live(place, ready)
            if self._stopping.is_set():
                return
            deaths = 1 if time.monotonic() - began > _LONG_LIFE_S else deaths + 1
            pause_s = pause_after(deaths)
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            logger.warning("a worker process died (%s); another one is started in %g s", how, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _live(self, place: int, ready: Callable[[list[int]], None]) -> int:
        """One child, from its start to its end; its exit code."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tailrace.cli.worker_process", *self._app),
            stdin=PIPE,
            stdout=PIPE,
            # Ctrl-C in the terminal is for the supervisor, which passes it on once.
            start_new_session=True,
        )
        self._children[place] = child
        name = ""
        try:
            if child.stdin is None or child.stdout is None:
                raise RuntimeError("the child was started with pipes")
            with suppress(ConnectionError):  # it died at once
                child.stdin.write(_settings_at(self._settings, place).model_dump_json().encode() + b"\n")
                await child.stdin.drain()
            if self._stopping.is_set():
                child.send_signal(SIGTERM)
            async for line in child.stdout:
                if line.startswith(b"ready "):
                    name = line[6:].decode().strip()
                    logger.info("worker process %d (%s) takes jobs", child.pid, name)
                    self._is_ready(place, ready)
            code = await child.wait()
            if code and name:
                await self._hand_back(name)
            return code
        finally:
            del self._children[place]
            self._ready.discard(place)
            if child.returncode is None:
                child.kill()
                await child.wait()

    async def _hand_back(self, name: str) -> None:
        settings = self._settings
        try:
            async with connected_by(settings) as broker:
                given = await hand_back(
                    broker.queue.redis,
                    settings.keys,
                    name,
                    lease_s=settings.worker.lease_s,
                    queues=settings.worker.queues,
                )
        except (RedisError, OSError, TailraceError) as error:
            logger.warning("the jobs of worker %r run again when their leases end: %s", name, error)
        else:
            if given:
                logger.info("%d jobs of the dead worker %r are handed back", given, name)

    def _is_ready(self, place: int, ready: Callable[[list[int]], None]) -> None:
        self._ready.add(place)
        if len(self._ready) == self._count and not self._told_ready:
            self._told_ready = True
            ready(sorted(child.pid for child in self._children.values()))
