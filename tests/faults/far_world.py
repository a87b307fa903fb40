"""As `world`, with the logs and the queue elsewhere: on a cluster, behind sentinels, or on two servers.

async with cluster_world() as w:              # logs on a cluster, the queue on a server of its own
    await w.start_worker()
    jobs = await w.submit_to(home, 10, tokens=200, pace=0.03)
    async with w.watching_all(jobs) as witnesses:
        await home.kill()
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final

from fault_proxy import Proxy
from fault_world import World, running_server
from redis.asyncio import Redis
from witness import Witness

from cluster_servers import Cluster, cluster
from redis_nodes import Node
from sentinel_servers import Sentinels, sentinels
from tailrace import BrokerUnavailable, Settings
from tailrace.client import AsyncJob
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.upstreams.rehearsal import Rehearsal

#: What makes a primary that was voted out refuse writes: sentinels leave it a primary for another 8 s.
SAFE: Final[Mapping[str, str]] = {"min-replicas-to-write": "1", "min-replicas-max-lag": "2"}

#: Long enough that no job ends before the blow falls and the servers have got over it.
LONG: Final[dict[str, Any]] = {"tokens": 240, "pace": 0.03}
#: A failover takes 2 to 4 s; then everybody has to notice, and leases have run out meanwhile.
FAILOVER_S: Final = 12.0
#: What jobs on other servers may feel of it on a busy machine.
UNTOUCHED_S: Final = 6.0


class FarWorld(World):
    """Made by the functions below. `server`, behind the links, is where the logs or the queue are that are nowhere else."""

    def __init__(
        self,
        server: EmbeddedServer,
        rehearsal: Rehearsal,
        stack: AsyncExitStack,
        sections: Mapping[str, Any],
        *,
        logs: str | None = None,
        queue: str | None = None,
    ) -> None:
        super().__init__(server, rehearsal, stack, sections)
        self._logs = logs
        self._queue = queue

    def settings(self, link: Proxy, *, worker: Mapping[str, Any] | None = None) -> Settings:
        near = super().settings(link, worker=worker)
        # Logs and queue at one place: one URL, one script.
        queue = None if self._queue == self._logs else self._queue or near.redis_url
        return near.model_copy(update={"redis_url": self._logs or near.redis_url, "queue_url": queue})

    def watching_all(self, jobs: Sequence[AsyncJob]) -> AbstractAsyncContextManager[list[Witness]]:
        """A witness of each job; at the block's end they wait until their readers have ended."""
        return self._watching_all(jobs)

    @asynccontextmanager
    async def _watching_all(self, jobs: Sequence[AsyncJob]) -> AsyncGenerator[list[Witness]]:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.watching(job)) for job in jobs]


class ClusterWorld(FarWorld):
    """The logs on a cluster."""

    cluster: Cluster

    async def submit_to(self, node: Node, count: int, **given: Any) -> list[AsyncJob]:
        """Jobs whose logs are on this primary."""
        jobs = [await self.submit(job_id=job_id, prompt=job_id, **given) for job_id in await self.ids_on(node, count)]
        logs = [self.tailrace.settings.keys.log(job.id) for job in jobs]
        assert [await node.redis.exists(log) for log in logs] == [1] * count, f"the logs are not at {node}"
        return jobs

    async def ids_on(self, node: Node, count: int) -> list[str]:
        """Ids of jobs, not given before, whose logs this primary has."""
        names = await self.cluster.names_on(node, f"{uuid.uuid4().hex[:8]}-")
        return [next(names) for _ in range(count)]

    async def stores(self) -> list[Any]:
        logs = [node.redis for node in await self.cluster.primaries() if node.answers]
        return [self.redis, *logs]


class SentinelWorld(FarWorld):
    """The queue, the logs or both behind sentinels."""

    sentinels: Sentinels

    async def stores(self) -> list[Any]:
        # A test may be over before the failover is.
        return [self.redis, (await self.sentinels.wait_for_primary()).redis]


@asynccontextmanager
async def cluster_world(
    *, nodes: Mapping[str, Any] | None = None, upstream: Mapping[str, Any] | None = None, **sections: Any
) -> AsyncGenerator[ClusterWorld]:
    """The logs on a cluster (`nodes`: as `cluster` takes it), the queue on a server behind the links."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(cluster(**(nodes or {})))
        server = await running_server(stack, None)
        rehearsal = await stack.enter_async_context(Rehearsal())
        w = ClusterWorld(server, rehearsal, stack, {"upstream": upstream or {}, **sections}, logs=made.url)
        w.cluster = made
        async with _running(w):
            yield w


@asynccontextmanager
async def sentinel_world(
    *, logs: bool, queue: bool, safe: bool = True, upstream: Mapping[str, Any] | None = None, **sections: Any
) -> AsyncGenerator[SentinelWorld]:
    """`logs`, `queue`: what is behind the sentinels; the rest is on a server behind the links."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(sentinels(config=SAFE if safe else {}))
        server = await running_server(stack, None)
        rehearsal = await stack.enter_async_context(Rehearsal())
        places = {"logs": made.url if logs else None, "queue": made.url if queue else None}
        w = SentinelWorld(server, rehearsal, stack, {"upstream": upstream or {}, **sections}, **places)
        w.sentinels = made
        async with _running(w):
            yield w


class TwoServers(FarWorld):
    """The logs behind the links, the queue on another server."""

    queue_redis: Any
    queue_server: EmbeddedServer

    async def stores(self) -> list[Any]:
        return [self.redis, self.queue_redis]


@asynccontextmanager
async def two_servers(**sections: Any) -> AsyncGenerator[TwoServers]:
    """The logs on a server behind the links, the queue on another one."""
    async with AsyncExitStack() as stack:
        server, queue = await running_server(stack, None), await running_server(stack, None)
        rehearsal = await stack.enter_async_context(Rehearsal())
        w = TwoServers(server, rehearsal, stack, {"upstream": {}, **sections}, queue=queue.tcp_url)
        w.queue_server = queue
        make: Any = Redis
        w.queue_redis = await stack.enter_async_context(make.from_url(queue.tcp_url))
        async with _running(w):
            yield w


@asynccontextmanager
async def _running(w: FarWorld) -> AsyncGenerator[None]:
    await w.open()
    try:
        yield
        await w.check()
    finally:
        await w.close()


async def seen(witnesses: Sequence[Witness], chunks: int) -> None:
    """Wait until each has seen so many chunks more."""
    marks = [len(witness.chunks) + chunks for witness in witnesses]
    await asyncio.gather(*[w.until_chunks(mark) for w, mark in zip(witnesses, marks, strict=True)])


async def check(w: FarWorld, witnesses: Sequence[Witness], **terms: Any) -> None:
    """What is promised to the readers of a job of LONG."""
    for witness in witnesses:
        await witness.check(w.text(LONG["tokens"]), **terms)


async def submitted(w: FarWorld, job_id: str, *, within_s: float = 20.0, **script: Any) -> AsyncJob:
    """Submit under an id until it is accepted: every refusal is one that may be tried again."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await w.submit(job_id=job_id, prompt=job_id, **script)
            except BrokerUnavailable:
                await asyncio.sleep(0.1)
