"""doctor, a worker and purge with logs on a cluster and the queue on a server of its own."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from cli_runs import Ran, Start, run

from cluster_servers import Cluster, cluster
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
