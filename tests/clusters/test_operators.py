"""What operators ask is asked of every server: of each primary of the cluster with the logs, and of the queue's own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from cluster_servers import Cluster, cluster
from engine import wait_until
from redis_nodes import Node
from sentinel_servers import sentinels
from tailrace import AsyncTailrace, BrokerUnavailable, BrokerUnsuitable, Settings
from tailrace.cli.doctor_jobs import told
from tailrace.cli.fleet import look_around
from tailrace.gateway import create_app
from tailrace.joblog import Broker, connected, connected_by
from tailrace.joblog.all_servers import Servers, check_servers, clocks, require_servers
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.rights import ROLES, Role, rule
from tailrace.joblog.suitability import Finding
from tailrace.producer.purging import Purger
from tailrace.schemas import Keys
from tailrace.telemetry.metrics_fleet import Fleet
from tailrace.worker.sweep import sweep, sweep_report

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECURITY: Final = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
#: As a cell of a table has it.
PIPE: Final = r"\|"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster(node_timeout_ms=1000) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def three(running: Cluster) -> AsyncIterator[Cluster]:
    """Three primaries and a replica of each, as new."""
    yield running
    await running.reset()


@pytest.fixture(scope="module")
def queue() -> Any:
    """The queue's server."""
    with EmbeddedServer(private=True) as server:
        yield server


def settings_of(three: Cluster, queue: EmbeddedServer, namespace: str) -> Settings:
    return Settings(redis_url=three.url, queue_url=queue.tcp_url, namespace=namespace)


async def looked(three: Cluster, queue: EmbeddedServer, keys: Keys, **how: Any) -> Servers:
    async with connected(three.url, queue.tcp_url) as broker:
        return await check_servers(broker, keys, **how)


def at(servers: Servers, name: str) -> dict[str, Finding]:
    return {finding.code: finding for about, finding in servers if about == name}


async def lose(three: Cluster, node: Node) -> None:
    """The node and who could stand in for it are gone."""
    for each in three.shard_of(node):
        await each.kill()


