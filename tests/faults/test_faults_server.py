"""A Redis that is killed, comes back without its last second, hangs, is full, forgets its scripts, or refuses."""

import asyncio
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest
from fault_world import LEASE_S, World, counts, world
from redis.exceptions import ResponseError
from witness import resumes_truly, stand, text_of

from engine import wait_until
from tailrace import (
    BrokerUnsuitable,
    HistoryLost,
    JobFailed,
    JobNotFound,
    Status,
)
from tailrace.client import AsyncJob

fast = pytest.mark.faults_fast

EVERYSEC = {"appendonly": "yes", "appendfsync": "everysec"}
ALWAYS = {"appendonly": "yes", "appendfsync": "always"}
NONE = {"appendonly": "no"}


@pytest.mark.parametrize(
    "durability", [pytest.param(ALWAYS, id="always"), pytest.param(EVERYSEC, id="everysec", marks=fast)]
)
async def test_a_killed_server_with_an_aof_loses_nothing(durability: dict[str, str], chance: random.Random) -> None:
    async with world(server=durability) as w:
        worker = await w.start_worker()
        job, queued = await w.submit(tokens=120, pace=0.01), await w.submit(tokens=4, delay=2.0)
        async with w.watching(job) as witness, w.watching(queued) as other:
            await witness.until_chunks(chance.randrange(1, 40))
            await w.kill_server()
            await asyncio.sleep(chance.uniform(0, 1))
            await w.restart_server()
        log = await witness.check(w.text(120), silence_s=6)
        assert witness.records == log, "what readers had seen was lost"
        await other.check(w.text(4))
        assert w.calls <= 3
        assert counts(worker.said(), "WARNING") < 12, "one line each, not one a try"


async def test_a_killed_server_without_an_aof_forgets_and_says_so(chance: random.Random) -> None:
    async with world(server=NONE) as w:
        await w.start_worker()
        job, ended = await w.submit(tokens=10_000, pace=0.01), await w.submit(tokens=2)
        assert await ended.text() == w.text(2)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            await w.kill_server()
            await w.restart_server()
            began = time.monotonic()
        assert time.monotonic() - began < 10
        assert [type(error) for error in witness.errors.values()] == [JobNotFound] * 2
        assert "end" not in [record.kind for record in witness.records]
        for lost in (job, ended):
            for ask in (lost.status(), lost.text(), lost.cancel(), lost.delete()):
                with pytest.raises(JobNotFound):
                    await ask
        await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 0, "the lost job's call is closed")
        again = await w.submit(tokens=2)
        assert await again.text(timeout=20) == w.text(2)


@fast
async def test_a_server_that_lost_its_last_second_gets_it_written_again(chance: random.Random) -> None:
    async with world(server=EVERYSEC) as w:
        await w.start_worker()
        job = await w.submit(tokens=200, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 30))
            moment = w.aof_bytes()
            await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 60))
            before, (after, _) = witness.shown, witness.chunks[-1]
            await w.lose_since(moment, torn=chance.choice([0, chance.randrange(1, 200)]))
            await resumes_truly(w.tailrace, job, after, before, w.text(200))
        log = await witness.check(w.text(200), rewinds=True)
        assert len(log) < len(witness.records), "nothing was lost: the test tests nothing"
        assert len(witness.rewinds) <= 2
        assert w.calls <= 2


async def test_a_server_that_lost_two_seconds_one_after_the_other(chance: random.Random) -> None:
    async with world(server=EVERYSEC) as w:
        await w.start_worker()
        job = await w.submit(tokens=400, pace=0.01, max_attempts=9)
        async with w.watching(job) as witness:
            for _ in range(2):
                await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 30))
                moment = w.aof_bytes()
                await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 40))
                await w.lose_since(moment)
        await witness.check(w.text(400), rewinds=True)


async def test_a_lost_claim_is_claimed_anew(chance: random.Random) -> None:
    async with world(server=EVERYSEC) as w:
        job = await w.submit(tokens=150, pace=0.01)
        async with w.watching(job) as witness:
            moment = w.aof_bytes()
            await w.start_worker()
            await witness.until_chunks(chance.randrange(1, 60))
            await w.lose_since(moment)
        await witness.check(w.text(150), rewinds=True)
        assert w.calls <= 2


