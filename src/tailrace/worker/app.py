"""The worker: takes jobs from the queue and runs them, a thousand at a time in one process."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from typing import Final, Self

from redis import Redis as BlockingRedis

from tailrace.joblog import Broker, connected_by
from tailrace.joblog.tasks import running
from tailrace.queue import CancelReason, Claimed, Control, offer
from tailrace.queue.leased import LeasedWorker
from tailrace.schemas import END, InvalidRequest, Settings, TailraceError
from tailrace.tasks import App, Jobs
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.current import working_for
from tailrace.telemetry.metrics_counts import Counts
from tailrace.worker.checkup import LONGEST_WAIT_MS
from tailrace.worker.quarantine import Quarantine
from tailrace.worker.registry import WorkerCard, announce, take_leave
from tailrace.worker.relay import Relay
from tailrace.worker.run import Run
from tailrace.worker.scrub import scrub_for_ever
from tailrace.worker.sweep import sweep_for_ever
from tailrace.worker.tools import Tools
from tailrace.worker.upstreams import Upstreams

logger = logging.getLogger(__name__)

#: A worker that is silent for so many of its announcements is taken for dead by who looks.
_ANNOUNCEMENTS_MISSED: Final = 3
_LEAVE_S: Final = 2.0
_VERSION: Final = version("tailrace")


class Worker:
    """One worker process's engine. `async with Worker(settings) as worker: await worker.run()`; stop it with `drain`.

    Needs the `worker` extra. Signals are the caller's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        app: App | None = None,
        jobs: Jobs | None = None,
        broker: Broker | None = None,
        name: str | None = None,
        renewal_client: Callable[[], BlockingRedis] | None = None,
    ) -> None:
        """`app`: its tasks. `jobs`: a client for the tasks that submit other jobs (`tailrace.client.jobs`). `broker`: one of
        the caller's, left open; else one for `settings.redis_url`. `renewal_client` makes a blocking client of the
        queue's server, where it cannot be derived from the broker's."""
        self._app, self._jobs = app or App(), jobs
        self._renewal_client = renewal_client
        self.settings = settings
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._given = broker
        self.counts = Counts(told.WORKER)
        """What it tells of itself, for `tailrace.telemetry.metrics_exposition`."""
        self._stack = AsyncExitStack()
        self._quarantine = Quarantine()

    async def __aenter__(self) -> Self:
        settings, keys = self.settings, self.settings.keys
        async with AsyncExitStack() as stack:
            broker = self._given
            if broker is None:
                broker = await stack.enter_async_context(connected_by(_with_server(settings)))
            self._broker: Broker = broker
            upstreams = await stack.enter_async_context(Upstreams(settings, counts=self.counts))
            self._tools = Tools(upstreams, self._app, self._jobs, settings.limits, self.counts)
            relay = Relay(self._broker, keys, worker=self.name, counts=self.counts)
            self._relay = await stack.enter_async_context(relay)
            self._queue = await stack.enter_async_context(
                LeasedWorker(
                    self._handle,
                    keys=keys,
                    redis=self._broker.queue.redis,
                    worker_name=self.name,
                    queues=settings.worker.queues,
                    max_jobs=settings.worker.max_jobs,
                    lease_s=settings.worker.lease_s,
                    renewal_client=self._renewal_client,
                    script=self._broker.queue.raw,
                )
            )
            await stack.enter_async_context(
                Control(self._on_word, keys=keys, redis=self._broker.queue.redis, worker_name=self.name)
            )
            longest_wait_ms = max(LONGEST_WAIT_MS, int(settings.worker.lease_s * 2000))
            sweep = sweep_for_ever(
                self._broker,
                keys,
                every_s=settings.worker.sweep_s,
                longest_wait_ms=longest_wait_ms,
                jobs=self._jobs,
                counts=self.counts,
            )
            every_s, lease_s = settings.worker.sweep_s, settings.worker.lease_s
            scrub = scrub_for_ever(self._broker, keys, every_s=every_s, lease_s=lease_s, counts=self.counts)
            self._watch_queue()
            stack.push_async_callback(self._take_leave)
            await stack.enter_async_context(running(sweep, self._watch(), self._announce(), scrub))
            self._stack = stack.pop_all()
        return self

    @property
    def broker(self) -> Broker:
        """What it talks to Redis with, while it is open."""
        return self._broker

    def _watch_queue(self) -> None:
        queue, counts = self._queue, self.counts
        counts.watch(told.JOBS_CLAIMED, lambda: queue.claims)
        counts.watch(told.JOBS_RUNNING, lambda: len(queue.running))
        counts.watch(told.JOB_SLOTS, lambda: queue.max_jobs if queue.allow_pick_jobs else 0)
        counts.watch(told.LEASES_LOST, lambda: queue.lost)
        counts.watch(told.HANDLER_ERRORS, lambda: queue.errors)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """Take jobs and run them, until `drain`."""
        await self._queue.async_run()

    async def drain(self, grace_s: float | None = None) -> None:
        """Take no more jobs, give the running ones some time (`settings.worker.drain_s`), hand the rest back."""
        await self._queue.drain(self.settings.worker.drain_s if grace_s is None else grace_s)

    async def _handle(self, job_id: str, claimed: Claimed) -> None:
        with working_for({"job_id": job_id, "worker": self.name}):
            await Run(
                job_id,
                claimed,
                broker=self._broker,
                keys=self.settings.keys,
                relay=self._relay,
                tools=self._tools,
                settings=self.settings.worker,
                quarantine=self._quarantine,
            ).carry_out()

    def _on_word(self, word: str, job_id: str) -> None:
        claimed = self._queue.running.get(job_id)
        if claimed is not None and word == "cancel":
            claimed.cancel(CancelReason.CANCELLED)

    async def _announce(self) -> None:
        every_s = self.settings.worker.sweep_s
        cards = self._app.cards()
        while True:
            card = WorkerCard(
                self.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                jobs=len(self._queue.running),
                max_jobs=self.settings.worker.max_jobs,
                version=_VERSION,
                queues=self.settings.worker.queues,
            )
            # For people: the sweep beside it says what is wrong with the server.
            with suppress(TailraceError):
                await announce(self._broker, self.settings.keys, card, counts_s=every_s * _ANNOUNCEMENTS_MISSED)
                await offer(self._broker, self.settings.keys, cards)
            await asyncio.sleep(every_s)

    async def _take_leave(self) -> None:
        with suppress(TailraceError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await take_leave(self._broker, self.settings.keys, self.name)

    async def _watch(self) -> None:
        """Find jobs that were ended while their upstream is silent and the word to us was lost."""
        keys = self.settings.keys
        while True:
            await asyncio.sleep(self.settings.worker.lease_s)
            jobs = list(self._queue.running.items())
            if not jobs:
                continue
            try:
                tops = await self._broker.many(
                    [("XREVRANGE", keys.log(job_id), "+", "-", "COUNT", 1) for job_id, _ in jobs]
                )
            except TailraceError as error:
                logger.debug("cannot look at the running jobs' logs: %s", error)
                continue
            for (_, claimed), top in zip(jobs, tops, strict=True):
                if not isinstance(top, Exception) and (not top or top[0][0].decode() == END):
                    claimed.cancel(CancelReason.CANCELLED)


def _with_server(settings: Settings) -> Settings:
    if settings.redis_url is None:
        raise InvalidRequest("a worker needs a Redis: set TAILRACE_REDIS_URL, or pass broker=")
    return settings
