"""What the openai package does not know: its calls are jobs."""

import asyncio
from pathlib import Path
from typing import Any, Final, cast

import httpx2
import openai
import pytest
from redis.asyncio import Redis

from engine import engine, wait_until
from stack import Stack, running_stack
from tailrace import Status, Tailrace
from tailrace.openai import BASE_URL, AsyncOpenAI, AsyncTailraceTransport, JobOptions, OpenAI, TailraceTransport

MESSAGES: Final[list[Any]] = [{"role": "user", "content": "hello"}]
CHAT: Final[dict[str, Any]] = {"model": "gpt-4o-mini", "messages": MESSAGES}
PATIENCE_S = 20


def rehearsed(**script: Any) -> dict[str, Any]:
    return {"extra_body": {"rehearsal": script}}


def test_the_response_names_its_job(ours: Any, tailrace: Tailrace) -> None:
    raw = ours.chat.completions.with_raw_response.create(**CHAT)
    result = tailrace.job(raw.headers["x-tailrace-job-id"]).result(timeout=PATIENCE_S)
    answer = raw.parse()
    assert answer.choices[0].message.content == result.text
    assert answer.id == f"chatcmpl-{result.job_id}"


def test_headers_say_what_is_the_jobs(ours: Any, tailrace: Tailrace) -> None:
    headers = {
        "x-tailrace-job-id": "job-by-header",
        "x-tailrace-metadata": '{"customer": 7}',
        "x-tailrace-tags": "a, b",
        "x-tailrace-deadline": "60.5",
    }
    ours.chat.completions.create(**CHAT, extra_headers=headers)
    result = tailrace.job("job-by-header").result(timeout=PATIENCE_S)
    assert (result.metadata, result.tags) == ({"customer": 7}, ["a", "b"])


def test_the_same_id_with_another_request_is_a_conflict(ours: Any) -> None:
    headers = {"x-tailrace-job-id": "taken"}
    ours.chat.completions.create(**CHAT, extra_headers=headers)
    with pytest.raises(openai.ConflictError, match="taken by another request"):
        ours.chat.completions.create(**CHAT, temperature=1, extra_headers=headers)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"x-tailrace-colour": "blue"}, "x-tailrace-colour"),
        ({"x-tailrace-deadline": "soon"}, "must be seconds"),
        ({"x-tailrace-metadata": "[]"}, "must be a JSON object"),
        ({"x-tailrace-job-id": "no id"}, "is no job id"),
        ({"x-tailrace-resume": "job", "x-tailrace-after": "here"}, "is no position"),
        ({"x-tailrace-upstream": "elsewhere"}, "elsewhere"),
    ],
)
def test_a_header_that_says_nothing_is_refused(headers: dict[str, str], told: str, ours: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=told):
        ours.chat.completions.create(**CHAT, extra_headers=headers)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"model": "m", "messages": []}, "at least one message"),
        ({"model": "m", "messages": MESSAGES, "extra_body": {"base_url": "http://evil"}}, "is refused"),
    ],
)
def test_a_request_that_submit_does_not_take_is_a_bad_request(arguments: dict[str, Any], told: str, ours: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=told):
        ours.chat.completions.create(**arguments)


def test_a_stream_of_several_prompts_is_refused(ours: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="a stream has one prompt"):
        ours.completions.create(model="gpt-3.5-turbo-instruct", prompt=["a", "b"], stream=True)


def test_other_calls_are_refused_or_handed_on(ours: Any, tailrace: Tailrace) -> None:
    with pytest.raises(openai.NotFoundError, match="makes no job"):
        ours.models.list()
    handed_on = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"object": "list", "data": []}))
    with httpx2.Client(transport=TailraceTransport(tailrace, others=handed_on)) as http_client:
        client: Any = openai.OpenAI(http_client=http_client, base_url=BASE_URL, api_key="none")
        assert client.models.list().data == []
        assert client.chat.completions.create(**CHAT).choices


