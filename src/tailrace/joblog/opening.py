"""Connections to the servers that URLs name: one for everything, or the queue's apart, the logs' a cluster."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis

from tailrace.joblog.cluster import ClusterBroker, is_cluster
from tailrace.joblog.cluster_map import ClusterMap
from tailrace.joblog.connections import Broker, connect
from tailrace.joblog.sentinel import SentinelPool
from tailrace.joblog.tasks import running
from tailrace.schemas import InvalidRequest, Settings


@asynccontextmanager
async def connected(url: str, queue_url: str | None = None) -> AsyncGenerator[Broker]:
    """A broker whose connections are closed at the end of the block. `queue_url`: the queue's server, if it is another.

    Asks nobody yet. Raises: InvalidRequest for a URL that is none.
    """
    async with AsyncExitStack() as stack:
        queue: Broker | None = None
        if queue_url is not None and queue_url != url:
            if is_cluster(queue_url):
                raise InvalidRequest(
                    "TAILRACE_QUEUE_URL names a cluster: the queue needs one primary (redis://..., redis+sentinel://...)"
                )
            queue = Broker(await _opened(stack, queue_url, "TAILRACE_QUEUE_URL"))
        if not is_cluster(url):
            yield Broker(await _opened(stack, url, "TAILRACE_REDIS_URL"), queue=queue)
            return
        if queue is None:
            raise InvalidRequest(
                "TAILRACE_REDIS_URL names a cluster, which has the logs: set TAILRACE_QUEUE_URL to a server with one primary "
                "for the queue"
            )
        nodes = ClusterMap(url)
        stack.push_async_callback(nodes.close)
        await nodes.open()
        yield ClusterBroker(nodes, queue=queue)


async def _opened(stack: AsyncExitStack, url: str, name: str) -> Redis:
    redis = connect(url, name)
    stack.push_async_callback(redis.aclose)
    pool: object = redis.connection_pool
    if isinstance(pool, SentinelPool):
        await stack.enter_async_context(running(pool.keep_to_primary()))
    return redis


def connected_by(settings: Settings) -> AbstractAsyncContextManager[Broker]:
    """As `connected`, to the servers that the settings name."""
    return connected(settings.redis_url or "", settings.queue_url)
