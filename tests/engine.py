"""The whole engine in one event loop: rehearsal upstream, worker, client, on the Redis of the test."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import fakeredis
import redis as blocking
from redis.asyncio import Redis

from tailrace import AsyncTailrace, Settings
from tailrace.client.jobs import JobsOf
from tailrace.joblog import Broker
from tailrace.queue.renewal import blocking_twin
from tailrace.tasks import App, Jobs
from tailrace.upstreams.rehearsal import Rehearsal
from tailrace.worker.app import Worker


@dataclass
class Engine:
    """What a test works with."""

    tailrace: AsyncTailrace
    rehearsal: Rehearsal
    settings: Settings
    redis: Redis
    worker: Worker | None

    @asynccontextmanager
    async def another_worker(self, **worker: Any) -> AsyncGenerator[Worker]:
        """One more worker, beside the first."""
        settings = self.settings.model_copy(update={"worker": self.settings.worker.model_copy(update=worker)})
        async with running_worker(settings, self.redis) as started:
            yield started


@asynccontextmanager
async def running_worker(
    settings: Settings, redis: Redis, *, app: App | None = None, jobs: Jobs | None = None
) -> AsyncGenerator[Worker]:
    """A worker that takes jobs while the block runs; whatever runs at its end is handed back."""
    async with Worker(
        settings, app=app, jobs=jobs, broker=Broker(redis), renewal_client=partial(twin_of, redis)
    ) as worker:
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.drain(0)
            await running


@asynccontextmanager
async def engine(
    redis: Redis,
    namespace: str,
    *,
    with_worker: bool = True,
    upstream: dict[str, Any] | None = None,
    app: App | None = None,
    **sections: Any,
) -> AsyncGenerator[Engine]:
    """Everything, wired together. `upstream` and `sections` are settings."""
    async with Rehearsal() as rehearsal:
        settings = Settings.model_validate(
            {
                "namespace": namespace,
                "upstreams": {
                    "default": {
                        "base_url": rehearsal.base_url,
                        "api_key_env": "",
                        "default_model": "rehearsal",
                        **(upstream or {}),
                    },
                    **sections.pop("upstreams", {}),
                },
                "worker": {"lease_s": 1.0, "retry_delay_s": 0.01, "sweep_s": 0.2, **sections.pop("worker", {})},
                **sections,
            }
        )
        async with AsyncTailrace(settings=settings, redis=redis) as tailrace:
            if not with_worker:
                yield Engine(tailrace, rehearsal, settings, redis, None)
                return
            async with running_worker(settings, redis, app=app, jobs=JobsOf(tailrace)) as worker:
                yield Engine(tailrace, rehearsal, settings, redis, worker)


def twin_of(redis: Redis) -> blocking.Redis:
    """A blocking client of the same server, fake or real."""
    if isinstance(redis, fakeredis.FakeAsyncRedis):
        kwargs = cast("Any", redis).connection_pool.connection_kwargs
        names = ("host", "port", "db", "server", "version", "server_type")
        return fakeredis.FakeRedis(**{name: kwargs[name] for name in names if name in kwargs})
    return blocking_twin(redis)


async def wait_until(description: str, condition: Callable[[], Awaitable[Any] | Any], timeout_s: float = 10.0) -> None:
    """Wait for a condition, plain or async; fail with its description."""
    give_up = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < give_up, f"waited in vain until {description}"
        await asyncio.sleep(0.005)