async def test_a_cluster_in_order_has_nothing_to_complain_of_but_what_its_settings_say(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    servers = await looked(three, queue, Keys(namespace))
    primaries = [node.address for node in await three.primaries()]
    assert sorted(server.name for server in servers.each) == sorted([*primaries, "queue"])
    for name in primaries:
        found = at(servers, name)
        assert {code for code, finding in found.items() if finding.level != "ok"} <= {"aof", "pubsub-buffer"}
        assert "16384 of 16384 slots" in found["cluster-state"].what
        assert found["followed"].what == "1 replica can stand in for it"
        assert "cluster-node-timeout 1000 ms" in found["node-timeout"].what
        assert found["acl"].level == "ok"
    assert at(servers, "queue")["cluster"].what == "one server, no cluster"
    assert {finding.level for finding in servers.together} == {"ok"}
    assert servers.error() is None


async def test_a_look_leaves_no_key_behind_on_any_server(three: Cluster, queue: EmbeddedServer, namespace: str) -> None:
    await looked(three, queue, Keys(namespace))
    assert [await node.redis.dbsize() for node in await three.primaries()] == [0, 0, 0]
    async with connected(queue.tcp_url) as broker:
        left: Any = broker.redis
        assert [name async for name in left.scan_iter(f"*{namespace}*")] == []


async def test_a_primary_that_is_away_is_told_of_and_the_others_are_looked_at(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    home, *others = await three.primaries()
    async with connected(three.url, queue.tcp_url) as broker:
        await broker.look_again()
        await lose(three, home)
        servers = await check_servers(broker, Keys(namespace))
        assert [server.name for server in servers.each if server.away] == [home.address]
        assert "TAILRACE_REDIS_URL" in at(servers, home.address)["unavailable"].cure
        for other in others:
            assert at(servers, other.address)["acl"].level == "ok"
        assert servers.error() is None, "the others' jobs can be done"

        async def noticed() -> bool:
            told = at(await check_servers(broker, Keys(namespace)), others[0].address)
            return "cluster-slots" in told or told["cluster-state"].level == "error"

        await wait_until("the others say that slots are missing", noticed)


async def test_a_primary_that_hangs_keeps_nobody_from_hearing_of_the_others(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    home, *_ = await three.primaries()
    async with connected(three.url, queue.tcp_url) as broker:
        await broker.look_again()
        for node in three.shard_of(home):
            node.pause()
        servers = await check_servers(broker, Keys(namespace), patience_s=0.5)
    assert at(servers, home.address)["unavailable"].what == "the server has not answered within 0.5 s"
    assert [server.name for server in servers.each if server.away] == [home.address]


async def test_a_worker_starts_without_one_primary_and_not_without_all_or_without_the_queue(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    home, *others = await three.primaries()
    async with connected(three.url, queue.tcp_url) as broker, connected(three.url, "redis://127.0.0.1:1") as alone:
        await broker.look_again()
        with pytest.raises(BrokerUnavailable, match=r"^queue: "):
            await require_servers(alone, Keys(namespace))
        await lose(three, home)
        assert at(await require_servers(broker, Keys(namespace)), home.address)["unavailable"].level == "error"
        for other in others:
            await lose(three, other)
        with pytest.raises(BrokerUnavailable, match=r"^127\.0\.0\.1:"):
            await require_servers(broker, Keys(namespace))


async def test_what_somebody_must_change_on_one_node_stops_a_worker(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    node = (await three.primaries())[1]
    await node.redis.config_set("maxmemory", "100mb")
    await node.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with connected(three.url, queue.tcp_url) as broker:
            with pytest.raises(BrokerUnsuitable, match=f"^{node.address}: .*allkeys-lru"):
                await require_servers(broker, Keys(namespace))
    finally:
        await node.redis.config_set("maxmemory-policy", "noeviction")
        await node.redis.config_set("maxmemory", "0")


async def test_a_primary_without_a_replica_and_a_long_node_timeout_are_warnings(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    home, *_ = await three.primaries()
    (replica,) = await three.replicas_of(home)
    await replica.kill()

    async def lonely() -> bool:
        return bool((await home.redis.info("replication"))["connected_slaves"] == 0)

    await wait_until("the primary knows", lonely)
    await home.redis.config_set("cluster-node-timeout", "20000")
    try:
        found = at(await looked(three, queue, Keys(namespace)), home.address)
    finally:
        await home.redis.config_set("cluster-node-timeout", "1000")
    assert (found["no-replica"].level, found["node-timeout"].level) == ("warning", "warning")


@pytest.mark.parametrize("named", ["all", "logs", "queue"])
async def test_a_node_of_a_cluster_that_is_not_named_as_one_is_an_error_with_the_cure(
    three: Cluster, queue: EmbeddedServer, namespace: str, named: str
) -> None:
    node = three.url.replace("redis+cluster", "redis").partition(",")[0]
    where = {"all": (node, None), "logs": (node, queue.tcp_url), "queue": (queue.tcp_url, node)}[named]
    async with connected(*where) as broker:
        with pytest.raises(BrokerUnsuitable, match="cluster mode") as caught:
            await require_servers(broker, Keys(namespace))
    wanted = {
        "all": {"redis+cluster://", "TAILRACE_QUEUE_URL"},
        "logs": {"redis+cluster://"},
        "queue": {"TAILRACE_QUEUE_URL"},
    }[named]
    assert all(word in caught.value.cure for word in wanted)


async def test_a_server_that_is_no_cluster_but_named_as_one_is_an_error_with_the_cure(
    queue: EmbeddedServer, namespace: str
) -> None:
    async with connected(queue.tcp_url.replace("redis:", "redis+cluster:"), queue.url) as broker:
        with pytest.raises(BrokerUnsuitable, match="no node of a cluster") as caught:
            await require_servers(broker, Keys(namespace))
    assert "redis://" in caught.value.cure


@pytest.mark.parametrize("role", ROLES)
async def test_the_page_names_the_rights_that_nodes_of_a_cluster_ask_for(role: Role) -> None:
    (row,) = [line for line in SECURITY.splitlines() if line.startswith(f"| {role} | `+cluster")]
    more = rule(role, Keys(), cluster=True).removeprefix(rule(role, Keys())).strip()
    assert row == f"| {role} | `{more.replace('|', PIPE)}` |"


@pytest.mark.parametrize("role", ROLES)
async def test_the_rights_of_a_role_are_enough_for_it_on_each_server_and_no_more(
    three: Cluster, queue: EmbeddedServer, namespace: str, role: Role
) -> None:
    keys = Keys(namespace)
    async with connected(queue.tcp_url) as admin:
        for redis in (admin.redis, *(node.redis for node in three.nodes)):
            words = rule(role, keys, cluster=redis is not admin.redis).split()
            asked: Any = redis
            await asked.execute_command("ACL", "SETUSER", role, "reset", "on", f">{role}-pw", *words)
        login = f"://{role}:{role}-pw@"
        place = queue.tcp_url.rpartition("@")[2]
        async with connected(three.url.replace(f"://:{three.password}@", login), f"redis{login}{place}") as user:
            servers = await check_servers(user, keys, role=role)
            for server in servers.each:
                assert at(servers, server.name)["acl"].level == "ok", at(servers, server.name)["acl"]
            more = {each for each in ROLES[: ROLES.index(role)] if _may(await check_servers(user, keys, role=each))}
        assert more == set()
        for redis in (admin.redis, *(node.redis for node in three.nodes)):
            asked = redis
            await asked.execute_command("ACL", "DELUSER", role)


def _may(servers: Servers) -> bool:
    return all(finding.level == "ok" for _, finding in servers if finding.code == "acl")


async def test_a_user_without_the_rights_for_a_cluster_is_told_them(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    keys = Keys(namespace)
    for node in three.nodes:
        await node.redis.execute_command(
            "ACL", "SETUSER", "old", "reset", "on", ">old", *rule("consumer", keys).split()
        )
    url = three.url.replace(f"://:{three.password}@", "://old:old@")
    async with connected(url, queue.tcp_url) as broker:
        servers = await check_servers(broker, keys, role="consumer")
    for server in servers.each:
        if server.holds == "logs":
            found = at(servers, server.name)["acl"]
            assert found.level == "error"
            assert all(each in found.what for each in ("CLUSTER", "SSUBSCRIBE"))
            assert "+ssubscribe" in found.cure
            assert "+cluster|slots" in found.cure
    for node in three.nodes:
        await node.redis.execute_command("ACL", "DELUSER", "old")


async def test_clocks_that_are_further_apart_than_half_the_grace_are_a_warning() -> None:
    assert clocks({"a:1": 0.0, "b:1": -0.2, "queue": 0.3}).level == "ok"
    told = clocks({"a:1": 0.0, "b:1": -16.0, "queue": 0.3})
    assert told.level == "warning"
    assert told.what.startswith("the clock of queue is 16.300 s ahead of that of b:1")


async def test_a_gateway_is_ready_while_the_queue_and_any_primary_answer(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    home, *others = await three.primaries()
    async with AsyncTailrace(settings=settings_of(three, queue, namespace)) as tailrace:
        app = create_app(tailrace=tailrace)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        ):
            assert (await http.get("/readyz")).status_code == 200
            await lose(three, home)
            assert (await http.get("/readyz")).status_code == 200
            for other in others:
                await lose(three, other)
            assert (await http.get("/readyz")).status_code == 503


async def test_purging_removes_from_every_primary_and_the_queue(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    async with AsyncTailrace(settings=settings_of(three, queue, namespace)) as tailrace:
        jobs = [await tailrace.submit("x", model="rehearsal") for _ in range(24)]
        for job in jobs[:12]:
            await job.cancel()
        purger = Purger(tailrace.broker, tailrace.settings.keys, tailrace.producer)
        ended = [job_id async for job_id, _ in purger.ended_jobs(lambda _: True)]
        assert sorted(ended) == sorted(job.id for job in jobs[:12])
        assert all([await node.redis.dbsize() for node in await three.primaries()]), "jobs are on all of them"
        counts = [count async for count in purger.whole_namespace(remove=False)]
        assert [count async for count in purger.whole_namespace(remove=True)][-1] == counts[-1] > 48
        assert [await node.redis.dbsize() for node in await three.primaries()] == [0, 0, 0]
        left: Any = tailrace.broker.queue.redis
        assert [name async for name in left.scan_iter(f"*{namespace}*")] == []


async def test_metrics_tell_of_each_primary_by_its_address(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    home, *others = await three.primaries()
    async with connected_by(settings_of(three, queue, namespace)) as broker:
        seen = await _up(broker, namespace)
        assert seen == {**{node.address: 1.0 for node in (home, *others)}, "queue": 1.0}
        await lose(three, home)
        seen = await _up(broker, namespace)
        assert seen == {home.address: 0.0, **{node.address: 1.0 for node in others}, "queue": 1.0}


async def _up(broker: Broker, namespace: str) -> dict[str, Any]:
    samples = await Fleet(broker, Keys(namespace), lease_s=5).read()
    memory = {sample.labels for sample in samples if sample.metric.name == "tailrace_redis_memory_used_bytes"}
    up = {sample.labels[0]: sample.value for sample in samples if sample.metric.name == "tailrace_redis_up"}
    assert memory == {(name,) for name, answers in up.items() if answers}
    return up


async def test_a_queue_behind_sentinels_is_told_to_refuse_once_it_was_replaced(namespace: str) -> None:
    async with sentinels() as s:
        primary: Any = (await s.primary()).redis
        async with connected(s.url) as broker:

            async def said() -> Finding:
                return at(await check_servers(broker, Keys(namespace)), "server")["old-primary"]

            await primary.config_set("min-replicas-to-write", "0")
            found = await said()
            assert found.level == "warning"
            assert "min-replicas-to-write 1 and min-replicas-max-lag 2" in found.cure
            await primary.config_set("min-replicas-to-write", "1")
            await primary.config_set("min-replicas-max-lag", "10")
            assert "min-replicas-max-lag 10" in (await said()).what
            await primary.config_set("min-replicas-max-lag", "2")
            assert (await said()).level == "ok"
            await (await s.replicas())[0].kill()

            async def lonely() -> bool:
                return (await said()).cure == "have 2 replicas"

            await wait_until("one replica is too few", lonely)


async def test_the_sweep_heals_jobs_of_other_primaries_while_one_is_away(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    home, other, *_ = await three.primaries()
    async with AsyncTailrace(settings=settings_of(three, queue, namespace)) as tailrace:
        broker, keys = tailrace.broker, tailrace.settings.keys
        names = [await three.names_on(node, f"{namespace}-") for node in (home, other)]
        on_each = [[next(some) for _ in range(3)] for some in names]
        for job_id in (job_id for some in on_each for job_id in some):
            await tailrace.submit("x", model="rehearsal", job_id=job_id)
        # The queue has lost them all, and their checks are due.
        await broker.queue.call("DEL", keys.queue)
        await _all_due(broker, keys)
        await lose(three, home)
        swept = await sweep(broker, keys)
        assert (swept.checked, swept.queued, swept.skipped) == (6, 3, 0)
        report = await sweep_report(broker, keys)
        assert (report.open, report.checked, report.away) == (6, 3, 3)
        told_of = {finding.code: finding.what for finding in told(report)}
        assert told_of["out-of-reach"].startswith("3 jobs")
        assert "foreign" not in told_of
        # Those of the dead one alone are no reason to stop either.
        await broker.queue.call("ZREM", keys.open, *on_each[1])
        await _all_due(broker, keys)
        assert (await sweep(broker, keys)).healed == {}


async def _all_due(broker: Broker, keys: Keys) -> None:
    for job_id in await broker.queue.call("ZRANGE", keys.open, 0, -1):
        await broker.queue.call("ZADD", keys.open, "XX", 1, job_id)


async def test_the_memory_of_all_primaries_is_shown_together(
    three: Cluster, queue: EmbeddedServer, namespace: str
) -> None:
    async with connected_by(settings_of(three, queue, namespace)) as broker:
        fleet = await look_around(broker, Keys(namespace))
        each = [(await node.redis.info("memory"))["used_memory"] for node in await three.primaries()]
        assert fleet.memory is not None
        assert fleet.memory > 2 * max(each)
