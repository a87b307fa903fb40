"""Workers that are killed, told to stop, stopped, blocked, or wrong about what they own."""

import random
import signal
from contextlib import AsyncExitStack

import pytest
from fault_world import LEASE_S, World, counts, world
from witness import chunks_of

from engine import wait_until
from tailrace import JobExpired, JobFailed, Status

fast = pytest.mark.faults_fast

#: DESIGN: the next attempt writes within 7 s of a kill -9 with a lease of 5 s; here the lease is 1 s.
RECOVERY_S = 2 + LEASE_S


@fast
async def test_a_killed_workers_job_goes_on_without_a_word_lost_or_doubled(chance: random.Random) -> None:
    async with world() as w:
        first = await w.start_worker()
        job = await w.submit(tokens=80, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 20))
            first.kill()
            await w.start_worker()
        await witness.check(w.text(80), silence_s=RECOVERY_S + 3)
        assert w.calls == len(witness.attempts) == 2


@fast
async def test_a_killed_workers_job_goes_on_in_its_queue_and_nowhere_else(chance: random.Random) -> None:
    async with world() as w:
        first = await w.start_worker(queues=["gpu"])
        other = await w.start_worker()
        job = await w.submit(tokens=80, pace=0.01, queue="gpu")
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 20))
            first.kill()
            keys = w.tailrace.settings.keys

            async def lease_is_over() -> bool:
                seconds, _ = await w.redis.time()
                score = await w.redis.zscore(keys.queue_of("gpu"), keys.queued(job.id))
                return score is not None and score < seconds * 1000

            await wait_until("anybody of its queue could take it", lease_is_over)
            # The other worker takes what is its own, has places free, and leaves it alone.
            assert await (await w.submit(tokens=1)).text() == w.text(1)
            heir = await w.start_worker(queues=["default", "gpu"])
        await witness.check(w.text(80))
        assert w.owner(witness) is heir is not other
        assert w.calls == len(witness.attempts) + 1 == 3


async def test_a_job_survives_two_kills_and_stays_within_its_attempts(chance: random.Random) -> None:
    async with world() as w:
        for _ in range(3):
            await w.start_worker()
        job = await w.submit(tokens=150, pace=0.01, max_attempts=3)
        async with w.watching(job) as witness:
            for attempt in (1, 2):
                await witness.until_attempt(attempt)
                await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 20))
                w.owner(witness).kill()
        await witness.check(w.text(150))
        assert w.calls == len(witness.attempts) == 3


@fast
async def test_a_new_attempt_that_goes_another_way_takes_back_what_does_not_stand(chance: random.Random) -> None:
    async with world() as w:
        first = await w.start_worker()
        differ_at = chance.randrange(0, 12)
        job = await w.submit(tokens=60, pace=0.01, seed_by="call", differ_at=differ_at)
        async with w.watching(job) as witness:
            await witness.until_chunks(15)
            first.kill()
            await w.start_worker()
        await witness.check(w.text(60, call=2, differ_at=differ_at), rewinds=True)
        assert len(witness.rewinds) == 1
        assert w.text(60).startswith(witness.rewinds[0].text_before)


@fast
async def test_a_worker_that_is_told_to_stop_ends_its_jobs_first(chance: random.Random) -> None:
    async with world() as w:
        first = await w.start_worker()
        job = await w.submit(tokens=60, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 20))
            first.send(signal.SIGTERM)
            await first.until(lambda lines: "draining" in lines, "draining")
            later = await w.submit(tokens=3)
            assert await first.ended() == 0
            assert await later.status() is Status.QUEUED, "a worker that drains takes no more jobs"
        await witness.check(w.text(60), silence_s=3)
        assert w.calls == 1
        await w.start_worker()
        assert await later.text(timeout=20) == w.text(3)


async def test_what_does_not_end_in_the_grace_is_handed_back_and_does_not_count(chance: random.Random) -> None:
    async with world() as w:
        for _ in range(2):
            await w.start_worker(drain_s=0.2)
        job = await w.submit(tokens=150, pace=0.01, max_attempts=1)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            first = w.owner(witness)
            first.send(signal.SIGTERM)
            assert await first.ended() == 0
        await witness.check(w.text(150), silence_s=5)
        assert w.calls == 2
        assert (await job.result()).attempts == 1


async def test_a_worker_stopped_past_its_lease_writes_nothing_when_it_wakes(chance: random.Random) -> None:
    async with world() as w:
        first = await w.start_worker()
        job = await w.submit(tokens=700, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            first.send(signal.SIGSTOP)
            await w.start_worker()
            await witness.until_attempt(2)
            await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 20))
            first.send(signal.SIGCONT)
            await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 1, "the first has closed its call")
        log = await witness.check(w.text(700))
        assert w.calls == len(witness.attempts) == 2
        assert w.rehearsal.calls[0].aborted
        assert chunks_of(log) == [f" token{n}" for n in range(700)]


