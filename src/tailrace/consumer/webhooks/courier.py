"""From the hand-off to the receivers: one group for each, so that one that is down keeps nobody waiting."""

import asyncio
import logging
import os
import random
import ssl
import time
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from tailrace.consumer.ended import AsyncEnded
from tailrace.consumer.group import Choice, GroupReader
from tailrace.consumer.webhooks.message import Message, Signer, message_of, pause_s, retry_after_s
from tailrace.consumer.webhooks.sender import Answer, Sender
from tailrace.joblog import Broker
from tailrace.joblog.tasks import end
from tailrace.schemas import BrokerUnavailable, InvalidRequest, Keys, Settings, WebhookSettings, webhook_group
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.current import working_for
from tailrace.telemetry.metrics_counts import Counts
from tailrace.telemetry.tracing_webhooks import posting

logger = logging.getLogger("tailrace.webhooks")

_TAKEOVER_S: Final = 60.0
_AGAIN_S: Final = 0.5


class Courier:
    """Delivers to one receiver. `stopping` ends it, after the tries that are on their way."""

    def __init__(
        self,
        broker: Broker,
        keys: Keys,
        name: str,
        settings: WebhookSettings,
        signer: Signer,
        stopping: asyncio.Event,
        counts: Counts,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._broker, self._keys, self.name, self._settings, self._signer = broker, keys, name, settings, signer
        self._sender = Sender(settings, ssl_context=ssl_context)
        self._stopping = stopping
        self._counts = counts
        self.open = 0
        """Messages on their way."""
        self._stopped = asyncio.Event()
        self._failing = False
        self._gone = False
        #: Longer than a try takes: nobody else sends what this one is sending.
        self._takeover_s = max(_TAKEOVER_S, 3 * settings.timeout_s)

    async def run(self) -> None:
        """Until `stopping`, or until the receiver says that it is gone. Raises: BrokerUnavailable, BrokerUnsuitable."""
        async with self._sender:
            await self._run()

    async def _run(self) -> None:
        on_their_way: set[asyncio.Task[None]] = set()
        reading = asyncio.create_task(self._read(on_their_way), name=f"webhook-{self.name}")
        stopping = [asyncio.create_task(event.wait()) for event in (self._stopping, self._stopped)]
        try:
            await asyncio.wait([reading, *stopping], return_when=asyncio.FIRST_COMPLETED)
            self._stopped.set()
            await end({task for task in (reading,) if not task.done()})
            if on_their_way:
                await asyncio.wait(on_their_way)
            if not reading.cancelled():
                reading.result()
        finally:
            await end({reading, *on_their_way})
            for task in stopping:
                task.cancel()
            await asyncio.gather(*stopping, return_exceptions=True)

    async def _read(self, on_their_way: set[asyncio.Task[None]]) -> None:
        places = asyncio.Semaphore(self._settings.concurrency)
        reader = GroupReader(
            self._broker,
            self._keys,
            webhook_group(self.name),
            choice=Choice(self._settings.statuses, self._settings.tags, self._settings.tasks),
            takeover=self._takeover_s,
            max_deliveries=self._settings.max_attempts,
        )

        def over(task: asyncio.Task[None]) -> None:
            on_their_way.discard(task)
            self.open -= 1
            places.release()
            error = None if task.cancelled() else task.exception()
            if isinstance(error, BrokerUnavailable):
                logger.debug("webhook %r: Redis is away: a message is left to whoever takes it over", self.name)
            elif error is not None:
                logger.error("webhook %r: a delivery failed", self.name, exc_info=error)

        await places.acquire()
        async with aclosing(reader.read()) as ends:
            async for ended in ends:
                task = asyncio.create_task(self._deliver(ended))
                on_their_way.add(task)
                self.open += 1
                task.add_done_callback(over)
                await places.acquire()

    async def _deliver(self, ended: AsyncEnded) -> None:
        with working_for({"job_id": ended.job_id, "webhook": self.name}):
            await self._until_taken(ended)

    async def _until_taken(self, ended: AsyncEnded) -> None:
        message = message_of(self._keys.namespace, self.name, ended.notice)
        while True:
            if self._gone:  # another message has heard it while this one was read
                self._count("left")
                await ended.release()
                return
            answer = await self._try(message, ended)
            if answer.well:
                await self._done(ended)
                self._count("delivered")
                return
            if answer.gone:
                self._gone = True
                self._count("parked")
                logger.error("webhook %r: the receiver is gone (410), no more is sent until a restart", self.name)
                await ended.park(f"webhook {self.name}: {answer.said}")
                self._stopped.set()
                return
            if ended.deliveries >= self._settings.max_attempts:
                self._count("parked")
                tries = ended.deliveries
                logger.error(
                    "webhook %r: job %r is parked after %d tries (%s)", self.name, ended.job_id, tries, answer.said
                )
                await ended.park(f"webhook {self.name}: {answer.said} at the last of {tries} tries")
                return
            if not await self._next_try(ended, answer):
                self._count("left")
                return

    def _count(self, outcome: str) -> None:
        self._counts.add(told.WEBHOOK_MESSAGES, self.name, outcome)

    async def _try(self, message: Message, ended: AsyncEnded) -> Answer:
        began = time.monotonic()
        headers = self._signer.headers(message, datetime.now(UTC))
        settings = self._settings
        with posting(self.name, settings.url, trace=ended.notice.trace, tries=ended.deliveries) as post:
            answer = await self._sender.post(
                {**headers, **(post.headers if settings.traceparent else {})}, message.body
            )
            post.answered(answer.status, answer.said, well=answer.well)
        self._counts.distribution(told.WEBHOOK_TRY, self.name).observe(time.monotonic() - began)
        said = "none" if answer.status is None else f"{answer.status // 100}xx"
        self._counts.add(told.WEBHOOK_TRIES, self.name, said)
        if answer.well and self._failing:
            logger.info("webhook %r: the receiver takes messages again", self.name)
        elif not answer.well:
            level = logging.DEBUG if self._failing else logging.WARNING
            logger.log(
                level, "webhook %r: the receiver does not take messages (%s); trying again", self.name, answer.said
            )
        self._failing = not answer.well
        return answer

    async def _next_try(self, ended: AsyncEnded, answer: Answer) -> bool:
        """Wait for its time and keep the message meanwhile. False if it is another's, or handed back."""
        asked = retry_after_s(answer.retry_after, datetime.now(UTC))
        left = pause_s(self._settings, ended.deliveries, chance=random.random(), retry_after_s=asked)  # noqa: S311  # pacing
        while left > 0 and not self._stopped.is_set():
            step = min(left, self._takeover_s / 4)
            try:
                async with asyncio.timeout(step):
                    await self._stopped.wait()
            except TimeoutError:
                left -= step
            try:
                if not await ended.hold():
                    return False
            except BrokerUnavailable:
                continue  # the next one may be in time
        if self._stopped.is_set():
            await ended.release()
            return False
        return await ended.try_again()

    async def _done(self, ended: AsyncEnded) -> None:
        """Acknowledge. While Redis is away: again, or the receiver would get it twice for nothing."""
        while True:
            try:
                await ended.ack()
            except BrokerUnavailable:
                if self._stopped.is_set():
                    raise
                await asyncio.sleep(_AGAIN_S)
            else:
                return


class Webhooks:
    """Delivers to all receivers of the configuration until it is told to drain."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        *,
        environment: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Raises: InvalidRequest if there is no receiver, or a secret is missing."""
        if not settings.webhooks:
            raise InvalidRequest(
                "no webhooks are configured: write [webhooks.<name>] with url and secret_env (docs/handoff.md)"
            )
        self.counts = Counts(told.WEBHOOKS)
        """What it tells of itself, for `tailrace.telemetry.metrics_exposition`."""
        self._draining = asyncio.Event()
        secrets = os.environ if environment is None else environment
        self._couriers = [
            Courier(
                broker,
                settings.keys,
                name,
                target,
                Signer.of(name, target, secrets),
                self._draining,
                self.counts,
                ssl_context=ssl_context,
            )
            for name, target in settings.webhooks.items()
        ]
        for name in settings.webhooks:
            for outcome in ("delivered", "parked", "left"):
                self.counts.add(told.WEBHOOK_MESSAGES, name, outcome, by=0)
        self.counts.watch(told.WEBHOOKS_OPEN, lambda: {(each.name,): each.open for each in self._couriers})

    @property
    def names(self) -> list[str]:
        return [courier.name for courier in self._couriers]

    async def run(self) -> None:
        """Until `drain`. Raises: BrokerUnavailable (at the start; later it is waited for), BrokerUnsuitable."""
        tasks = [asyncio.create_task(courier.run()) for courier in self._couriers]
        draining = asyncio.create_task(self._draining.wait())
        try:
            pending: set[asyncio.Task[None] | asyncio.Task[bool]] = {*tasks, draining}
            while not self._draining.is_set():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            await asyncio.gather(*tasks)
        finally:
            draining.cancel()
            await end({*tasks})
            await asyncio.gather(draining, return_exceptions=True)

    def drain(self) -> None:
        """Take no more. What is on its way arrives or fails; what waits for its next try is handed back."""
        self._draining.set()