async def test_a_lost_submit_is_not_found_and_stops_its_upstream_call(chance: random.Random) -> None:
    async with world(server=EVERYSEC) as w:
        await w.start_worker()
        assert await (await w.submit(tokens=1)).text() == w.text(1)
        moment = w.aof_bytes()
        job = await w.submit(tokens=10_000, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            await w.lose_since(moment)
        assert [type(error) for error in witness.errors.values()] == [JobNotFound] * 2
        await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 0, "the lost job's call is closed")


async def test_a_lost_end_is_written_again(chance: random.Random) -> None:
    async with world(server=EVERYSEC) as w:
        await w.start_worker()
        job = await w.submit(tokens=60, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 50))
            moment = w.aof_bytes()
        await w.lose_since(moment)
        assert await job.text(timeout=30) == w.text(60)
        await witness.check(w.text(60), may_differ=True)
        late = [record async for record in job.records()]
        assert stand(late) == late
        assert text_of(late) == w.text(60)
        await resumes_truly(w.tailrace, job, witness.chunks[-1][0], witness.shown, w.text(60))
        assert w.calls == 2


async def test_a_lost_end_without_another_attempt_left_comes_back_as_failed(chance: random.Random) -> None:
    async with world(server=EVERYSEC) as w:
        await w.start_worker()
        job = await w.submit(tokens=60, pace=0.01, max_attempts=1)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 50))
            moment = w.aof_bytes()
        await w.lose_since(moment)
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=30)
        assert failed.value.error.type == "attempts_exhausted"
        stands = failed.value.result.text if failed.value.result else ""
        assert w.text(60).startswith(stands)
        assert stands != w.text(60)
        # Who saw the first end keeps it, and who resumes from what was lost is told.
        assert (witness.shown, witness.end.status, witness.errors) == (w.text(60), Status.COMPLETED, {})
        with pytest.raises(HistoryLost):
            await job.records(after=witness.chunks[-1][0]).__anext__()
        assert w.calls == 1


async def test_a_failover_to_a_replica_that_lags_takes_back_only_what_was_lost(chance: random.Random) -> None:
    async with world() as w:
        replica = await w.start_replica()
        await w.start_worker()
        job = await w.submit(tokens=250, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(5, 30))
            replica.link.hold()
            await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 60))
            await w.fail_over_to(replica)
        log = await witness.check(w.text(250), rewinds=True, silence_s=7)
        assert len(log) < len(witness.records), "nothing was lost: the test tests nothing"
        assert w.calls <= 2


async def test_an_end_that_a_failover_lost_is_written_again(chance: random.Random) -> None:
    async with world() as w:
        replica = await w.start_replica()
        await w.start_worker()
        job = await w.submit(tokens=60, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(5, 50))
            replica.link.hold()
        await w.fail_over_to(replica)
        assert await job.text(timeout=30) == w.text(60)
        await witness.check(w.text(60), may_differ=True)
        assert text_of(stand([record async for record in job.records()])) == w.text(60)
        assert w.calls == 2


