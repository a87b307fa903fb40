"""Cancelling and deleting: at every stage, in a race with the end, and with the word to the worker lost."""

import asyncio
import random
import signal
import time

import pytest
from fault_world import LEASE_S, World, world

from engine import wait_until
from tailrace import JobCancelled, JobNotFound, Status
from tailrace.joblog import End, seal

fast = pytest.mark.faults_fast


async def until_closed(w: World, *, within_s: float) -> None:
    """Wait until no upstream call is open."""
    await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 0, "every call is closed", timeout=within_s)


@pytest.mark.parametrize(
    "stage",
    [*(pytest.param(stage, marks=fast) for stage in ("queued", "asked", "running")), "delayed", "retrying", "ended"],
)
async def test_a_cancel_is_durable_at_every_stage(stage: str, chance: random.Random) -> None:
    # With a lease so long that it is the word that stops the call, not the look at the log once a lease.
    async with world(worker={"retry_delay_s": 30.0, "lease_s": 10.0}) as w:
        if stage != "queued":
            await w.start_worker()
        match stage:
            case "queued":
                job = await w.submit(tokens=3)
            case "delayed":
                job = await w.submit(tokens=3, delay=60.0)
            case "asked":
                job = await w.submit(tokens=3, ttft=60.0)
                await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 1)
            case "retrying":
                job = await w.submit(tokens=30, fault="cut", at=2, pace=0.01)
            case "running":
                job = await w.submit(tokens=10_000, pace=0.01)
            case _:
                job = await w.submit(tokens=3)
                await job.text()
        async with w.watching(job) as witness:
            if stage in ("running", "retrying"):
                await witness.until_chunks(2)
            if stage == "running":
                await witness.until_chunks(chance.randrange(2, 30))
            if stage == "retrying":
                await until_closed(w, within_s=5)
            began = time.monotonic()
            status = await job.cancel()
            await until_closed(w, within_s=1.0)
            assert time.monotonic() - began < 1.0, "the upstream call outlives the cancel"
        expected = Status.COMPLETED if stage == "ended" else Status.CANCELLED
        assert status is expected
        await witness.check(w.text(3) if stage == "ended" else None, status=expected)
        calls = w.calls
        if stage == "queued":
            await w.start_worker()
            assert await (await w.submit(tokens=1, prompt="next")).text(timeout=20) == w.text(1)
            assert [call.body["messages"][0]["content"] for call in w.rehearsal.calls] == ["next"]
        else:
            assert w.calls == calls == (0 if stage == "delayed" else 1)


async def test_a_cancel_whose_word_is_lost_reaches_a_silent_upstream_at_the_next_look() -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=3, ttft=60.0)
        await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 1)
        async with w.watching(job) as witness:
            await seal(w.tailrace.broker, w.tailrace.settings.keys, job.id, End(Status.CANCELLED))
            await until_closed(w, within_s=2 * LEASE_S + 1)
        await witness.check("", status=Status.CANCELLED)


@fast
async def test_a_hundred_races_between_cancel_and_end_have_one_winner_each(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        jobs = [await w.submit(tokens=20, pace=0.01, prompt=str(number)) for number in range(100)]

        async def race(number: int) -> Status:
            job = jobs[number]
            async with w.watching(job) as witness:
                await witness.until_chunks(1)
                await asyncio.sleep(chance.uniform(0.1, 0.3))
                status = await job.cancel()
            text = w.text(20)
            log = await witness.check(text if status is Status.COMPLETED else None, status=status)
            assert text.startswith(witness.shown)
            assert len([record for record in log if record.kind == "end"]) == 1
            assert await job.cancel() is await job.status() is status
            return status

        ends = await asyncio.gather(*[race(number) for number in range(100)])
        assert set(ends) <= {Status.COMPLETED, Status.CANCELLED}
        await until_closed(w, within_s=2)
        assert w.calls == 100


async def test_a_cancel_while_no_worker_lives_stands_when_one_comes(chance: random.Random) -> None:
    async with world() as w:
        first = await w.start_worker()
        job = await w.submit(tokens=10_000, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 30))
            first.kill()
            assert await job.cancel() is Status.CANCELLED
        await w.start_worker()
        assert await (await w.submit(tokens=1)).text(timeout=20) == w.text(1)
        await witness.check(None, status=Status.CANCELLED)
        assert w.calls == 2


@fast
async def test_a_deleted_job_stops_and_is_gone_for_everybody(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=10_000, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 30))
            await job.delete()
            await until_closed(w, within_s=1.0)
        assert {type(error) for error in witness.errors.values()} <= {JobCancelled, JobNotFound}
        for ask in (job.status(), job.text(), job.cancel(), job.delete()):
            with pytest.raises(JobNotFound):
                await ask


async def test_a_deleted_jobs_old_worker_writes_nothing_into_its_successor(chance: random.Random) -> None:
    async with world() as w:
        first = await w.start_worker()
        keys = w.tailrace.settings.keys
        old = await w.submit(job_id="again", retention=0.3, tokens=500, pace=0.01, prompt="old")
        async with w.watching(old) as witness:
            await witness.until_chunks(chance.randrange(1, 30))
            first.send(signal.SIGSTOP)
            await old.delete()

        async def free() -> bool:
            return not await w.redis.exists(keys.log("again"))

        await wait_until("the id is free again", free)
        new = await w.submit(job_id="again", text="nothing of the old one here", pace=0.02, prompt="new")
        async with w.watching(new) as witness:
            await w.start_worker()
            await witness.until_chunks(1)
            first.send(signal.SIGCONT)
        await witness.check("nothing of the old one here")
        assert [call.body["messages"][0]["content"] for call in w.rehearsal.calls] == ["old", "new"]
        await until_closed(w, within_s=5)