async def take_from(w: World, job_id: str) -> None:
    """Make the queue forget that somebody has the job."""
    keys = w.tailrace.settings.keys
    await w.redis.delete(f"arq:in-progress:{keys.queued(job_id)}")
    await w.redis.zadd(keys.queue, {keys.queued(job_id): 1}, xx=True)
    await w.redis.lpush(keys.wake, "1")
    await w.redis.pexpire(keys.wake, 60_000)


async def test_of_two_workers_that_believe_to_own_a_job_only_one_writes(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        await w.start_worker()
        job = await w.submit(tokens=200, pace=0.01, max_attempts=9)
        async with w.watching(job) as witness:
            for _ in range(3):
                await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 10))
                await take_from(w, job.id)
        await witness.check(w.text(200))
        assert w.calls == len(witness.attempts) <= 4


async def test_a_blocked_event_loop_does_not_cost_the_job_its_lease(chance: random.Random) -> None:
    async with world() as w:
        for _ in range(2):
            await w.start_worker(env={"FAULTS_BLOCK_S": str(3 * LEASE_S)})
        job = await w.submit(tokens=100, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            w.owner(witness).send(signal.SIGUSR1)
        await witness.check(w.text(100), silence_s=3 * LEASE_S + 3)
        assert w.calls == 1


@fast
async def test_a_fleet_that_dies_leaves_readers_with_an_end_not_with_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.joblog.reading.GRACE_S", 0.5)
    async with world() as w:
        worker = await w.start_worker()
        job = await w.submit(tokens=10_000, pace=0.01, deadline=2.0)
        async with w.watching(job) as witness:
            await witness.until_chunks(5)
            worker.kill()
        await witness.check(None, status=Status.EXPIRED, silence_s=6.0)
        assert all(isinstance(error, JobExpired) for error in witness.errors.values())
        assert 0 <= witness.end.ts - witness.begun.deadline < 5000


async def test_a_job_that_kills_its_workers_fails_and_lets_the_others_pass() -> None:
    async with world() as w:
        poison = await w.submit(tokens=10_000, pace=0.01, max_attempts=2)
        async with w.watching(poison) as witness:
            for attempt in (1, 2):
                worker = await w.start_worker()
                await witness.until_attempt(attempt)
                await witness.until_chunks(len(witness.chunks) + 3)
                worker.kill()
            other = await w.submit(tokens=3)
            await w.start_worker()
            assert await other.text(timeout=20) == w.text(3)
        await witness.check(None, status=Status.FAILED)
        error = witness.errors["records"]
        assert isinstance(error, JobFailed)
        assert error.error.type == "attempts_exhausted"
        assert w.calls == 3


async def test_a_job_that_kills_its_workers_does_not_take_its_neighbours_with_it(chance: random.Random) -> None:
    """Whenever the poison runs, the process dies with all that is in it: three times, as often as each may be tried."""
    async with world() as w:
        poison = await w.submit(tokens=10_000, pace=0.01)
        others = [await w.submit(tokens=40, pace=0.02) for _ in range(6)]
        async with AsyncExitStack() as stack:
            witness = await stack.enter_async_context(w.watching(poison))
            beside = [await stack.enter_async_context(w.watching(other)) for other in others]
            for attempt in (1, 2, 3):
                worker = await w.start_worker()
                await witness.until_attempt(attempt)
                await witness.until_chunks(len(witness.chunks) + 1)
                if attempt < 3:
                    await wait_until("all run", lambda: w.rehearsal.open_streams == 7)
                worker.kill()
            await w.start_worker()
        assert [len(each.attempts) for each in beside] == [3] * 6
        for each in beside:
            await each.check(w.text(40), silence_s=20)
        await witness.check(None, status=Status.FAILED)
        error = witness.errors["records"]
        assert isinstance(error, JobFailed)
        assert error.error.type == "attempts_exhausted"


@pytest.mark.parametrize("off_s", [60, -60])
async def test_a_workers_clock_decides_nothing(off_s: int) -> None:
    async with world() as w:
        worker = await w.start_worker(env={"FAULTS_CLOCK_S": str(off_s)})
        job = await w.submit(tokens=50, pace=0.01, deadline=20.0)
        short = await w.submit(prompt="y", tokens=10_000, pace=0.01, deadline=1.5)
        async with w.watching(job) as witness, w.watching(short) as other:
            pass
        log = await witness.check(w.text(50))
        times = [ts for record in log if (ts := getattr(record, "ts", None)) is not None]
        assert max(times) - min(times) < 10_000, "a worker's own clock is in the log"
        await other.check(None, status=Status.EXPIRED)
        assert 1400 < other.end.ts - other.begun.ts < 5000
        assert counts(worker.said(), "WARNING") == 0
