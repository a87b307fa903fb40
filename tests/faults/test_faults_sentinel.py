"""The queue, the logs or both behind sentinels: their primary dies, hangs and comes back, is replaced by hand."""

import asyncio
import random
import time
from typing import Any

import pytest
from far_world import FAILOVER_S, LONG, SentinelWorld, seen, sentinel_world, submitted
from witness import resumes_truly

from engine import wait_until
from redis_nodes import Node
from tailrace import BrokerUnavailable, JobCancelled, JobNotFound, Status
from tailrace.client import AsyncJob

fast = pytest.mark.faults_fast

#: A lease on the queue may have run out meanwhile: another attempt says silently what stands, then goes on.
AGAIN_S = FAILOVER_S + LONG["tokens"] * LONG["pace"]


async def started(w: SentinelWorld, count: int, **given: Any) -> list[AsyncJob]:
    return [await w.submit(prompt=str(number), **{**LONG, **given}) for number in range(count)]


async def replicated(node: Node) -> None:
    """All that the primary has taken until now is at both replicas."""
    assert await node.redis.wait(2, 5000) == 2


@fast
async def test_a_queue_whose_primary_dies_loses_no_stream_and_no_waiting_job(chance: random.Random) -> None:
    async with sentinel_world(logs=False, queue=True) as w:
        worker = await w.start_worker()
        # That the queue was away, and its leases ran out, is no attempt of theirs: their worker lives.
        jobs = await started(w, 8, max_attempts=1)
        waiting = [await w.submit(prompt=f"later {number}", tokens=3, delay=3.0) for number in range(5)]
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            old = await w.sentinels.primary()
            await replicated(old)
            await old.kill()
            await w.sentinels.wait_for_failover(old)
            new = await submitted(w, "new", tokens=3)
        for witness in witnesses:
            await witness.check(w.text(240), silence_s=AGAIN_S)
        for job in (new, *waiting):
            assert await job.text(timeout=30) == w.text(3)
        # A lease that ran out meanwhile may have been another attempt's; none of them is asked for more than once again.
        assert w.calls <= 2 * 8 + 6
        assert worker.returncode is None


async def test_logs_whose_primary_dies_are_written_on_at_the_next_one(chance: random.Random) -> None:
    async with sentinel_world(logs=True, queue=False) as w:
        await w.start_worker()
        jobs = await started(w, 8)
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            old = await w.sentinels.primary()
            await old.kill()
        for witness in witnesses:
            await witness.check(w.text(240), rewinds=True, silence_s=FAILOVER_S)
        assert w.calls == 8


@fast
async def test_everything_behind_one_name_survives_its_primary(chance: random.Random) -> None:
    async with sentinel_world(logs=True, queue=True) as w:
        await w.start_worker()
        jobs = await started(w, 8, max_attempts=1)
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            old = await w.sentinels.primary()
            await old.kill()
            stood = [(witness.chunks[-1][0], witness.shown) for witness in witnesses]
            await w.sentinels.wait_for_failover(old)
            async with w.client() as newcomer:
                for job, (after, before) in zip(jobs[:3], stood, strict=False):
                    await resumes_truly(newcomer, job, after, before, w.text(240))
        for witness in witnesses:
            await witness.check(w.text(240), rewinds=True, silence_s=AGAIN_S)
        assert w.calls <= 16


async def test_a_primary_that_wakes_up_after_its_replacement_is_not_believed(chance: random.Random) -> None:
    """Sentinels leave it a primary for 8 s. With min-replicas-to-write it refuses, but for what waited in its sockets."""
    async with sentinel_world(logs=True, queue=True) as w:
        await w.start_worker()
        jobs = await started(w, 6)
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            old = await w.sentinels.primary()
            old.pause()
            await w.sentinels.wait_for_failover(old)
            await asyncio.sleep(chance.uniform(0, 1))
            old.resume()
            began = time.monotonic()
            late = [await submitted(w, f"late{number}", tokens=3) for number in range(5)]
            for job in late:
                try:
                    text = await job.text(timeout=30)
                except JobNotFound:
                    # Accepted by the old primary, in the second before everybody has left it: lost with what it had.
                    text = await (await submitted(w, job.id, tokens=3)).text(timeout=30)
                assert text == w.text(3)
            assert time.monotonic() - began < AGAIN_S
        for witness in witnesses:
            await witness.check(w.text(240), rewinds=True, silence_s=AGAIN_S)


