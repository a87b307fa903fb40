"""Logs on a cluster: its primaries die, hang and come back, change places with their replicas.

Three primaries with a replica each, the queue on a server of its own.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from far_world import FAILOVER_S, LONG, UNTOUCHED_S, ClusterWorld, check, cluster_world, seen, submitted
from witness import Witness, resumes_truly

from engine import wait_until
from redis_nodes import Node, binaries
from tailrace import AsyncTailrace, BrokerUnavailable, JobCancelled, Status
from tailrace.client import AsyncJob
from tailrace.consumer import ear

fast = pytest.mark.faults_fast


async def on_all(w: ClusterWorld, count: int, **given: Any) -> dict[Node, list[AsyncJob]]:
    """So many jobs on each primary."""
    return {node: await w.submit_to(node, count, **given) for node in await w.cluster.primaries()}


def of(witnesses: Sequence[Witness], jobs: Sequence[AsyncJob]) -> list[Witness]:
    return [witness for witness in witnesses if witness.job.id in {job.id for job in jobs}]


@pytest.mark.parametrize("binary", binaries())
async def test_a_primary_killed_under_thirty_streams_costs_none_of_them_a_word(
    binary: str, chance: random.Random
) -> None:
    async with cluster_world(nodes={"binary": binary}) as w:
        worker = await w.start_worker()
        jobs = await on_all(w, 10, **LONG)
        (home, *_) = jobs
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            await home.kill()
            await w.cluster.wait_for_failover(home)
            await asyncio.sleep(chance.uniform(0, 1))
            await home.start()
        hit = of(witnesses, jobs[home])
        # Replication is asynchronous: its last records may be lost. They are written again, and readers are told.
        await check(w, hit, rewinds=True, silence_s=FAILOVER_S)
        await check(w, [witness for witness in witnesses if witness not in hit], silence_s=UNTOUCHED_S)
        assert w.calls == 30, "an upstream was asked again, although its worker lived"
        assert worker.returncode is None


@fast
async def test_the_streams_of_a_killed_primary_go_on_at_its_replica(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        (home, *_) = await w.cluster.primaries()
        job = (await w.submit_to(home, 1, **LONG))[0]
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            await home.kill()
        await witness.check(w.text(LONG["tokens"]), rewinds=True, silence_s=FAILOVER_S)
        assert w.calls == 1


@pytest.mark.parametrize("binary", binaries())
async def test_a_primary_that_wakes_up_after_its_replacement_is_not_believed(
    binary: str, chance: random.Random
) -> None:
    async with cluster_world(nodes={"binary": binary}) as w:
        await w.start_worker()
        jobs = await on_all(w, 4, **LONG)
        (home, *_) = jobs
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            hit = of(witnesses, jobs[home])
            await seen(witnesses, chance.randrange(1, 40))
            home.pause()
            heir = await w.cluster.wait_for_failover(home)
            if chance.random() < 0.5:
                await seen(hit, chance.randrange(1, 20))
            # What waited in its sockets is carried out, answered and told to its subscribers before it learns.
            home.resume()
            late = await w.submit_to(heir, 2, tokens=3)
        await check(w, hit, rewinds=True, silence_s=FAILOVER_S)
        await check(w, [witness for witness in witnesses if witness not in hit], silence_s=UNTOUCHED_S)
        for job in late:
            assert await job.text(timeout=20) == w.text(3)
        assert w.calls == 14


async def test_a_primary_that_hangs_for_less_than_the_timeout_delays_and_loses_nothing(chance: random.Random) -> None:
    async with cluster_world(nodes={"node_timeout_ms": 6000}) as w:
        await w.start_worker()
        jobs = await on_all(w, 3, **LONG)
        (home, *_) = jobs
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            home.pause()
            await asyncio.sleep(chance.uniform(0.5, 2.5))
            home.resume()
        await check(w, witnesses, silence_s=FAILOVER_S)
        assert (await w.cluster.primaries())[0] is home
        assert w.calls == 9


async def test_primaries_that_change_places_with_their_replicas_lose_nothing(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        jobs = await on_all(w, 3, **LONG)
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            for _ in range(3):
                await seen(witnesses, chance.randrange(1, 15))
                home = chance.choice(await w.cluster.primaries())
                await w.cluster.fail_over_to((await w.cluster.replicas_of(home))[0])
                await w.cluster.wait_until_ready()
        await check(w, witnesses, silence_s=UNTOUCHED_S)
        assert w.calls == 9


async def test_readers_resume_across_a_failover_from_where_they_stood(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        (home, *_) = await w.cluster.primaries()
        jobs = await w.submit_to(home, 5, **LONG)
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            await home.kill()
            stood = [(witness.chunks[-1][0], witness.shown) for witness in witnesses]
            await w.cluster.wait_for_failover(home)
            # Clients that never saw the old primary, and know two nodes of which one is dead.
            async with client_of(w, [home, *w.cluster.nodes[1:2]]) as newcomer:
                text = w.text(LONG["tokens"])
                await asyncio.gather(
                    *[
                        resumes_truly(newcomer, job, after, before, text)
                        for job, (after, before) in zip(jobs, stood, strict=True)
                    ]
                )
        await check(w, witnesses, rewinds=True, silence_s=FAILOVER_S)


async def cancelled(job: AsyncJob, *, within_s: float = 20.0) -> Status:
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await job.cancel()
            except BrokerUnavailable:
                await asyncio.sleep(0.1)


def client_of(w: ClusterWorld, some: Sequence[Node]) -> AsyncTailrace:
    settings = w.tailrace.settings.model_copy(update={"redis_url": w.cluster.url_of(some)})
    return AsyncTailrace(settings=settings)


async def test_submits_and_cancels_in_a_failover_are_carried_out_once_or_refused_by_name(
    chance: random.Random,
) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        (home, *_) = await w.cluster.primaries()
        running = await w.submit_to(home, 4, tokens=10_000, pace=0.03)
        ids = await w.ids_on(home, 8)
        async with w.watching_all(running) as witnesses:
            await seen(witnesses, chance.randrange(1, 20))
            await home.kill()
            began = time.monotonic()
            await asyncio.sleep(chance.uniform(0, 2))
            cancelling = [asyncio.create_task(cancelled(job)) for job in running]
            submitting = [asyncio.create_task(submitted(w, job_id, tokens=5)) for job_id in ids]
            assert set(await asyncio.gather(*cancelling)) == {Status.CANCELLED}
            jobs = await asyncio.gather(*submitting)
            assert time.monotonic() - began < FAILOVER_S
        for witness in witnesses:
            assert {type(error) for error in witness.errors.values()} == {JobCancelled}
            await witness.check(None, status=Status.CANCELLED, rewinds=True, silence_s=FAILOVER_S)
        for job in jobs:
            assert await job.text(timeout=20) == w.text(5)
        assert w.calls == 4 + len(jobs)
        await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 0, "the cancelled jobs' calls are closed")


@pytest.mark.parametrize("binary", binaries())
async def test_a_shard_that_is_gone_takes_its_own_jobs_along_and_no_others(
    binary: str, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a living reader waits for a server to come back: a minute, as it is.
    monkeypatch.setattr(ear, "PATIENCE_S", 6.0)
    async with cluster_world(nodes={"binary": binary, "replicas": 0}) as w:
        await w.start_worker()
        jobs = await on_all(w, 4, **LONG)
        gone, *others = jobs
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            lost = of(witnesses, jobs[gone])
            await seen(witnesses, chance.randrange(1, 40))
            await gone.kill()
            began = time.monotonic()
            (dead_id,) = await w.ids_on(gone, 1)
            for ask in (w.submit(job_id=dead_id, tokens=1), jobs[gone][0].status(), jobs[gone][0].cancel()):
                with pytest.raises(BrokerUnavailable):
                    await ask
            assert time.monotonic() - began < FAILOVER_S
            for node in others:
                (job,) = await w.submit_to(node, 1, tokens=5)
                assert await job.text(timeout=10) == w.text(5)
        for witness in lost:
            assert {type(error) for error in witness.errors.values()} == {BrokerUnavailable}
            assert len(witness.errors) == 2
        alive = [witness for witness in witnesses if witness not in lost]
        await check(w, alive, silence_s=UNTOUCHED_S)


async def test_a_shard_that_comes_back_late_goes_on_with_its_jobs(chance: random.Random) -> None:
    async with cluster_world(nodes={"replicas": 0}) as w:
        await w.start_worker()
        jobs = await on_all(w, 3, **LONG)
        (home, *_) = jobs
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            await home.kill()
            await asyncio.sleep(chance.uniform(2, 5))
            await home.start()
        hit = of(witnesses, jobs[home])
        # With its file: nothing is lost.
        await check(w, hit, silence_s=FAILOVER_S + 5)
        await check(w, [witness for witness in witnesses if witness not in hit], silence_s=UNTOUCHED_S)


async def test_a_cluster_that_refuses_as_a_whole_delays_and_loses_nothing(chance: random.Random) -> None:
    """CLUSTERDOWN everywhere: the servers' default where a shard has no primary."""
    async with cluster_world(nodes={"replicas": 0, "full_coverage": True}) as w:
        await w.start_worker()
        jobs = await on_all(w, 3, **LONG)
        home, other, _ = jobs
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            await home.kill()

            async def down() -> bool:
                return "cluster_state:fail" in await other.redis.execute_command("CLUSTER", "INFO")

            await wait_until("the cluster refuses", down, 15)
            with pytest.raises(BrokerUnavailable):
                await w.submit_to(other, 1, tokens=1)
            await home.start()
        await check(w, witnesses, silence_s=FAILOVER_S + 5)


async def test_a_worker_killed_in_a_failover_leaves_its_jobs_to_another(chance: random.Random) -> None:
    async with cluster_world() as w:
        first = await w.start_worker()
        jobs = await on_all(w, 3, **LONG)
        (home, *_) = jobs
        async with w.watching_all([job for some in jobs.values() for job in some]) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            await home.kill()
            await asyncio.sleep(chance.uniform(0, 3))
            first.kill()
            await w.start_worker()
        await check(w, witnesses, rewinds=True, silence_s=FAILOVER_S + 8)
        assert w.calls <= 18


async def test_every_job_that_a_killed_producer_had_accepted_on_a_cluster_is_run(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        producer = await w.start_client("submit", '{"tokens": 2}', "p")
        await producer.until(lambda lines: bool(lines), "submitting")
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        producer.kill()
        await producer.ended()
        accepted = [line.split()[1] for line in producer.lines if line.startswith("ok")]
        assert accepted
        for job_id in accepted:
            assert await w.tailrace.job(job_id).text(timeout=20) == w.text(2)
