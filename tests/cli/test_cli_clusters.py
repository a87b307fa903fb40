"""doctor, a worker and purge with logs on a cluster and the queue on a server of its own."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from cli_runs import Ran, Start, run

from cluster_servers import Cluster, cluster
from tailrace import AsyncTailrace, Settings
from tailrace.cli.exits import ExitCode
from tailrace.joblog.embedded import EmbeddedServer


@pytest.fixture
async def three(cli_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """Three primaries and a replica of each, and a queue beside them."""
    monkeypatch.setenv("TAILRACE_QUEUE_URL", cli_server.tcp_url)
    async with cluster(node_timeout_ms=1000) as made:
        yield made


async def ran(three: Cluster, *arguments: str, namespace: str) -> Ran:
    return await asyncio.to_thread(run, *arguments, "--redis-url", three.url, "--namespace", namespace)


async def test_doctor_names_the_server_of_each_finding_and_goes_on_without_one_that_is_away(
    three: Cluster, namespace: str
) -> None:
    well = await ran(three, "doctor", "--json", "--no-upstreams", namespace=namespace)
    assert well.code == ExitCode.OK
    home, *others = [node.address for node in await three.primaries()]
    seen = {(finding["about"], finding["code"]) for finding in well.objects}
    for address in (home, *others):
        assert {(address, code) for code in ("version", "cluster-state", "followed", "durability", "acl")} <= seen
    assert {("queue", "version"), ("queue", "acl"), ("queue", "clock"), ("servers", "clocks"), ("jobs", "open")} <= seen

    for node in (three.nodes[0], three.nodes[3]):
        await node.kill()
    ill = await ran(three, "doctor", "--json", "--no-upstreams", namespace=namespace)
    assert ill.code == ExitCode.BROKER
    errors = [finding for finding in ill.objects if finding["level"] == "error"]
    assert [(finding["about"], finding["code"]) for finding in errors] == [(home, "unavailable")]
    seen = {(finding["about"], finding["code"]) for finding in ill.objects}
    assert {(other, "durability") for other in others} <= seen
    assert {("queue", "acl"), ("jobs", "open")} <= seen
    lines = (await ran(three, "doctor", "--no-upstreams", namespace=namespace)).out
    assert any(line.startswith(f"error   {home} ") for line in lines.splitlines())


async def test_a_worker_starts_while_a_primary_is_away_and_says_so(
    three: Cluster, cli_server: EmbeddedServer, start: Start, namespace: str
) -> None:
    home, *_ = await three.primaries()
    for node in three.shard_of(home):
        await node.kill()
    where = ("--redis-url", three.url, "--namespace", namespace)
    worker = start("worker", "--rehearsal", "--json", *where, server=False, TAILRACE_QUEUE_URL=cli_server.tcp_url)
    await asyncio.to_thread(worker.wait_for, namespace)
    assert f"Redis, {home.address}: " in worker.err


async def test_purge_goes_on_without_a_primary_that_is_away_and_says_what_was_left(
    three: Cluster, cli_server: EmbeddedServer, namespace: str
) -> None:
    home, other, _ = await three.primaries()
    on_each = [next(await three.names_on(node, f"{namespace}-")) for node in (home, other)]
    settings = Settings(redis_url=three.url, queue_url=cli_server.tcp_url, namespace=namespace)
    async with AsyncTailrace(settings=settings) as tailrace:
        for job_id in on_each:
            await (await tailrace.submit("x", model="rehearsal", job_id=job_id)).cancel()
    for node in three.shard_of(home):
        await node.kill()
    ended = await ran(three, "purge", "jobs", "--all", "--yes", "--json", namespace=namespace)
    assert ended.code == ExitCode.BROKER
    assert ended.objects == [{"purged": "jobs", "found": 1, "removed": 1, "left": [home.address]}]
    assert home.address in ended.error["message"]
    told = await ran(three, "purge", "namespace", "--confirm", namespace, namespace=namespace)
    assert told.code == ExitCode.BROKER
    assert "keys removed" in told.out
    assert f"error: what {home.address} has was left" in told.err
    assert await other.redis.dbsize() == 0


async def test_a_job_of_another_primary_is_followed_to_its_end_while_one_is_away(
    three: Cluster, cli_server: EmbeddedServer, start: Start, namespace: str
) -> None:
    home, other, _ = await three.primaries()
    names = await three.names_on(other, f"{namespace}-")
    before, after = next(names), next(names)
    settings = Settings(redis_url=three.url, queue_url=cli_server.tcp_url, namespace=namespace)
    where = ("--redis-url", three.url, "--namespace", namespace)
    async with AsyncTailrace(settings=settings) as tailrace:
        jobs = [await tailrace.submit("x", model="rehearsal", job_id=job_id) for job_id in (before, after)]
        environment = {"TAILRACE_QUEUE_URL": cli_server.tcp_url}
        tails = [start("tail", before, "--records", *where, server=False, **environment)]
        await asyncio.to_thread(tails[0].wait_for, "digest")
        for node in three.shard_of(home):
            node.pause()
        tails.append(start("tail", after, "--records", *where, server=False, **environment))
        await asyncio.to_thread(tails[1].wait_for, "digest")
        for job in jobs:
            await job.cancel()
        for tail in tails:
            assert (await asyncio.to_thread(tail.ended)).code == ExitCode.CANCELLED
        for node in three.shard_of(home):
            node.resume()
