"""One primary of the logs hangs or is dead, nobody stands in for it: the jobs of the others do not wait for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from cluster_servers import Cluster, cluster, slot_of
from engine import wait_until
from redis_nodes import Node
from tailrace import AsyncTailrace, BrokerUnavailable, JobCancelled, Settings, Status
from tailrace.cli.fleet import look_around
from tailrace.consumer.listing import Listing
from tailrace.gateway import create_app
from tailrace.joblog import APPEND
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.openai import AsyncOpenAI
from tailrace.producer import placing
from tailrace.producer.purging import Purger
from tailrace.worker.sweep import reopen_handed_off, sweep

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Who waits for a server that hangs waits for 15 s.
SOON_S = 6.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running() -> AsyncIterator[Cluster]:
    async with cluster(replicas=0, node_timeout_ms=1000) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def three(running: Cluster) -> AsyncIterator[Cluster]:
    """Three primaries without replicas, as new."""
    yield running
    await running.reset()


@pytest.fixture(scope="module")
def queue() -> Any:
    with EmbeddedServer(private=True) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def tailrace(three: Cluster, queue: EmbeddedServer, namespace: str) -> AsyncIterator[AsyncTailrace]:
    """A client that has talked to all servers."""
    settings = Settings(redis_url=three.url, queue_url=queue.tcp_url, namespace=namespace)
    async with AsyncTailrace(settings=settings) as made:
        for node in await three.primaries():
            await made.submit("x", model="rehearsal", job_id=next(await three.names_on(node, f"{namespace}-first-")))
        yield made


async def ids(three: Cluster, node: Node, prefix: str, count: int) -> list[str]:
    names = await three.names_on(node, prefix)
    return [next(names) for _ in range(count)]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Have ids drawn that are known beforehand; the list holds those that were not drawn yet."""

    def given(*wanted: str) -> list[str]:
        left = list(wanted)
        monkeypatch.setattr(placing, "new_job_id", lambda: left.pop(0))
        return left

    return given


async def test_jobs_submitted_together_are_queued_although_a_primary_hangs(
    three: Cluster, tailrace: AsyncTailrace, namespace: str
) -> None:
    home, other, third = await three.primaries()
    keys, queue = tailrace.settings.keys, tailrace.broker.queue
    there = [*await ids(three, other, f"{namespace}-a-", 3), *await ids(three, third, f"{namespace}-b-", 3)]
    (away,) = await ids(three, home, f"{namespace}-c-", 1)
    home.pause()
    submitting = asyncio.create_task(
        tailrace.submit_many([{"prompt": "x", "model": "rehearsal", "job_id": job_id} for job_id in (away, *there)])
    )

    async def queued() -> bool:
        return None not in await queue.many([("ZSCORE", keys.queue, keys.queued(job_id)) for job_id in there])

    await wait_until("the others' jobs are queued", queued, SOON_S)
    assert not submitting.done()
    home.resume()
    assert [job.id for job in await submitting] == [away, *there]


async def test_a_look_at_many_jobs_does_not_wait_long_for_one_that_hangs(
    three: Cluster, tailrace: AsyncTailrace, namespace: str
) -> None:
    home, other, _ = await three.primaries()
    logs = [
        tailrace.settings.keys.log(job_id)
        for node in (home, other)
        for job_id in await ids(three, node, f"{namespace}-first-", 1)
    ]
    commands = [("EXISTS", log) for log in logs]
    assert await tailrace.broker.many(commands) == [1, 1]
    home.pause()
    async with asyncio.timeout(SOON_S):
        away, there = await tailrace.broker.many(commands)
    assert isinstance(away, TimeoutError)
    assert there == 1
    # As long as it hangs nobody else waits.
    assert tailrace.broker.hangs(logs[0])
    async with asyncio.timeout(1):
        away, there = await tailrace.broker.many(commands)
    assert (isinstance(away, TimeoutError), there) == (True, 1)
    home.resume()

    async def back() -> bool:
        return await tailrace.broker.many(commands) == [1, 1]

    await wait_until("it answers again", back, SOON_S)


async def test_a_script_is_loaded_at_one_primary_without_asking_the_others(
    three: Cluster, tailrace: AsyncTailrace
) -> None:
    home, other, _ = await three.primaries()
    home.pause()
    async with asyncio.timeout(1):
        await tailrace.broker.load(APPEND, other.address)
    assert await other.redis.script_exists(tailrace.broker.form(APPEND).sha) == [True]


