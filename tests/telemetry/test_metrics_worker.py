"""The figures of a worker are those of its jobs."""

import asyncio
import json
import time
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from engine import Engine, engine, wait_until
from scraped import Scraped
from tailrace import JobCancelled, JobFailed
from tailrace.joblog import Broker, claim, read_whole
from tailrace.schemas import Entry
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Distribution
from tailrace.telemetry.metrics_exposition import Exposition
from tailrace.worker.app import Worker
from tailrace.worker.pauses import Pauses


def worker_of(e: Engine) -> Worker:
    assert e.worker is not None
    return e.worker


async def figures(worker: Worker) -> Scraped:
    body, _ = await Exposition([worker.counts], fleet=None, role="worker", namespace="n").scrape()
    return Scraped(body)


async def handed_off(e: Engine, count: int) -> None:
    async def all_are() -> bool:
        return bool(await e.redis.xlen(e.settings.keys.ended) == count)

    await wait_until("all are handed off", all_are)


async def test_every_job_is_counted_once_by_how_it_ended(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        good = [await e.tailrace.submit("x", model="rehearsal:tokens=7", max_tokens=99) for _ in range(3)]
        bad = [await e.tailrace.submit("x", model="rehearsal:fault=cut,at=2", max_attempts=2) for _ in range(2)]
        refused = await e.tailrace.submit("x", model="rehearsal:fault=status,code=401")
        long = await e.tailrace.submit("x", model="rehearsal:tokens=1000,pace=0.05")
        later = await e.tailrace.submit("x", model="rehearsal", delay=600)
        for job in (*good, *bad, refused):
            with suppress(JobFailed):
                await job.result(timeout=10)
        stream = long.stream()
        await anext(stream)
        assert (await figures(worker_of(e)))(told.JOBS_RUNNING) == 1
        await long.cancel()
        await later.cancel()  # no worker has had it: its end is found by the sweep
        with pytest.raises(JobCancelled):
            await long.result(timeout=10)
        await stream.aclose()
        await redis.zadd(e.settings.keys.open, {later.id: 0})
        await handed_off(e, 8)

        async def all_are_over() -> bool:
            seen = await figures(worker_of(e))
            # Who sweeps counts when its round is through.
            healed = seen(told.SWEEP_HEALED, finding="settled")
            return (seen(told.JOBS_ENDED), seen(told.JOBS_RUNNING), healed) == (8, 0, 1)

        await wait_until("the worker has counted them", all_are_over)
        seen = await figures(worker_of(e))
        assert seen(told.JOBS_ENDED, status="completed") == 3
        assert seen(told.JOBS_ENDED, status="failed") == 3
        assert seen(told.JOBS_ENDED, status="cancelled") == 2
        assert seen(told.JOBS_CLAIMED) == 7
        assert seen(told.ATTEMPTS, kind="first") == 7
        assert seen(told.ATTEMPTS, kind="again") == 2
        assert seen(told.UPSTREAM_REQUESTS, upstream="default") == 9
        assert seen(told.UPSTREAM_ERRORS, upstream="default", type="upstream_broken") == 4
        assert seen(told.UPSTREAM_ERRORS, upstream="default", type="upstream_auth") == 1
        assert seen(told.USAGE_TOKENS, kind="output") == 21
        assert seen("tailrace_job_wait_seconds_count") == 7
        assert seen("tailrace_job_duration_seconds_count") == 6
        assert seen("tailrace_first_token_seconds_count", upstream="default") == 8
        assert seen(told.JOBS_RUNNING) == 0
        assert seen(told.JOB_SLOTS) == e.settings.worker.max_jobs
        assert seen(told.UPSTREAM_STREAMS, upstream="default") == 0
        assert seen(told.HANDLER_ERRORS) == 0


async def test_records_and_characters_are_those_of_the_logs(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        appended: list[Entry] = []
        for tokens in (1, 5, 40):
            job = await e.tailrace.submit("x", model=f"rehearsal:tokens={tokens}")
            await job.text(timeout=10)
            log = await read_whole(Broker(redis), e.settings.keys, job.id)
            appended += [entry for entry in log if entry.field not in ("job", "attempt", "end")]
        seen = await figures(worker_of(e))
        assert seen(told.RECORDS) == len(appended)
        assert seen(told.CHARACTERS) == sum(len(entry.value) for entry in appended)
        assert seen(told.OUTPUT_CHUNKS) == len([entry for entry in appended if entry.field != "event"])
        assert 3 <= seen("tailrace_append_seconds_count") <= seen(told.APPENDS) <= len(appended)


@pytest.mark.parametrize(("differ_at", "rewinds"), [(2, 1), (9, 0)])
async def test_a_restart_is_a_rewind_where_it_differs(
    redis: Redis, namespace: str, differ_at: int, rewinds: int
) -> None:
    async with engine(redis, namespace) as e:
        script = f"rehearsal:tokens=12,fault=cut,at=5,times=1,seed_by=call,differ_at={differ_at}"
        job = await e.tailrace.submit("x", model=script)
        await job.text(timeout=10)
        seen = await figures(worker_of(e))
        assert seen(told.ATTEMPTS, kind="again") == 1
        assert seen(told.REWINDS) == rewinds


async def test_who_waits_for_a_place_at_an_upstream_is_told(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, upstream={"concurrency": 1}) as e:
        jobs = [await e.tailrace.submit("x", model="rehearsal:tokens=1000,pace=0.05") for _ in range(3)]
        worker = worker_of(e)

        async def places() -> tuple[float, float]:
            seen = await figures(worker)
            if not seen.has(told.UPSTREAM_WAITING):
                return 0, 0
            return seen(told.UPSTREAM_STREAMS, upstream="default"), seen(told.UPSTREAM_WAITING, upstream="default")

        async def one_has_it() -> bool:
            return await places() == (1, 2)

        async def nobody_waits() -> bool:
            return await places() == (0, 0)

        await wait_until("one has the place and two wait", one_has_it)
        seen = await figures(worker)
        assert seen(told.UPSTREAM_LIMIT, upstream="default") == 1
        assert seen("tailrace_upstream_wait_seconds_count", upstream="default") == 1
        for job in jobs:
            await job.cancel()
        await wait_until("nobody waits", nobody_waits)


async def test_an_unknown_upstream_does_not_get_a_label(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", model="rehearsal", upstream="invented-by-a-user")
        with pytest.raises(JobFailed):
            await job.result(timeout=10)
        seen = await figures(worker_of(e))
        assert seen(told.UPSTREAM_ERRORS, upstream="other", type="unknown_upstream") == 1
        assert "invented" not in json.dumps(seen.samples)


async def test_a_log_that_another_worker_has_claimed_is_a_fencing(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", model="rehearsal:tokens=200,pace=0.01", deadline=20)
        stream = job.stream()
        await anext(stream)
        incarnation = json.loads((await redis.xrange(e.settings.keys.log(job.id), count=1))[0][1][b"job"])[
            "incarnation"
        ]
        position = (await redis.xrevrange(e.settings.keys.log(job.id), count=1))[0][0].decode()
        await claim(
            Broker(redis), e.settings.keys, job.id, incarnation=incarnation, attempt=2, worker="thief",
            known_epoch=int(position.split("-")[0]),
        )  # fmt: skip

        async def fenced() -> bool:
            return (await figures(worker_of(e)))(told.REFUSALS, reason="fenced") >= 1

        await wait_until("the worker is fenced", fenced)
        await stream.aclose()
        await job.cancel()


async def test_neither_prompts_nor_ids_nor_models_are_told(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit(
            "sentinel-prompt", model="rehearsal:tokens=3", metadata={"m": "sentinel-meta"}, tags=["sentinel-tag"]
        )
        await job.text(timeout=10)
        body, _ = await Exposition([worker_of(e).counts], fleet=None, role="worker", namespace="n").scrape()
        assert b"sentinel" not in body
        assert job.id.encode() not in body
        assert b"rehearsal" not in body


def test_pauses_are_measured_from_one_append_of_a_stream_to_its_next() -> None:
    seen = Distribution((0.15, 1.5))
    pauses = Pauses(seen)
    quick, slow, gone = object(), object(), object()

    def flush(now: float, *writers: object) -> None:
        pauses.flushed(dict.fromkeys(writers), now)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # any object will do

    flush(0.0, quick, slow, gone)
    for tenth in range(1, 11):
        flush(tenth / 10, quick)
    pauses.forget(gone)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # as above
    flush(1.0, slow)
    flush(5.0, gone)
    # Who was seen is watched again from that flush on.
    assert seen.counts == [10, 1, 0]
    assert seen.total == pytest.approx(2.0)


async def test_the_loop_that_is_busy_says_so(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        asyncio.get_running_loop().call_soon(time.sleep, 0.05)
        assert (await figures(worker_of(e)))(told.EVENT_LOOP_DELAY) >= 0.05