def test_a_stream_is_resumed_after_any_of_its_chunks(ours: Any, tailrace: Tailrace) -> None:
    raw = ours.chat.completions.with_raw_response.create(**CHAT, stream=True)
    chunks: list[Any] = list(raw.parse())
    for at in (1, 7, len(chunks) - 2):
        again: list[Any] = list(
            ours.chat.completions.create(
                model="",
                messages=[],
                stream=True,
                extra_headers={
                    "x-tailrace-resume": raw.headers["x-tailrace-job-id"],
                    "x-tailrace-after": chunks[at].position,
                },
            )
        )
        assert again == chunks[at + 1 :]


def test_a_job_of_another_api_is_not_resumed(ours: Any, tailrace: Tailrace) -> None:
    job = tailrace.submit(input="hello", api="responses", model="gpt-4o-mini")
    with pytest.raises(openai.BadRequestError, match="is a responses job"):
        ours.chat.completions.create(model="", messages=[], stream=True, extra_headers={"x-tailrace-resume": job.id})
    events = ours.responses.create(model="", input="", stream=True, extra_headers={"x-tailrace-resume": job.id})
    assert [event.type for event in events][-1] == "response.completed"


@pytest.mark.parametrize(("option", "expected"), [(False, Status.COMPLETED), (True, Status.CANCELLED)])
def test_closing_a_stream_leaves_the_job_alone_unless_told(
    option: bool, expected: Status, tailrace: Tailrace, openai_stack: Stack
) -> None:
    with OpenAI(tailrace=tailrace, jobs=JobOptions(cancel_on_close=option)) as client:
        raw = client.chat.completions.with_raw_response.create(
            **CHAT, stream=True, **rehearsed(tokens=20, pace=0.02 if not option else 10.0)
        )
        stream = raw.parse()
        next(stream)
        stream.close()
        job = tailrace.job(raw.headers["x-tailrace-job-id"])
        if not option:
            job.result(timeout=PATIENCE_S)
        assert job.status() is expected


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_a_worker_has_tried_the_package_does_not_try_again(stream: bool, ours: Any, openai_stack: Stack) -> None:
    assert openai_stack.rehearsal is not None
    before = len(openai_stack.rehearsal.calls)
    with pytest.raises(openai.RateLimitError):
        ours.chat.completions.create(
            **CHAT,
            stream=stream,
            extra_headers={"x-tailrace-max-attempts": "1"},
            **rehearsed(fault="status", code=429, retry_after=0.01),
        )
    assert len(openai_stack.rehearsal.calls) - before == 3  # one job's


def test_a_stream_that_breaks_raises_after_what_came(tailrace: Tailrace, ours: Any) -> None:
    came: list[str] = []
    with pytest.raises(openai.APIError, match="broke in the middle") as told:  # noqa: PT012 - what came matters
        for chunk in ours.chat.completions.create(
            **CHAT,
            stream=True,
            extra_headers={"x-tailrace-max-attempts": "1", "x-tailrace-job-id": "broken"},
            **rehearsed(fault="cut", at=4, text="a b c d e f"),
        ):
            came += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(came) == "a b c d"
    assert tailrace.job("broken").status() is Status.FAILED
    assert told.value.code == "upstream_broken"
    assert cast("dict[str, str]", told.value.body)["job_id"] == "broken"


def test_a_response_that_breaks_says_so_in_its_own_words_and_raises(ours: Any) -> None:
    kinds: list[str] = []
    with pytest.raises(openai.APIError, match="broke in the middle"):
        kinds.extend(
            event.type
            for event in ours.responses.create(
                model="gpt-4o-mini",
                input="hello",
                stream=True,
                extra_headers={"x-tailrace-max-attempts": "1"},
                **rehearsed(fault="cut", at=4),
            )
        )
    assert (kinds[0], kinds[-1]) == ("response.created", "response.failed")