async def test_the_sweep_heals_jobs_of_the_others_while_a_primary_hangs(
    three: Cluster, tailrace: AsyncTailrace, namespace: str
) -> None:
    home, other, _ = await three.primaries()
    broker, keys = tailrace.broker, tailrace.settings.keys
    named = [await ids(three, node, f"{namespace}-s-", 3) for node in (home, other)]
    for job_id in (*named[0], *named[1]):
        await tailrace.submit("x", model="rehearsal", job_id=job_id)
    await broker.queue.call("DEL", keys.queue, keys.open)
    for job_id in (*named[0], *named[1]):
        await broker.queue.call("ZADD", keys.open, 1, job_id)
        await broker.queue.call("ZADD", keys.handed, 1, job_id)
    home.pause()
    async with asyncio.timeout(SOON_S):
        assert (await sweep(broker, keys)).queued == 3
        # Open logs that were handed off are put back into the index; those that hang are looked at again.
        assert await reopen_handed_off(broker, keys) == 0
        assert set(await broker.queue.call("ZRANGE", keys.handed, 0, -1)) == {name.encode() for name in named[0]}
        listed = await Listing(broker, keys, tailrace.consumer).open_jobs(50, lambda _: True)
        assert {each.job_id for each in listed.jobs} >= set(named[1])
        fleet = await look_around(broker, keys)
        assert fleet.memory


async def test_a_job_without_a_name_goes_where_it_is_taken(
    three: Cluster, tailrace: AsyncTailrace, namespace: str, draws: Callable[..., list[str]]
) -> None:
    home, other, _ = await three.primaries()
    dead = await ids(three, home, f"{namespace}-d", 3)
    alive = await ids(three, other, f"{namespace}-e", 3)
    await home.kill()
    left = draws(dead[0], *alive)
    job = await tailrace.submit("x", model="rehearsal")
    assert job.id == alive[0]
    keys = tailrace.settings.keys
    assert await tailrace.broker.queue.call("ZSCORE", keys.open, dead[0]) is None, "nothing is left of the first draw"
    # From now on it is known.
    left = draws(*dead[1:], alive[1])
    assert (await tailrace.submit("x", model="rehearsal")).id == alive[1]
    assert left == []
    with pytest.raises(BrokerUnavailable):
        await tailrace.submit("x", model="rehearsal", job_id=dead[0])
    left = draws(*dead[1:], alive[2])
    async with AsyncOpenAI(tailrace=tailrace, timeout=1.0, max_retries=0) as client:
        with pytest.raises(openai.APITimeoutError):  # no worker is there
            await client.chat.completions.create(model="rehearsal", messages=[{"role": "user", "content": "x"}])
    assert left == []
    assert await tailrace.job(alive[2]).status() is Status.QUEUED


async def test_a_job_that_may_have_been_stored_is_not_stored_under_another_id(
    three: Cluster, tailrace: AsyncTailrace, namespace: str, draws: Callable[..., list[str]]
) -> None:
    home, other, _ = await three.primaries()
    (lost,) = await ids(three, home, f"{namespace}-f", 1)
    left = draws(lost, *await ids(three, other, f"{namespace}-g", 1))
    home.pause()
    submitting = asyncio.create_task(tailrace.submit("x", model="rehearsal"))
    keys = tailrace.settings.keys

    async def admitted() -> bool:
        return await tailrace.broker.queue.call("ZSCORE", keys.open, lost) is not None

    await wait_until("the job is on its way", admitted)
    await wait_until("it was sent", lambda: not tailrace.broker.well(keys.log(lost)), SOON_S)
    await home.kill()
    with pytest.raises(BrokerUnavailable):
        await submitting
    assert len(left) == 1


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_PAUSES_S", (0.05, 0.05))


async def test_a_job_without_a_name_takes_another_slot_than_one_on_its_way(
    three: Cluster, tailrace: AsyncTailrace, namespace: str, draws: Callable[..., list[str]]
) -> None:
    home, other, _ = await three.primaries()
    moving, settled = await ids(three, home, f"{namespace}-h", 2)
    await three.slot_move(slot_of(moving), home, other).begin()
    draws(moving, settled, moving)
    assert (await tailrace.submit("x", model="rehearsal")).id == settled


