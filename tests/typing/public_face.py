"""The public signatures, pinned: checked by mypy and pyright with everything else, never run."""

from collections.abc import AsyncGenerator, Generator
from datetime import timedelta
from typing import assert_type

from tailrace import (
    END,
    START,
    AsyncEnded,
    AsyncJob,
    AsyncTailrace,
    Chunk,
    Ended,
    ErrorDetail,
    HistoryLost,
    Job,
    JobEnded,
    JobFailed,
    JobNotFound,
    Parked,
    Position,
    PositionLost,
    Record,
    Result,
    Settings,
    Status,
    StreamEvent,
    StreamRewound,
    Tailrace,
)
from tailrace.schemas import UnknownRecord


def blocking() -> None:
    with Tailrace() as tailrace:
        assert_type(tailrace, Tailrace)
        assert_type(tailrace.settings, Settings)
        job = tailrace.submit("hi")
        assert_type(job, Job)
        assert_type(job.id, str)
        assert_type(job.status(), Status)
        assert_type(job.result(), Result)
        assert_type(job.result(timeout=timedelta(seconds=1)), Result)
        assert_type(job.text(timeout=1.5), str)
        assert_type(job.stream(), Generator[Chunk, None, None])
        for chunk in job.stream(after=START):
            assert_type(chunk, Chunk)
            assert_type(chunk.position, Position)
            assert_type(chunk.upper(), str)
        for event in job.stream_events(version="v1", after="0-1", include_types=["llm"], exclude_tags=("a",)):
            assert_type(event, StreamEvent)
            assert_type(event["event"], str)
            assert_type(event["parent_ids"], list[str])
            assert_type(event["position"], Position)
            assert_type(event["ts"], int)
        for record in job.records(after=END):
            assert_type(record, Record | UnknownRecord)
        assert_type(job.cancel(), Status)
        job.delete()
        assert_type(tailrace.job("id"), Job)
        assert_type(tailrace.submit_many(["hi", {"prompt": "ho", "model": "m"}]), list[Job])
        assert_type(tailrace.ended("indexer"), Generator[Ended, None, None])
        for ended in tailrace.ended(group="indexer", filter=lambda one: one.deliveries < 3, statuses=["failed"]):
            assert_type(ended, Ended)
            assert_type(ended.job_id, str)
            assert_type(ended.status, Status)
            assert_type(ended.tags, tuple[str, ...])
            assert_type(ended.result(), Result)
            assert_type(ended.hold(), bool)
            ended.ack()
        assert_type(tailrace.parked("indexer"), list[Parked])
        assert_type(tailrace.unpark("indexer", ["id"]), int)


async def in_async_code() -> None:
    async with AsyncTailrace("redis://127.0.0.1", namespace="n") as tailrace:
        assert_type(tailrace, AsyncTailrace)
        job = await tailrace.submit(
            messages=[{"role": "user", "content": "hi"}],
            api="chat",
            model="gpt-4o-mini",
            upstream="default",
            job_id="id",
            metadata={"user": "u1"},
            tags=["song"],
            deadline=timedelta(minutes=5),
            retention=3600,
            delay=0.5,
            on_restart="continue",
            max_attempts=2,
            temperature=0,
        )
        assert_type(job, AsyncJob)
        assert_type(job.id, str)
        assert_type(await job.status(), Status)
        assert_type(await job.result(timeout=1), Result)
        assert_type(await job.text(), str)
        assert_type(job.stream(), AsyncGenerator[Chunk, None])
        async for chunk in job.stream(on_rewind=lambda rewound: print(rewound.text_before)):
            assert_type(chunk, Chunk)
        async for event in job.stream_events():
            assert_type(event, StreamEvent)
        async for record in job.records():
            assert_type(record, Record | UnknownRecord)
        assert_type(await job.cancel(), Status)
        assert_type(tailrace.job("id"), AsyncJob)
        assert_type(await tailrace.submit_many(["hi"]), list[AsyncJob])
        assert_type(tailrace.ended("indexer"), AsyncGenerator[AsyncEnded, None])
        async for ended in tailrace.ended(
            "indexer",
            begin="now",
            consumer="c",
            takeover=timedelta(minutes=1),
            max_deliveries=3,
            tags=["a"],
            tasks=["t"],
        ):
            assert_type(ended, AsyncEnded)
            assert_type(ended.deliveries, int)
            assert_type(await ended.result(), Result)
            assert_type(await ended.hold(), bool)
            await ended.release()
            await ended.park("why")
            await ended.ack()
        assert_type(await tailrace.parked("indexer"), list[Parked])
        assert_type(await tailrace.unpark("indexer"), int)


def errors(error: Exception) -> None:
    match error:
        case JobFailed():
            assert_type(error.error, ErrorDetail)
            assert_type(error.error.retryable, bool)
            assert_type(error.result, Result | None)
        case JobEnded():
            assert_type(error.result, Result | None)
        case JobNotFound():
            assert_type(error.job_id, str)
        case StreamRewound():
            assert_type(error.position, Position)
            assert_type(error.text_before, str)
        case PositionLost():
            assert_type(error.asked, Position)
        case HistoryLost():
            assert_type(error.after, Position)
        case _:
            pass


def results(result: Result) -> None:
    assert_type(result.status, Status)
    assert_type(result.text, str)
    assert_type(result.finish_reason, str | None)
    assert_type(result.last, Position)


def what_a_type_checker_must_refuse(job: Job, tailrace: Tailrace) -> None:
    # Each ignore is needed: mypy reports one that is not.
    tailrace.submit("hi", on_restart="again")  # type: ignore[arg-type]  # no such choice  # pyright: ignore[reportArgumentType]
    tailrace.submit(5)  # type: ignore[arg-type]  # no text  # pyright: ignore[reportArgumentType]
    job.stream_events(version="v3")  # type: ignore[arg-type]  # no such version  # pyright: ignore[reportArgumentType]
    job.stream(after=3)  # type: ignore[arg-type]  # no position  # pyright: ignore[reportArgumentType]
