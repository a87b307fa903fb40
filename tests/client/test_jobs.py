"""Jobs from submit to end, as a user of AsyncTailrace sees them."""

from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis

from engine import engine, wait_until
from tailrace import (
    END,
    START,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFound,
    PositionLost,
    QueueFull,
    Status,
    StreamRewound,
)
from tailrace.client import AsyncJob
from tailrace.schemas import RETRY_EVENT, REWIND_EVENT

E = TypeVar("E", bound=Exception)

SONG = "Write me a 1 verse song about sparkling water."


def script(**script: Any) -> dict[str, Any]:
    """A request that tells the rehearsal upstream what to do."""
    return {"params": {"rehearsal": script}}


async def until_error(job: AsyncJob, kind: type[E]) -> tuple[list[str], E]:
    """What a stream gives before it raises an error of this kind, and the error."""
    got: list[str] = []

    async def read() -> None:
        async for chunk in job.stream():
            got.append(chunk)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(kind) as raised:
        await read()
    return got, raised.value


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt": SONG, "model": "gpt-3.5-turbo-instruct", "temperature": 0, "max_tokens": 512},
        {"prompt": SONG, "model": "gpt-4o-mini"},
        {"messages": [{"role": "user", "content": SONG}], "model": "gpt-4o-mini"},
        {"input": SONG, "api": "responses", "model": "gpt-4o-mini"},
    ],
    ids=["completions", "prompt as chat", "chat", "responses"],
)
async def test_a_prompt_streams_the_same_text_live_and_late_through_every_api(
    redis: Redis, namespace: str, request_: dict[str, Any]
) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit(**request_)
        live = [chunk async for chunk in job.stream()]
        result = await job.result()
        late = [chunk async for chunk in job.stream()]
        assert result.status is Status.COMPLETED
        assert "".join(live) == "".join(late) == result.text == await job.text()
        assert len(live) > 20
        assert [chunk.position for chunk in live] == [chunk.position for chunk in late]
        assert result.usage is not None
        assert await job.status() == "completed"
        assert len(e.rehearsal.calls) == 1