def test_a_restart_that_says_the_same_is_not_seen(server_url: str) -> None:
    script = {"fault": "cut", "at": 3, "times": 1, "text": "a b c d e f"}
    with (
        running_stack(server_url, rehearsal=script) as stack,
        Tailrace(settings=stack.settings) as tailrace,
        OpenAI(tailrace=tailrace) as client,
    ):
        chunks = client.chat.completions.create(**CHAT, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "a b c d e f"


def test_a_restart_that_says_something_else_is_an_error_in_a_stream_and_none_in_a_whole_answer(
    server_url: str,
) -> None:
    script = {"fault": "cut", "at": 3, "times": 1, "tokens": 6, "seed_by": "call", "pace": 0.01}
    with (
        running_stack(server_url, rehearsal=script) as stack,
        Tailrace(settings=stack.settings) as tailrace,
        OpenAI(tailrace=tailrace) as client,
    ):
        with pytest.raises(openai.APIError) as told:
            list(client.chat.completions.create(**CHAT, stream=True))
        assert told.value.code == "stream_rewound"
        job_id = str(cast("dict[str, str]", told.value.body)["job_id"])
        tailrace.job(job_id).result(timeout=PATIENCE_S)
        again = client.chat.completions.create(
            model="", messages=[], stream=True, extra_headers={"x-tailrace-resume": job_id}
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in again)
        assert text == tailrace.job(job_id).text()
        assert "token0.2" in text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_packages_next_try_after_a_timeout_waits_for_the_same_job(
    redis: Redis, namespace: str, stream: bool
) -> None:
    async with (
        engine(redis, namespace, with_worker=False) as stage,
        AsyncOpenAI(tailrace=stage.tailrace, timeout=0.05, max_retries=2) as client,
    ):
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(**CHAT, stream=stream)
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(max_retries=0).chat.completions.create(**CHAT, stream=stream)
        client_of_any: Any = redis
        jobs = [key async for key in client_of_any.scan_iter(f"{namespace}:*:job")]
        assert len(jobs) == 2


async def test_a_server_that_is_away_is_a_connection_error(tmp_path: Path) -> None:
    def opened() -> Tailrace:
        tailrace = Tailrace(f"unix://{tmp_path}/nobody.sock")
        tailrace.__enter__()
        return tailrace

    with httpx2.Client(transport=TailraceTransport(opened)) as http_client:
        client = openai.OpenAI(http_client=http_client, base_url=BASE_URL, api_key="none", max_retries=0)
        with pytest.raises(openai.APIConnectionError) as told:
            client.chat.completions.create(**CHAT)
        assert isinstance(told.value.__cause__, httpx2.ConnectError)


async def test_a_cancelled_caller_leaves_the_job_alone(tailrace: Tailrace) -> None:
    async with AsyncOpenAI(tailrace=tailrace) as opened:
        client: Any = opened
        asking: asyncio.Task[Any] = asyncio.create_task(
            client.chat.completions.create(
                **CHAT, extra_headers={"x-tailrace-job-id": "left"}, **rehearsed(tokens=5, ttft=0.3)
            )
        )
        await wait_until("the job runs", lambda: _status(tailrace, "left") is Status.IN_PROGRESS, timeout_s=PATIENCE_S)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    result = await asyncio.to_thread(tailrace.job("left").result, PATIENCE_S)
    assert result.status is Status.COMPLETED


def _status(tailrace: Tailrace, job_id: str) -> Status | None:
    try:
        return tailrace.job(job_id).status()
    except LookupError:
        return None


def test_one_async_client_serves_several_event_loops(tailrace: Tailrace) -> None:
    client = AsyncOpenAI(tailrace=tailrace)

    async def ask() -> list[str | None]:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        return [chunk.choices[0].delta.content async for chunk in stream]

    assert asyncio.run(ask()) == asyncio.run(ask())


async def test_the_transport_goes_below_anything_that_takes_one(redis: Redis, namespace: str) -> None:
    async with (
        engine(redis, namespace) as stage,
        httpx2.AsyncClient(transport=AsyncTailraceTransport(stage.tailrace), base_url=BASE_URL) as http_client,
    ):
        response = await http_client.post("/chat/completions", json={**CHAT, "stream": True})
        lines = [line async for line in response.aiter_lines() if line]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert lines[-1] == "data: [DONE]"
    assert lines[0].startswith("id: ")


def test_a_client_made_from_another_keeps_the_transport(ours: Any) -> None:
    assert ours.with_options(timeout=30.0, max_retries=0).chat.completions.create(**CHAT).choices