async def test_a_job_with_a_name_waits_for_its_slot_and_is_told_what_to_do(
    three: Cluster, tailrace: AsyncTailrace, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other, _ = await three.primaries()
    (moving,) = await ids(three, home, f"{namespace}-i-", 1)
    move = three.slot_move(slot_of(moving), home, other)
    await move.begin()
    with monkeypatch.context() as patched:
        patched.setattr(placing, "_PAUSES_S", (0.01,))
        with pytest.raises(BrokerUnavailable, match="half-way: end it"):
            await tailrace.submit("x", model="rehearsal", job_id=moving)
    submitting = asyncio.create_task(tailrace.submit("x", model="rehearsal", job_id=moving))

    async def refused() -> bool:
        told = await home.redis.info("errorstats"), await other.redis.info("errorstats")
        return any("errorstat_TRYAGAIN" in each for each in told)

    await wait_until("it was refused", refused)
    await asyncio.wait([submitting], timeout=1.0)
    assert not submitting.done()
    await move.finish()
    assert (await submitting).id == moving


async def test_a_job_whose_slot_is_half_moved_is_cancelled_when_it_has_arrived(
    three: Cluster, tailrace: AsyncTailrace, namespace: str
) -> None:
    home, other, _ = await three.primaries()
    (moving,) = await ids(three, home, f"{namespace}-j-", 1)
    job = await tailrace.submit("x", model="rehearsal", job_id=moving)
    move = three.slot_move(slot_of(moving), home, other)
    await move.begin()
    await move.move_keys(tailrace.settings.keys.log(moving))
    cancelling = asyncio.create_task(job.cancel())
    await asyncio.wait([cancelling], timeout=1.0)
    assert not cancelling.done()
    await move.move_keys()
    await move.finish()
    assert (await cancelling).value == "cancelled"


async def test_purging_goes_on_without_a_primary_that_is_away(
    three: Cluster, tailrace: AsyncTailrace, namespace: str
) -> None:
    home, other, _ = await three.primaries()
    named = [await ids(three, node, f"{namespace}-p-", 3) for node in (home, other)]
    for job_id in (*named[0], *named[1]):
        await (await tailrace.submit("x", model="rehearsal", job_id=job_id)).cancel()
    purger = Purger(tailrace.broker, tailrace.settings.keys, tailrace.producer)
    await home.kill()
    async with asyncio.timeout(SOON_S):
        ended = [job_id async for job_id, _ in purger.ended_jobs(lambda _: True)]
    assert sorted(ended) == sorted(named[1])
    assert [await purger.delete(job_id) for job_id in (*named[1], named[0][0])] == [True, True, True, False]
    assert list(purger.left) == [home.address]
    counts = [count async for count in purger.whole_namespace(remove=True)]
    assert counts[-1] > 0
    assert await other.redis.dbsize() == 0
    await home.start()
    await three.wait_until_ready()
    await tailrace.broker.look_again()
    again = Purger(tailrace.broker, tailrace.settings.keys, tailrace.producer)
    assert [count async for count in again.whole_namespace(remove=True)][-1] > 0
    assert again.left == {}
    assert await home.redis.dbsize() == 0


@pytest.mark.parametrize("how", ["hangs", "is dead"])
async def test_readers_of_the_others_jobs_go_on_while_a_primary_is_away(
    three: Cluster, tailrace: AsyncTailrace, namespace: str, how: str
) -> None:
    home, other, _ = await three.primaries()
    app = create_app(tailrace=tailrace)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    (away,), some = await ids(three, home, f"{namespace}-r-", 1), await ids(three, other, f"{namespace}-r-", 3)
    jobs = [await tailrace.submit("x", model="rehearsal", job_id=job_id) for job_id in (away, *some)]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
    ):
        records = jobs[0].records()
        await anext(records)  # who has read nothing yet is refused
        patient = asyncio.create_task(_read(records))
        before = [asyncio.create_task(http.get(f"/v1/jobs/{job.id}/stream")) for job in jobs[1:]]
        here = asyncio.create_task(jobs[1].text())
        await wait_until("all are followed", lambda: tailrace.consumer.followed == len(jobs))
        if how == "hangs":
            home.pause()
        else:
            await home.kill()
        later = asyncio.create_task(http.get(f"/v1/jobs/{some[2]}/stream"))
        async with asyncio.timeout(SOON_S):
            listed = await http.get("/v1/jobs")
            assert {job["id"] for job in listed.json()["jobs"]} >= set(some)
            for job in jobs[1:]:
                await job.cancel()
            with pytest.raises(JobCancelled):
                await here
            for answer in await asyncio.gather(*before, later):
                assert "cancelled" in answer.text
        assert not patient.done()
        if how == "hangs":
            home.resume()
        else:
            await home.start()
        await wait_until("it is there again", lambda: _cancelled(jobs[0]), 20)
        with pytest.raises(JobCancelled):
            await patient


async def _read(records: AsyncIterator[Any]) -> None:
    async for _ in records:
        pass


async def _cancelled(job: Any) -> bool:
    try:
        return bool((await job.cancel()).value == "cancelled")
    except BrokerUnavailable:
        return False
