"""One worker process: a loop, its signals, and what it says of itself."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tailrace.cli.loops import observed, on_signals, require_server, run_loop, with_server
from tailrace.cli.metrics import metrics_served
from tailrace.client import AsyncTailrace
from tailrace.client.jobs import JobsOf
from tailrace.schemas import DEFAULT_QUEUE, Settings
from tailrace.schemas.secrets import secret_of
from tailrace.tasks import App
from tailrace.worker.app import Worker
from tailrace.worker.upstream_http import origin

__all__ = [
    "Served",
    "Serving",
    "announce",
    "logger",
    "observed",
    "on_signals",
    "require_server",
    "run_loop",
    "served",
    "with_server",
]

logger = logging.getLogger("tailrace.worker")

_OPENAI: Final = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Served:
    """One upstream as it may be shown: never a key, never a path or user in its URL."""

    name: str
    origin: str
    key_env: str
    """The variable that its key should be in; "" if it needs none."""

    @property
    def key_missing(self) -> bool:
        return bool(self.key_env) and not secret_of(self.key_env)


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


def announce(settings: Settings, who: str, app: App | None = None) -> None:
    """Log what is served, and warn of keys that are not there: jobs for those upstreams would fail."""
    upstreams = served(settings)
    told = ", ".join(f"{upstream.name} at {upstream.origin}" for upstream in upstreams)
    tasks = f"; tasks: {', '.join(sorted(app.tasks)) or 'none'}" if app is not None else ""
    queues = "" if settings.worker.queues == (DEFAULT_QUEUE,) else f"; queues: {', '.join(settings.worker.queues)}"
    logger.info("%s serves namespace %r; upstreams: %s%s%s", who, settings.namespace, told, queues, tasks)
    for upstream in upstreams:
        if upstream.key_missing:
            logger.warning(
                "upstream %r has no key: set %s, or jobs for it will fail (`tailrace worker --rehearsal` needs none)",
                upstream.name,
                upstream.key_env,
            )


class Serving:
    """Runs a worker until it is told to stop: the first `stop` drains it, the next one hands its jobs back at once."""

    def __init__(self, settings: Settings, app: App | None = None) -> None:
        self._settings, self._app = settings, app
        self._worker: Worker | None = None
        self._drains: list[asyncio.Task[None]] = []
        self._stops = 0
        self.stopped_by: signal.Signals | None = None
        self.metrics_url: str | None = None
        """Where its metrics are, if it shows them."""

    async def run(self, ready: Callable[[str], None]) -> None:
        """`ready` is called with the worker's name once it takes jobs."""
        settings = self._settings
        with on_signals(self.stop):
            async with (
                AsyncTailrace(settings=settings) as client,
                Worker(settings, app=self._app, jobs=JobsOf(client)) as worker,
                metrics_served(
                    [worker.counts],
                    worker.broker,
                    settings,
                    role="worker",
                    host=settings.worker.metrics_host,
                    port=settings.worker.metrics_port,
                ) as self.metrics_url,
            ):
                self._worker = worker
                for _ in range(self._stops):
                    self._drain(worker)
                ready(worker.name)
                try:
                    await worker.run()
                finally:
                    self._worker = None
                    await asyncio.gather(*self._drains)
                    logger.info("worker %r has stopped", worker.name, extra={"worker": worker.name})

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
