"""Logs on a cluster whose slots move from one primary to another while their jobs run."""

import asyncio
import random
from contextlib import AsyncExitStack, aclosing

import pytest
from far_world import FAILOVER_S, LONG, UNTOUCHED_S, check, cluster_world, seen, submitted

from cluster_servers import slot_of
from tailrace.consumer import Consumer
from tailrace.joblog import connected_by
from tailrace.schemas import Entry

fast = pytest.mark.faults_fast


async def test_slots_that_move_while_jobs_run_lose_nothing(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        home, *others = await w.cluster.primaries()
        jobs = await w.submit_to(home, 4, **LONG)
        moving = [slot_of(job.id) for job in jobs[:3]]
        async with w.watching_all(jobs) as witnesses:
            for _ in range(3):
                for slot in moving:
                    await seen(witnesses, chance.randrange(1, 5))
                    source = await w.cluster.owner_of(slot)
                    target = chance.choice([node for node in (home, *others) if node is not source])
                    move = w.cluster.slot_move(slot, source, target)
                    await move.begin()
                    await asyncio.sleep(chance.uniform(0, 0.2))
                    await move.move_keys()
                    await asyncio.sleep(chance.uniform(0, 0.2))
                    await move.finish()
        await check(w, witnesses, silence_s=UNTOUCHED_S)
        assert w.calls == 4


@fast
async def test_a_job_whose_slot_is_half_moved_goes_on_and_ends(chance: random.Random) -> None:
    """Scripts on several of its keys are answered TRYAGAIN while one of them is not there. And nothing is heard live: the
    source has the subscribers, the target publishes. Readers look at the log every other second."""
    async with cluster_world() as w:
        await w.start_worker()
        home, other, _ = await w.cluster.primaries()
        job = (await w.submit_to(home, 1, **LONG))[0]
        move = w.cluster.slot_move(slot_of(job.id), home, other)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 30))
            await move.begin()
            await move.move_keys(w.tailrace.settings.keys.log(job.id))
            await witness.until_chunks(len(witness.chunks) + 20)
            # The request is still at the source.
            assert await move.move_keys() >= 1
            await witness.until_chunks(len(witness.chunks) + 20)
            await move.finish()
        await witness.check(w.text(LONG["tokens"]), silence_s=UNTOUCHED_S)
        assert w.calls == 1


async def test_a_reader_hears_a_job_live_wherever_it_goes(chance: random.Random) -> None:
    """Where a reader hears nothing any more, its looks at the log hide it: here there are none."""
    async with cluster_world() as w, AsyncExitStack() as stack:
        await w.start_worker()
        home, other, _ = await w.cluster.primaries()
        keys = w.tailrace.settings.keys
        broker = await stack.enter_async_context(connected_by(w.tailrace.settings))
        consumer = await stack.enter_async_context(Consumer(broker, keys, look_s=3600.0))
        job = (await w.submit_to(home, 1, **LONG))[0]
        text = await stack.enter_async_context(aclosing(consumer.follow(job.id)))

        async def heard(records: int) -> list[Entry]:
            entries: list[Entry] = []
            async with asyncio.timeout(FAILOVER_S):
                while len(entries) < records:
                    entries += (await anext(text)).entries
            return entries

        await heard(chance.randrange(3, 30))
        await w.cluster.move_slot(slot_of(job.id), other)
        await heard(20)
        await w.cluster.fail_over_to((await w.cluster.replicas_of(other))[0])
        await heard(20)
        await (await w.cluster.owner_of(slot_of(job.id))).kill()
        await heard(20)
        while (await heard(1))[-1].field != "end":
            pass


async def test_a_job_that_ends_while_its_slot_is_half_moved_is_told_as_ended(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        home, other, _ = await w.cluster.primaries()
        job = (await w.submit_to(home, 1, tokens=40, pace=0.03))[0]
        move = w.cluster.slot_move(slot_of(job.id), home, other)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 20))
            await move.begin()
            if chance.random() < 0.5:
                await move.move_keys(w.tailrace.settings.keys.log(job.id))
            await asyncio.sleep(chance.uniform(2, 4))
            await move.move_keys()
            await move.finish()
        await witness.check(w.text(40), silence_s=UNTOUCHED_S + 4)
        assert w.calls == 1


async def test_a_job_submitted_into_a_slot_that_is_moving_is_taken_or_refused_by_name(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        home, other, _ = await w.cluster.primaries()
        (job_id,) = await w.ids_on(home, 1)
        move = w.cluster.slot_move(slot_of(job_id), home, other)
        await move.begin()
        submitting = asyncio.create_task(submitted(w, job_id, tokens=5))
        await asyncio.sleep(chance.uniform(0, 1.5))
        await move.move_keys()
        await move.finish()
        assert await (await submitting).text(timeout=20) == w.text(5)
        assert w.calls == 1


async def test_a_slot_handed_over_at_once_loses_nothing(chance: random.Random) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        nodes = await w.cluster.primaries()
        if "valkey_version" not in await nodes[0].redis.info("server"):
            pytest.skip("this server has no CLUSTER MIGRATESLOTS")
        jobs = await w.submit_to(nodes[0], 3, **LONG)
        async with w.watching_all(jobs) as witnesses:
            for owner in (nodes[1], nodes[2], nodes[0]):
                await seen(witnesses, chance.randrange(1, 10))
                await w.cluster.hand_over(slot_of(jobs[0].id), owner)
        await check(w, witnesses, silence_s=UNTOUCHED_S)
        assert w.calls == 3