async def test_every_position_resumes_to_exactly_the_rest(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", **script(tokens=12))
        records = [record async for record in job.records()]
        events = [event async for event in job.stream_events()]
        for number, record in enumerate(records):
            rest = [later async for later in job.records(after=record.position)]
            assert rest == records[number + 1 :]
            resumed = [event async for event in job.stream_events(after=record.position)]
            assert resumed == [event for event in events if event["position"] in {r.position for r in rest}]
        assert [chunk async for chunk in job.stream(after=END)] == []


async def test_a_reader_that_leaves_early_and_resumes_gets_each_chunk_once(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", **script(tokens=40, pace=0.005))
        got: list[str] = []
        position = START
        while await job.status() != "completed" or position == START or len(got) < 40:
            async with aclosing(job.stream(after=position)) as stream:
                async for chunk in stream:
                    got.append(chunk)
                    position = chunk.position
                    if len(got) % 7 == 0:
                        break
                else:
                    break
        assert got == [f" token{n}" for n in range(40)]


async def test_several_readers_of_one_job_share_one_subscription(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", **script(tokens=30, pace=0.003))
        texts = [await job.text(), await e.tailrace.job(job.id).text()]
        assert texts[0] == texts[1] == "".join(f" token{n}" for n in range(30))


@pytest.mark.parametrize("at", ["queued", "running", "ended"])
async def test_cancel_is_durable_and_keeps_what_came(redis: Redis, namespace: str, at: str) -> None:
    async with engine(redis, namespace, with_worker=at != "queued") as e:
        job = await e.tailrace.submit("x", **script(tokens=3 if at == "ended" else 10_000, pace=0.002))
        first: list[str] = []
        if at == "running":
            async with aclosing(job.stream()) as stream:
                first = [await anext(stream) for _ in range(3)]
        if at == "ended":
            await job.result()
            assert await job.cancel() is Status.COMPLETED
            return
        assert await job.cancel() is Status.CANCELLED
        assert await job.cancel() is Status.CANCELLED
        with pytest.raises(JobCancelled) as cancelled:
            await job.result()
        assert cancelled.value.result is not None
        if at == "running":
            assert cancelled.value.result.text.startswith("".join(first))
            await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0)
        else:
            async with e.another_worker():
                follower = await e.tailrace.submit("y", **script(tokens=1))
                await follower.result()
                assert [call.body["messages"] for call in e.rehearsal.calls] == [[{"role": "user", "content": "y"}]]


async def test_a_broken_stream_is_taken_up_without_a_word_twice(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", **script(tokens=20, fault="cut", at=7, times=1))
        chunks = [chunk async for chunk in job.stream()]
        assert chunks == [f" token{n}" for n in range(20)]
        result = await job.result()
        assert result.attempts == 2
        assert len(e.rehearsal.calls) == 2
        retries = [event async for event in job.stream_events(include_names=[RETRY_EVENT])]
        assert [event["data"]["counted"] for event in retries] == [True]


async def test_a_stream_that_goes_another_way_is_rewound(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit(
            "x",
            **script(
                text="one two three four five six", fault="cut", at=4, times=1, seed_by="call", differ_at=2, pace=0.01
            ),
        )
        shown, rewound = await until_error(job, StreamRewound)
        assert "".join(shown).startswith(rewound.text_before)
        rest = [chunk async for chunk in job.stream(after=rewound.position)]
        assert rewound.text_before + "".join(rest) == await job.text()
        seen: list[StreamRewound] = []
        late = [chunk async for chunk in job.stream(on_rewind=seen.append)]
        assert "".join(late) == await job.text()
        events = [event async for event in job.stream_events(include_names=[REWIND_EVENT])]
        assert len(events) == 1


async def test_fail_on_restart_ends_the_job_instead_of_doubling(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", on_restart="fail", **script(tokens=9, fault="cut", at=4))
        got, failed = await until_error(job, JobFailed)
        assert len(got) == 4
        assert failed.error.type == "upstream_broken"
        assert len(e.rehearsal.calls) == 1


async def test_continue_asks_the_upstream_to_go_on_from_what_stands(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit(
            SONG, model="gpt-3.5-turbo-instruct", on_restart="continue", **script(fault="cut", at=5, times=1)
        )
        chunks = [chunk async for chunk in job.stream()]
        whole = await e.tailrace.submit(SONG, model="gpt-3.5-turbo-instruct")
        assert "".join(chunks) == await whole.text()
        second = e.rehearsal.calls[1].body["prompt"]
        assert second == SONG + "".join(chunks[:5])


FAULTS = {
    "cut": "upstream_broken",
    "reset": "upstream_broken",
    "clean_end": "upstream_broken",
    "error_data": "upstream_error",
    "error_event": "upstream_error",
    "error_bare": "upstream_error",
    "malformed": "upstream_malformed",
    "empty_data": "upstream_malformed",
    "stall": "upstream_stalled",
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
async def test_a_fault_in_the_stream_is_a_typed_failure_after_the_chunks_that_came(
    real_redis: Redis, namespace: str, fault: str
) -> None:
    async with engine(real_redis, namespace, upstream={"stall_timeout_s": 0.1}) as e:
        job = await e.tailrace.submit("x", max_attempts=2, **script(tokens=9, fault=fault, at=3))
        got, failed = await until_error(job, JobFailed)
        assert got == [" token0", " token1", " token2"]
        assert failed.error.type == FAULTS[fault]
        assert len(e.rehearsal.calls) <= 2
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0, "the connection is closed", timeout=1)


@pytest.mark.parametrize(
    ("how", "kind", "calls"),
    [
        ({"fault": "status", "code": 401}, "upstream_auth", 1),
        ({"fault": "status", "code": 400}, "upstream_status", 1),
        ({"fault": "status", "code": 503, "retry_after": 0}, "upstream_status", 5),
        ({"fault": "refuse"}, "upstream_broken", 5),
        ({"fault": "html"}, "upstream_not_stream", 1),
    ],
    ids=lambda value: str(value),
)
async def test_a_request_that_is_not_taken_fails_without_a_storm_of_retries(
    real_redis: Redis, namespace: str, how: dict[str, Any], kind: str, calls: int
) -> None:
    async with engine(real_redis, namespace) as e:
        job = await e.tailrace.submit("x", **script(**how))
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=20)
        assert failed.value.error.type == kind
        assert len(e.rehearsal.calls) <= calls


async def test_an_endless_answer_stops_at_the_output_limit(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, worker={"output_bytes": 2000}) as e:
        job = await e.tailrace.submit("x", **script(fault="endless"))
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=20)
        assert failed.value.error.type == "output_limit"
        assert failed.value.result is not None
        assert 1500 < len(failed.value.result.text) <= 2000
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0)


@pytest.mark.parametrize("fault", ["huge", "invalid_utf8", "no_content", "no_done"])
async def test_odd_answers_end_one_way_or_the_other(redis: Redis, namespace: str, fault: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", max_attempts=1, **script(tokens=5, fault=fault, at=2))
        if fault in {"huge", "invalid_utf8"}:
            with pytest.raises(JobFailed) as failed:
                await job.result(timeout=20)
            assert failed.value.error.type in {"output_limit", "upstream_malformed"}
            return
        result = await job.result(timeout=20)
        assert result.status is Status.COMPLETED
        assert (result.text == "") == (fault == "no_content")


async def test_a_length_limit_ends_as_incomplete(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit(SONG, model="gpt-3.5-turbo-instruct", max_tokens=5)
        result = await job.result()
        assert (result.status, result.finish_reason) == (Status.INCOMPLETE, "length")


async def test_tool_calls_choices_and_reasoning_are_in_the_result(redis: Redis, namespace: str) -> None:
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    async with engine(redis, namespace) as e:
        calls = await (await e.tailrace.submit("add 3", tools=[tool])).result()
        assert calls.choices[0].tool_calls[0].name == "add"
        assert calls.choices[0].tool_calls[0].arguments.startswith("{")
        assert calls.finish_reason == "tool_calls"
        two = await (await e.tailrace.submit("x", n=2, **script(tokens=3))).result()
        assert [choice.finish_reason for choice in two.choices] == ["stop", "stop"]
        thought = await (await e.tailrace.submit("x", **script(tokens=3, reasoning="let me think"))).result()
        assert thought.choices[0].reasoning == "let me think"
        assert "think" not in thought.text


async def test_the_same_request_under_the_same_id_is_the_same_job(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        first = await e.tailrace.submit("x", job_id="mine", **script(tokens=2))
        await e.tailrace.submit("x", job_id="mine", **script(tokens=2))
        await first.result()
        again = await e.tailrace.submit("x", job_id="mine", **script(tokens=2))
        assert await again.text() == " token0 token1"
        assert len(e.rehearsal.calls) == 1
        with pytest.raises(JobConflict):
            await e.tailrace.submit("another", job_id="mine")


async def test_a_deleted_job_is_not_found_and_keeps_its_id(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", job_id="gone", **script(tokens=10_000, pace=0.002))
        async with aclosing(job.stream()) as stream:
            await anext(stream)
        await job.delete()
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0)
        for ask in (job.status, job.result, job.cancel, job.delete):
            with pytest.raises(JobNotFound):
                await ask()
        with pytest.raises(JobConflict):
            await e.tailrace.submit("x", job_id="gone")


async def test_unknown_jobs_and_foreign_positions_are_typed_errors(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        unknown = e.tailrace.job("never-was")
        for ask in (unknown.status, unknown.result, unknown.cancel, unknown.delete):
            with pytest.raises(JobNotFound):
                await ask()
        job = await e.tailrace.submit("x", **script(tokens=2))
        await job.result()
        with pytest.raises(InvalidRequest):
            [chunk async for chunk in job.stream(after="yesterday")]
        with pytest.raises(PositionLost):
            [chunk async for chunk in job.stream(after="1234567-8")]
        for odd in ("", "a/b", "ä", "x" * 129, "{x}", "a\n"):
            with pytest.raises(InvalidRequest):
                e.tailrace.job(odd)


async def test_an_unknown_upstream_and_a_task_without_code_fail_with_their_names(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", upstream="elsewhere")
        with pytest.raises(JobFailed, match="elsewhere"):
            await job.result()
        task = await e.tailrace.submit(task="pipeline", input={"a": 1})
        with pytest.raises(JobFailed, match="pipeline"):
            await task.result()


async def test_a_job_that_nobody_runs_expires_for_its_reader(
    real_redis: Redis, namespace: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("tailrace.joblog.reading.GRACE_S", 0.0)
    async with engine(real_redis, namespace, with_worker=False) as e:
        job = await e.tailrace.submit("x", deadline=0.3)
        with pytest.raises(JobExpired):
            await job.result(timeout=20)
        assert await job.status() is Status.EXPIRED


async def test_a_running_job_expires_at_its_deadline(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", deadline=0.5, **script(tokens=100_000, pace=0.01))
        with pytest.raises(JobExpired):
            await job.result(timeout=20)
        await e.rehearsal.wait_until(lambda: e.rehearsal.open_streams == 0)


async def test_a_delayed_job_starts_when_it_is_due(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", delay=0.4, **script(tokens=1))
        records = [record async for record in job.records()]
        assert records[0].kind == "job"
        assert records[1].kind == "attempt"
        waited_ms = records[1].ts - records[0].ts  # type: ignore[union-attr]  # both have a clock
        assert 390 <= waited_ms < 3000


async def test_a_full_queue_refuses(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False, queue_capacity=2) as e:
        await e.tailrace.submit_many(["a", "b"])
        with pytest.raises(QueueFull):
            await e.tailrace.submit("c")


async def test_submit_many_gives_jobs_in_order(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        jobs = await e.tailrace.submit_many(
            [{"prompt": "p", "job_id": f"n{n}", **script(text=f"answer {n}")} for n in range(25)]
        )
        assert [job.id for job in jobs] == [f"n{n}" for n in range(25)]
        assert [await job.text() for job in jobs] == [f"answer {n}" for n in range(25)]


async def test_a_drained_worker_hands_its_jobs_back_without_counting_the_attempt(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        assert e.worker is not None
        job = await e.tailrace.submit("x", max_attempts=1, **script(tokens=30, pace=0.01))
        async with aclosing(job.stream()) as stream:
            got = [str(await anext(stream)) for _ in range(5)]
            async with e.another_worker():
                await e.worker.drain(0)
                got += [chunk async for chunk in stream]
        assert got == [f" token{n}" for n in range(30)]
        assert (await job.result()).attempts == 1
        assert len(e.rehearsal.calls) == 2


async def test_a_job_that_was_stored_but_not_queued_is_healed(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e:
        job = await e.tailrace.submit("x", **script(tokens=2))
        keys = e.settings.keys
        await e.tailrace.broker.call("DEL", keys.queue)
        await e.tailrace.broker.call("ZADD", keys.open, 1, job.id)
        async with e.another_worker():
            assert await job.text(timeout=20) == " token0 token1"


async def test_nothing_of_a_job_outlives_its_retention(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", retention=0.3, **script(tokens=2))
        await job.result()

        async def gone() -> bool:
            keys = e.settings.keys
            return not await e.tailrace.broker.call(
                "EXISTS", keys.log(job.id), keys.request(job.id), keys.snapshot(job.id)
            )

        await wait_until("its keys have expired", gone)
        with pytest.raises(JobNotFound):
            await job.status()


async def test_readers_never_get_the_prompt(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("my secret prompt", metadata={"user": "u1"}, tags=["t"], **script(tokens=2))
        records = [record async for record in job.records()]
        events = [event async for event in job.stream_events()]
        assert "secret" not in repr(records) + repr(events)
        assert events[0]["metadata"] == {"user": "u1"}
        assert events[-1]["tags"] == ["t"]


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (None, "request_lost"),
        ("no JSON", "request_unreadable"),
        ('{"digest":"x"}', "request_unreadable"),
        ('{"request":{"api":"chat","messages":[{"role":"user","content":"secret"}],"later":1}}', "request_unreadable"),
    ],
)
async def test_a_job_whose_request_cannot_be_read_ends_and_quotes_nothing(
    redis: Redis, namespace: str, stored: str | None, why: str
) -> None:
    async with engine(redis, namespace) as e:
        job = await e.tailrace.submit("x", delay=0.3)
        key = e.settings.keys.request(job.id)
        await (redis.delete(key) if stored is None else redis.set(key, stored, px=60_000))
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=10)
        assert failed.value.error.type == why
        assert "secret" not in str(failed.value)