async def test_a_server_that_hangs_for_five_seconds_keeps_every_promise(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        await w.start_worker()
        job = await w.submit(tokens=150, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            w.server.pause()
            await asyncio.sleep(5)
            w.server.resume()
        await witness.check(w.text(150), silence_s=10)
        assert w.calls == len(witness.attempts) <= 2


async def test_a_full_server_delays_refuses_new_jobs_and_still_takes_ends(chance: random.Random) -> None:
    async with world() as w:
        worker = await w.start_worker()
        job, other = await w.submit(tokens=200, pace=0.01), await w.submit(tokens=10_000, pace=0.01)
        async with w.watching(job) as witness, w.watching(other) as cancelled:
            await witness.until_chunks(chance.randrange(1, 40))
            await cancelled.until_chunks(1)
            await w.redis.config_set("maxmemory", "1mb")
            with pytest.raises(BrokerUnsuitable) as refused:
                await w.submit(tokens=1)
            assert "maxmemory" in refused.value.cure
            assert await other.cancel() is Status.CANCELLED
            await asyncio.sleep(2 * LEASE_S)
            await w.redis.config_set("maxmemory", "0")
        await witness.check(w.text(200), silence_s=6)
        await cancelled.check(None, status=Status.CANCELLED)
        assert w.calls <= 3
        assert counts(worker.said(), "WARNING tailrace.worker.lane") <= 1, "one line, not one a try"


@pytest.mark.parametrize("evicted", ["log", "request", "snapshot", "tombstone", "queue", "open"])
async def test_whatever_is_evicted_is_an_error_or_does_not_matter(evicted: str, chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        keys = w.tailrace.settings.keys
        running = evicted in {"log", "request", "queue", "open"}
        job = await w.submit(tokens=120 if running else 3, pace=0.01)
        names = {
            "log": keys.log(job.id),
            "request": keys.request(job.id),
            "snapshot": keys.snapshot(job.id),
            "tombstone": keys.log(job.id),
            "queue": keys.queue,
            "open": keys.open,
        }
        async with w.watching(job) as witness:
            if running:
                await witness.until_chunks(chance.randrange(1, 40))
                await w.redis.delete(names[evicted])
        if evicted == "log":
            assert [type(error) for error in witness.errors.values()] == [JobNotFound] * 2
            await w.rehearsal.wait_until(lambda: w.rehearsal.open_streams == 0, "its call is closed")
            return
        if not running:
            await settled(w, job)
            await w.redis.delete(names[evicted])
            if evicted == "snapshot":
                for ask in (job.text(timeout=10), job.status()):
                    with pytest.raises((JobNotFound, HistoryLost)):
                        await ask
                return
        await witness.check(w.text(120 if running else 3))


async def test_a_queued_job_whose_request_was_evicted_ends() -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=3, delay=1.0, deadline=30.0)
        async with w.watching(job) as witness:
            await w.redis.delete(w.tailrace.settings.keys.request(job.id))
        await witness.check("", status=Status.FAILED, silence_s=10)
        assert w.calls == 0


async def settled(w: World, job: AsyncJob) -> None:
    """Wait until the job's snapshot is written."""
    snapshot = w.tailrace.settings.keys.snapshot(job.id)
    await wait_until("the snapshot is written", lambda: w.redis.exists(snapshot))


async def test_a_server_that_evicts_gives_whole_answers_or_errors() -> None:
    async with world() as w:
        await w.start_worker()
        jobs = [await w.submit(tokens=40, prompt=str(number)) for number in range(30)]
        for job in jobs:
            assert await job.text(timeout=20) == w.text(40)
            await settled(w, job)
        logs = [w.tailrace.settings.keys.log(job.id) for job in jobs]
        used = int((await w.redis.info("memory"))["used_memory"])
        await w.redis.config_set("maxmemory-policy", "allkeys-random")
        await w.redis.config_set("maxmemory", str(used + 200_000))
        async with asyncio.timeout(20):
            while await w.redis.exists(*logs) > 20:
                with suppress(ResponseError):  # out of memory, until enough is evicted
                    await w.redis.set(f"filler{random.random()}", "x" * 10_000, px=60_000)
        whole, lost = 0, 0
        for job in jobs:
            try:
                assert await job.text(timeout=10) == w.text(40)
                whole += 1
            except (JobNotFound, HistoryLost):
                lost += 1
        assert lost > 0, "nothing was evicted: the test tests nothing"
        assert whole + lost == len(jobs)


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A file system of 8 MB that new temporary folders come into."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
        try:
            monkeypatch.setattr(tempfile, "tempdir", folder)
            yield Path(folder)
        finally:
            monkeypatch.undo()
            subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_delays_and_loses_nothing(
    small_disk: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as w:
        monkeypatch.setattr(tempfile, "tempdir", None)  # only the server is on the small disk
        worker = await w.start_worker()
        job, other = await w.submit(tokens=500, pace=0.01), await w.submit(tokens=3, delay=60.0)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            ballast = small_disk / "ballast"
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):  # noqa: PT012  # until it is full
                while True:
                    file.write(b"x" * 4096)

            async def full() -> bool:
                return bool((await w.redis.info("persistence"))["aof_last_write_status"] != "ok")

            await wait_until("the server has noticed", full)
            for ask in (w.submit(tokens=1), other.cancel()):
                with pytest.raises(BrokerUnsuitable):
                    await ask
            await asyncio.sleep(1)
            ballast.unlink()
        await witness.check(w.text(500), silence_s=10)
        assert counts(worker.said(), "WARNING tailrace.worker.lane") <= 1, "one line, not one a try"


@fast
async def test_a_flushed_script_cache_is_filled_again(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=100, pace=0.01)
        async with w.watching(job) as witness:
            for _ in range(5):
                await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 15))
                await w.redis.script_flush()
            other = await w.submit(tokens=2)
        await witness.check(w.text(100), silence_s=3)
        assert await other.text() == w.text(2)
        assert w.calls == 2