async def test_jobs_submitted_to_a_queue_whose_old_primary_is_still_there_are_run(chance: random.Random) -> None:
    """After a failover by hand, too, the old primary goes on for 8 s, and nobody's connection to it is closed."""
    async with sentinel_world(logs=False, queue=True) as w:
        await w.start_worker()
        assert await (await w.submit(tokens=3)).text() == w.text(3)
        old = await w.sentinels.primary()
        await w.sentinels.fail_over()
        await asyncio.sleep(chance.uniform(0, 0.5))
        jobs = [await submitted(w, f"job{number}", tokens=3) for number in range(5)]
        assert await w.sentinels.primary() is not old
        for job in jobs:
            assert await job.text(timeout=30) == w.text(3)
        assert w.calls == 6


async def test_jobs_that_run_while_the_queues_primary_is_replaced_are_not_interrupted(chance: random.Random) -> None:
    """Their leases, longer than the change takes (1.2 s), are renewed where the next claim would look, also while the old
    primary still answers."""
    async with sentinel_world(logs=False, queue=True) as w:
        await w.start_worker(lease_s=3.0)
        jobs = await started(w, 8, max_attempts=1)
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            await w.sentinels.fail_over()
        for witness in witnesses:
            await witness.check(w.text(240), silence_s=1.0)
        assert w.calls == 8


async def test_cancels_in_a_failover_are_carried_out_or_refused_by_name(chance: random.Random) -> None:
    async with sentinel_world(logs=True, queue=True) as w:
        await w.start_worker()
        jobs = await started(w, 4, tokens=10_000)
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 20))
            old = await w.sentinels.primary()
            await old.kill()
            await asyncio.sleep(chance.uniform(0, 2))

            async def cancel(job: AsyncJob) -> Status:
                while True:
                    try:
                        return await job.cancel()
                    except BrokerUnavailable:
                        await asyncio.sleep(0.1)

            async with asyncio.timeout(FAILOVER_S):
                assert {await cancel(job) for job in jobs} == {Status.CANCELLED}
        for witness in witnesses:
            assert {type(error) for error in witness.errors.values()} == {JobCancelled}
            await witness.check(None, status=Status.CANCELLED, rewinds=True, silence_s=FAILOVER_S)
        await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 0, "the cancelled jobs' calls are closed")


async def test_a_primary_is_found_although_a_sentinel_is_gone(chance: random.Random) -> None:
    async with sentinel_world(logs=True, queue=True) as w:
        await w.sentinels.watchers[0].kill()
        await w.start_worker()
        jobs = await started(w, 3)
        async with w.watching_all(jobs) as witnesses:
            await seen(witnesses, chance.randrange(1, 30))
            old = await w.sentinels.primary()
            await old.kill()
            await w.sentinels.wait_for_failover(old)
            async with w.client() as newcomer:
                assert await (await submitted(w, "newcomer", client=newcomer, tokens=3)).text() == w.text(3)
        for witness in witnesses:
            await witness.check(w.text(240), rewinds=True, silence_s=AGAIN_S)


async def test_clients_are_told_soon_that_there_is_no_primary() -> None:
    async with sentinel_world(logs=True, queue=True, safe=False) as w:
        job = await w.submit(tokens=1)
        for node in w.sentinels.servers:
            await node.kill()
        began = time.monotonic()
        for ask in (w.submit(tokens=1), job.status(), job.text()):
            with pytest.raises(BrokerUnavailable):
                await ask
        assert time.monotonic() - began < 20
        await w.sentinels.servers[0].start()
        await w.start_worker()

        async def answered() -> bool:
            try:
                return await job.text(timeout=20) == w.text(1)
            except BrokerUnavailable:
                return False

        await wait_until("the job is carried out", answered, 40)
