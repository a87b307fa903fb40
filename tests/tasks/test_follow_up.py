"""`then=`: a task is started with the result of a job that ended well, once, whoever sees it end."""

from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from engine import Engine, engine, running_worker, wait_until
from tailrace import App, AsyncJob, Context, InvalidRequest, JobConflict, JobFailed, JobNotFound, Result, Status
from tailrace.client.jobs import JobsOf
from tailrace.joblog import End, seal
from tailrace.schemas import JobRecord, follow_up_id


def indexer(seen: list[Result]) -> App:
    app = App()

    @app.task
    async def index(ctx: Context, result: Result) -> str:
        seen.append(result)
        return f"{len(result.text)} characters"

    return app


async def started(e: Engine, job_id: str) -> AsyncJob:
    """The follow-up: it is started moments after the end of the job before it."""
    job = e.tailrace.job(job_id)

    async def is_there() -> bool:
        try:
            await job.status()
        except JobNotFound:
            return False
        return True

    await wait_until("the follow-up is started", is_there)
    return job


async def test_a_follow_up_gets_the_result(redis: Redis, namespace: str) -> None:
    seen: list[Result] = []
    async with engine(redis, namespace, app=indexer(seen)) as e:
        job = await e.tailrace.submit(
            "x", then="index", tags=["a"], metadata={"user": 7}, params={"rehearsal": {"text": "done"}}
        )
        result = await job.result(timeout=10)
        assert result.follow_up is not None
        after = await (await started(e, result.follow_up)).result(timeout=10)
        assert after.text == "4 characters"
        assert (after.metadata, after.tags) == ({"user": 7}, ["a"])
        assert [each.text for each in seen] == ["done"]
        assert seen[0].job_id == job.id


async def test_what_fails_has_no_follow_up(redis: Redis, namespace: str) -> None:
    seen: list[Result] = []
    async with engine(redis, namespace, app=indexer(seen)) as e:
        job = await e.tailrace.submit("x", then="index", params={"rehearsal": {"fault": "status", "code": 400}})
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=10)
        assert failed.value.result is not None
        assert failed.value.result.follow_up is None
        async with aclosing(job.records()) as records:
            first = await anext(records)
        assert isinstance(first, JobRecord)
        not_started = e.tailrace.job(follow_up_id(first.incarnation, job.id))
        await wait_until("it is settled", lambda: redis.exists(e.settings.keys.snapshot(job.id)))
        with pytest.raises(JobNotFound):
            await not_started.status()


async def test_an_end_that_nobody_has_seen_to_is_followed_up_once(redis: Redis, namespace: str) -> None:
    seen: list[Result] = []
    async with engine(redis, namespace, with_worker=False) as e:
        job = await e.tailrace.submit("x", then="index")
        await seal(e.tailrace.broker, e.settings.keys, job.id, End(Status.COMPLETED))
        result = await job.result(timeout=10)
        assert result.follow_up is not None
        workers = [running_worker(e.settings, redis, app=indexer(seen), jobs=JobsOf(e.tailrace)) for _ in range(2)]
        async with workers[0], workers[1]:
            after = await started(e, result.follow_up)
            assert await after.text(timeout=10) == "0 characters"
            await wait_until("it is settled", lambda: redis.exists(e.settings.keys.snapshot(job.id)))
    assert len(seen) == 1


async def test_what_follows_is_part_of_the_request(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e:
        with pytest.raises(InvalidRequest, match="then is empty"):
            await e.tailrace.submit("x", then="")
        job = await e.tailrace.submit("x", then="index")
        with pytest.raises(JobConflict):
            await e.tailrace.submit("x", then="another", job_id=job.id)
