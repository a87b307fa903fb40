"""One worker process: a loop, its signals, and what it says of itself."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from tailrace.joblog import connected
from tailrace.joblog.suitability import require_suitable
from tailrace.schemas import Settings
from tailrace.worker.app import Worker
from tailrace.worker.upstream_http import origin

logger = logging.getLogger("tailrace.worker")

T = TypeVar("T")

_OPENAI: Final = "https://api.openai.com/v1"


def log_to_stderr() -> None:
    """Our own lines at INFO; of the libraries only what is wrong."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("arq", "httpx", "httpx2", "openai", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run it to its end, on uvloop where that is installed."""
    make: Callable[[], asyncio.AbstractEventLoop] | None = None
    if find_spec("uvloop") is not None:
        make = import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main)


@dataclass(frozen=True, slots=True)
class Served:
    """One upstream as it may be shown: never a key, never a path or user in its URL."""

    name: str
    origin: str
    key_env: str
    """The variable that its key should be in; "" if it needs none."""

    @property
    def key_missing(self) -> bool:
        return bool(self.key_env) and not os.environ.get(self.key_env, "").strip()


def served(settings: Settings) -> list[Served]:
    """The upstreams that a worker with these settings asks, `default` first."""
    names = ["default", *sorted(set(settings.upstreams) - {"default"})]
    found: list[Served] = []
    for name in names:
        upstream = settings.upstream(name)
        if upstream is not None:
            url = upstream.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
            found.append(Served(name, origin(url), upstream.api_key_env))
    return found


def announce(settings: Settings, who: str) -> None:
    """Log what is served, and warn of keys that are not there: jobs for those upstreams would fail."""
    upstreams = served(settings)
    told = ", ".join(f"{upstream.name} at {upstream.origin}" for upstream in upstreams)
    logger.info("%s serves namespace %r; upstreams: %s", who, settings.namespace, told)
    for upstream in upstreams:
        if upstream.key_missing:
            logger.warning(
                "upstream %r has no key: set %s, or jobs for it will fail (`tailrace worker --rehearsal` needs none)",
                upstream.name,
                upstream.key_env,
            )


async def require_server(settings: Settings) -> None:
    """Raises: BrokerUnavailable, BrokerUnsuitable with its cure."""
    async with connected(settings.redis_url or "") as broker:
        for finding in await require_suitable(broker.redis, settings.keys):
            if finding.level == "warning":
                logger.warning("Redis: %s (%s)", finding.what, finding.cure)


@contextmanager
def on_signals(stop: Callable[[signal.Signals], None]) -> Generator[None]:
    """SIGTERM and SIGINT call `stop`, in the loop, for as long as the block lasts."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class Serving:
    """Runs a worker until it is told to stop: the first `stop` drains it, the next one hands its jobs back at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worker: Worker | None = None
        self._drains: list[asyncio.Task[None]] = []
        self._stops = 0
        self.stopped_by: signal.Signals | None = None

    async def run(self, ready: Callable[[str], None]) -> None:
        """`ready` is called with the worker's name once it takes jobs."""
        with on_signals(self.stop):
            async with Worker(self._settings) as worker:
                self._worker = worker
                for _ in range(self._stops):
                    self._drain(worker)
                ready(worker.name)
                try:
                    await worker.run()
                finally:
                    self._worker = None
                    await asyncio.gather(*self._drains)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.stopped_by = self.stopped_by or number
        self._stops += 1
        if self._worker is not None:
            self._drain(self._worker)

    def _drain(self, worker: Worker) -> None:
        if self._drains:
            logger.info("handing the running jobs back")
        else:
            logger.info("draining for up to %g s; a second signal hands the jobs back", self._settings.worker.drain_s)
        self._drains.append(asyncio.create_task(worker.drain(0 if self._drains else None)))
