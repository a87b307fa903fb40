"""The queue's server dies and comes back without its data, or with older ones; the logs are elsewhere, and stand."""

import asyncio
import random
import shutil
from pathlib import Path

import pytest
from far_world import FAILOVER_S, LONG, TwoServers, cluster_world, seen, two_servers

from engine import wait_until
from tailrace.client import AsyncJob

fast = pytest.mark.faults_fast

TOKENS, PACE = 200, 0.03
#: Found at a worker's next look at the queue, queued by the next sweep; then the text that stands is said again, silently.
FOUND_S = FAILOVER_S + TOKENS * PACE


async def ends(w: TwoServers) -> list[str]:
    """Whose ends the hand-off tells, each time that it does."""
    return [fields[b"job"].decode() for _, fields in await w.queue_redis.xrange(w.tailrace.settings.keys.ended)]


async def all_told(w: TwoServers, jobs: list[AsyncJob]) -> None:
    async def told() -> bool:
        return {job.id for job in jobs} <= set(await ends(w))

    await wait_until("every end is handed off", told, 30)


async def one_end(job: AsyncJob) -> None:
    records = [record async for record in job.records()]
    assert [record.kind for record in records].count("end") == 1


async def wiped(w: TwoServers, copy: Path | None = None) -> None:
    """The queue's server is killed and comes back with nothing, or with what it had at the time of a copy."""
    await asyncio.to_thread(w.queue_server.kill)
    data = w.queue_server.folder / "appendonlydir"
    await asyncio.to_thread(shutil.rmtree, data)
    if copy is not None:
        await asyncio.to_thread(shutil.copytree, copy, data)
    await asyncio.to_thread(w.queue_server.start)


async def copied(w: TwoServers, folder: Path) -> Path:
    """What the queue's server has now."""
    return Path(await asyncio.to_thread(shutil.copytree, w.queue_server.folder / "appendonlydir", folder / "copy"))


@fast
@pytest.mark.parametrize("back", ["empty", "older"])
async def test_a_queue_that_comes_back_without_its_jobs_is_told_of_them(
    back: str, chance: random.Random, tmp_path: Path
) -> None:
    async with two_servers() as w:
        await w.start_worker()
        await w.start_worker()
        early = await w.submit(tokens=3, prompt="early")
        assert await early.text(timeout=20) == w.text(3)
        await all_told(w, [early])
        copy = await copied(w, tmp_path) if back == "older" else None
        # Allowed one attempt only: that the queue's server went is no attempt of theirs.
        running = [await w.submit(prompt=f"running {n}", tokens=TOKENS, pace=PACE, max_attempts=1) for n in range(4)]
        delayed = [await w.submit(prompt=f"delayed {n}", tokens=3, delay=4.0) for n in range(3)]
        short = [await w.submit(prompt=f"short {n}", tokens=2) for n in range(3)]
        async with w.watching_all(running) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            for job in short:
                assert await job.text(timeout=20) == w.text(2)
            await all_told(w, short)
            await wiped(w, copy)
        for witness in witnesses:
            await witness.check(w.text(TOKENS), silence_s=FOUND_S)
        for job in delayed:
            assert await job.text(timeout=30) == w.text(3)
        everything = [early, *running, *delayed, *short]
        for job in everything:
            await one_end(job)
        await all_told(w, everything)
        keys = w.tailrace.settings.keys

        async def nothing_left() -> bool:
            return not await w.queue_redis.zcard(keys.open) and not await w.queue_redis.zcard(keys.queue)

        await wait_until("the queue and the index are empty", nothing_left, 20)
        told = await ends(w)
        if back == "older":
            assert told.count(early.id) == 1, "what had been told before the copy is not told again"
        # Nobody is asked a third time; short jobs are not asked again.
        assert w.calls <= 1 + 2 * 4 + 3 + 3


async def test_jobs_that_wait_for_a_worker_survive_a_queue_that_comes_back_empty() -> None:
    async with two_servers() as w:
        jobs = [await w.submit(prompt=f"{n}", tokens=2) for n in range(20)]
        await wiped(w)
        await w.start_worker()
        for job in jobs:
            assert await job.text(timeout=30) == w.text(2)
        await all_told(w, jobs)
        assert w.calls == 20


async def test_a_worker_killed_while_it_looks_through_the_logs_is_replaced(chance: random.Random) -> None:
    async with two_servers() as w:
        first = await w.start_worker()
        await w.start_worker()
        for job_id in range(3000):
            await w.redis.xadd(f"{w.namespace}:{{none{job_id}}}:log", {"job": "{}"}, id="0-1")
            await w.redis.xtrim(f"{w.namespace}:{{none{job_id}}}:log", maxlen=0)
            await w.redis.pexpire(f"{w.namespace}:{{none{job_id}}}:log", 60_000)
        jobs = [await w.submit(prompt=f"{n}", tokens=2, delay=3.0) for n in range(5)]
        await wiped(w)
        await asyncio.sleep(chance.uniform(0, 0.5))
        first.kill()
        for job in jobs:
            assert await job.text(timeout=60) == w.text(2)


async def test_jobs_on_a_cluster_survive_that_the_queue_comes_back_empty_while_a_primary_dies(
    chance: random.Random,
) -> None:
    async with cluster_world() as w:
        await w.start_worker()
        nodes = await w.cluster.primaries()
        running = [job for node in nodes for job in await w.submit_to(node, 2, **LONG, max_attempts=1)]
        delayed = [job for node in nodes for job in await w.submit_to(node, 2, tokens=2, delay=4.0)]
        async with w.watching_all(running) as witnesses:
            await seen(witnesses, chance.randrange(1, 40))
            await w.kill_server()
            shutil.rmtree(w.server.folder / "appendonlydir")
            await chance.choice(nodes).kill()
            await w.restart_server()
        for witness in witnesses:
            await witness.check(w.text(LONG["tokens"]), rewinds=True, silence_s=FOUND_S)
        for job in delayed:
            assert await job.text(timeout=40) == w.text(2)
            await one_end(job)
