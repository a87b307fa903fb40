"""The clusters that tests break things in: each method does what it says, on each server program that there is."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from cluster_servers import SLOTS, Cluster, cluster, slot_of
from engine import wait_until
from redis_nodes import Node, binaries
from tls_certificates import certificates

pytestmark = pytest.mark.asyncio(loop_scope="module")
TESTS = Path(__file__).parent.parent


def refused(code: str) -> Any:
    """What a client of one node gets: redis-py has classes for these in its client of clusters only."""
    return pytest.raises(ResponseError, match=f"^{code} ")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=binaries())
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    async with cluster(binary=request.param, node_timeout_ms=1000) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def three(running: Cluster) -> AsyncIterator[Cluster]:
    """Three primaries and a replica of each, as new."""
    yield running
    await running.reset()


async def test_all_slots_are_served_and_each_primary_has_a_replica_in_step(three: Cluster) -> None:
    primaries = await three.primaries()
    view = await three.seen_by(three.nodes[5])
    assert sorted(slot for node in primaries for slot in view[node.port].slots) == list(range(SLOTS))
    for node in primaries:
        (replica,) = await three.replicas_of(node)
        assert replica in three.shard_of(node)
        name = next(await three.names_on(node, "job"))
        assert await three.owner_of(f"x:{{{name}}}:log") is node
        await node.redis.set(f"x:{{{name}}}:log", "1")
        await node.redis.wait(1, 5000)
        with refused("MOVED"):
            await replica.redis.get(f"x:{{{name}}}:log")


async def test_a_stock_client_finds_its_way(three: Cluster) -> None:
    node = three.nodes[0]
    make: Any = RedisCluster
    async with make(host="127.0.0.1", port=node.port, password=three.password) as client:
        for number in range(20):
            await client.set(f"key{number}", number)
        assert len({await three.owner_of(f"key{number}") for number in range(20)}) == 3
        assert three.url.startswith(f"redis+cluster://:{three.password}@127.0.0.1:{node.port},127.0.0.1:")


async def test_a_replica_stands_in_for_a_killed_primary_which_comes_back_as_its_replica(three: Cluster) -> None:
    old = (await three.primaries())[0]
    name = next(await three.names_on(old, "job"))
    await old.redis.set(name, "kept")
    await old.redis.wait(1, 5000)
    await old.kill()
    assert not old.running
    new = await three.wait_for_failover(old)
    assert new is not old
    assert new in three.shard_of(old)
    assert await new.redis.get(name) == "kept"
    assert await three.owner_of(name) is new
    await old.start()
    await three.wait_until_ready()
    assert await three.replicas_of(new) == [old]


async def test_a_stopped_primary_is_replaced_and_learns_it_when_it_goes_on(three: Cluster) -> None:
    old = (await three.primaries())[1]
    name = next(await three.names_on(old, "job"))
    old.pause()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(old.redis.ping(), 0.05)
    new = await three.wait_for_failover(old)
    assert old.running
    old.resume()
    await three.wait_until_ready()
    with refused("MOVED"):
        await old.redis.set(name, "1")
    assert await three.replicas_of(new) == [old]


async def test_a_failover_by_hand_swaps_primary_and_replica(three: Cluster) -> None:
    old = (await three.primaries())[2]
    (replica,) = await three.replicas_of(old)
    await three.fail_over_to(replica)
    assert (await three.primaries())[2] is replica
    await three.wait_until_ready()
    assert await three.replicas_of(replica) == [old]


async def test_a_slot_moves_step_by_step(three: Cluster) -> None:
    source, target, _ = await three.primaries()
    name = next(await three.names_on(source, "job"))
    log, request, new = (f"x:{{{name}}}:{part}" for part in ("log", "job", "new"))
    for key in (log, request):
        await source.redis.set(key, key)
    move = three.slot_move(slot_of(name), source, target)

    await move.begin()
    assert await source.redis.mget(log, request) == [log, request]
    with refused("ASK"):
        await source.redis.get(new)
    with refused("MOVED"):
        await target.redis.get(log)

    assert await move.move_keys(log) == 1
    with refused("ASK"):
        await source.redis.get(log)
    with refused("TRYAGAIN"):
        await source.redis.mget(log, request)
    assert await source.redis.get(request) == request

    assert await move.move_keys() == 1
    with refused("ASK"):
        await source.redis.mget(log, request)

    await move.finish()
    with refused("MOVED"):
        await source.redis.get(log)
    assert await target.redis.mget(log, request) == [log, request]
    assert await three.owner_of(log) is target
    await three.wait_until_ready()


async def test_a_move_that_is_abandoned_leaves_everything_where_it_was(three: Cluster) -> None:
    source, target, _ = await three.primaries()
    name = next(await three.names_on(source, "job"))
    move = three.slot_move(slot_of(name), source, target)
    await move.begin()
    await move.abandon()
    assert await source.redis.get(name) is None
    assert await three.owner_of(name) is source


async def test_a_slot_moves_there_and_back_at_once(three: Cluster) -> None:
    source, target, _ = await three.primaries()
    name = next(await three.names_on(source, "job"))
    await source.redis.set(name, "1")
    for owner in (target, source):
        await three.move_slot(slot_of(name), owner)
        assert await owner.redis.get(name) == "1"
        assert await three.owner_of(name) is owner


async def test_a_slot_is_handed_over_in_one_step(three: Cluster) -> None:
    source, target, _ = await three.primaries()
    name = next(await three.names_on(source, "job"))
    await source.redis.set(name, "1")
    if "valkey_version" not in await source.redis.info("server"):
        pytest.skip("this server has no CLUSTER MIGRATESLOTS")
    await three.hand_over(slot_of(name), target)
    assert await target.redis.get(name) == "1"


async def test_reset_heals_everything(three: Cluster) -> None:
    first, second, third = await three.primaries()
    names = {node: next(await three.names_on(node, "job")) for node in (first, second, third)}
    for node, name in names.items():
        await node.redis.set(name, "1")
        await node.redis.eval("return 1", 1, name)
    await three.move_slot(slot_of(names[first]), third)
    await three.slot_move(slot_of(names[third]), third, first).begin()
    second.pause()
    await (await three.replicas_of(first))[0].kill()
    await three.reset()
    for node, name in names.items():
        owner = await three.owner_of(name)
        assert owner in three.shard_of(node)
        assert await owner.redis.get(name) is None
        assert (await owner.redis.set(name, "1"), await owner.redis.dbsize()) == (True, 1)
        assert len(await three.replicas_of(owner)) == 1


@pytest.mark.parametrize("full_coverage", [False, True])
async def test_what_a_shard_that_is_gone_takes_along_depends_on_full_coverage(full_coverage: bool) -> None:
    async with cluster(full_coverage=full_coverage, replicas=0, node_timeout_ms=500) as three:
        first, second, third = await three.primaries()
        name = next(await three.names_on(first, "job"))
        await second.kill()

        async def known() -> bool:
            views = [await three.seen_by(node) for node in (first, third)]
            return all("fail" in view[second.port].flags for view in views)

        await wait_until("the others know", known)
        if full_coverage:
            with refused("CLUSTERDOWN"):
                await first.redis.get(name)
        else:
            await first.redis.set(name, "1")


async def test_two_clusters_do_not_meet() -> None:
    async with cluster(replicas=0) as one, cluster(replicas=0) as other:
        ports = [node.port for made in (one, other) for node in made.nodes]
        assert len(set(ports)) == 6
        assert {*await one.seen_by(one.nodes[0])} == {node.port for node in one.nodes}
        assert one.password != other.password


async def test_nodes_speak_tls_only_and_are_known_by_name(tmp_path: Path) -> None:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("needs redis-server on PATH")
    made = certificates(tmp_path)
    async with cluster(binary=binary, tls=made) as three:
        first, second, _ = await three.primaries()
        name = next(await three.names_on(second, "job"))
        with refused("MOVED") as moved:
            await first.redis.get(name)
        assert str(moved.value).endswith(f"localhost:{second.port}")
        assert three.url.startswith("rediss+cluster://")
        assert f"@localhost:{first.port}," in three.url
        await three.move_slot(slot_of(name), first)
        await three.fail_over_to((await three.replicas_of(first))[0])


def processes_of(nodes: list[int]) -> set[int]:
    """Those of the processes that live, zombies of the system aside."""
    found = set[int]()
    for pid in nodes:
        with suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found.update({pid} if state != "Z" else ())
    return found


async def test_nothing_is_left_of_a_cluster() -> None:
    async with cluster(replicas=0) as three:
        folders = [node.folder for node in three.nodes]
        pids = [node.pid for node in three.nodes]
        three.nodes[0].pause()
        assert processes_of(pids) == set(pids)
    assert not processes_of(pids)
    assert not any(folder.parent.exists() for folder in folders)


@pytest.fixture
def owner_process() -> Generator["subprocess.Popen[str]"]:
    """A process with a cluster of its own; says its folder and the nodes' pids."""
    program = """
import asyncio, sys
from cluster_servers import cluster

async def main():
    async with cluster(replicas=0) as three:
        print(three.nodes[0].folder.parent, *[node.pid for node in three.nodes], flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(TESTS)}
    ) as process:
        yield process
        process.kill()


async def test_nothing_is_left_of_a_cluster_whose_owner_was_killed(owner_process: "subprocess.Popen[str]") -> None:
    assert owner_process.stdout is not None
    folder, *pids = (await asyncio.to_thread(owner_process.stdout.readline)).split()
    assert len(processes_of([int(pid) for pid in pids])) == 3
    os.kill(owner_process.pid, signal.SIGKILL)
    await wait_until("the nodes are gone", lambda: not processes_of([int(pid) for pid in pids]))
    await wait_until("their folder is gone", lambda: not Path(folder).exists())


async def test_a_node_that_does_not_start_says_why(three: Cluster) -> None:
    node: Node = three.nodes[4]
    await node.kill()
    (node.folder / "server.conf").rename(node.folder / "kept.conf")
    try:
        with pytest.raises(pytest.fail.Exception, match="did not start"):
            await node.start()
    finally:
        (node.folder / "kept.conf").rename(node.folder / "server.conf")
