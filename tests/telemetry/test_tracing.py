"""One trace from who submits a job to the upstream that answers it, whichever way it takes; and nothing of what it says."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai  # pyright: ignore[reportMissingTypeStubs]  # it has none
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging  # pyright: ignore[reportMissingTypeStubs]  # it has none
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.trace import SpanKind
from redis.asyncio import Redis

from engine import Engine, engine, wait_until
from spans import Spans, attributes, id_of, kept, parent_of, trace_of
from tailrace import App, Context, JobFailed, Result, Tailrace
from tailrace.schemas import JobRequest
from tailrace.telemetry import tracing

PROMPT: Final = "canary prompt Wj8vB3xN of Zebulon in Heron Lane"
ANSWER: Final = "canary answer Kp4tR9sL"


def script(**fields: Any) -> dict[str, Any]:
    return {"params": {"rehearsal": fields}}


@pytest.mark.parametrize(
    ("asked", "operation", "api_type"),
    [
        ({"messages": [{"role": "user", "content": PROMPT}]}, "chat", "chat_completions"),
        ({"prompt": PROMPT, "api": "completions"}, "text_completion", None),
        ({"input": PROMPT, "api": "responses"}, "chat", "responses"),
    ],
)
@pytest.mark.parametrize("transport", ["aiohttp", "push"])
async def test_a_job_is_one_trace_by_the_conventions(
    real_redis: Redis,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    operation: str,
    api_type: str | None,
    transport: str,
) -> None:
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace, upstream={"transport": transport}) as e:
            with trace.get_tracer("app").start_as_current_span("web request"):
                job = await e.tailrace.submit(**asked, model="gpt-4o-mini", temperature=0.5, **script(text=ANSWER))
            await job.result(timeout=10)
            await wait_until("the attempt is over", lambda: spans.named("process"))
        call = e.rehearsal.calls[0]
    request, sent = spans.one("web request"), spans.one("send ")
    processed, asked_model = spans.one("process "), spans.one(f"{operation} gpt-4o-mini")
    assert {trace_of(span) for span in spans.all} == {trace_of(request)}
    assert parent_of(sent) == id_of(request)
    assert parent_of(processed) == id_of(sent)
    assert [link.context.span_id for link in processed.links] == [id_of(sent)]
    assert parent_of(asked_model) == id_of(processed)
    assert (sent.kind, processed.kind, asked_model.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT)
    for span, word in ((sent, "send"), (processed, "process")):
        told = attributes(span)
        assert span.name == f"{word} {namespace}:queue"
        assert told[messaging.MESSAGING_SYSTEM] == "tailrace"
        assert told[messaging.MESSAGING_OPERATION_TYPE] == told[messaging.MESSAGING_OPERATION_NAME] == word
        assert told[messaging.MESSAGING_DESTINATION_NAME] == f"{namespace}:queue"
        assert told[messaging.MESSAGING_MESSAGE_ID] == told["tailrace.job.id"] == job.id
    told = attributes(asked_model)
    assert told["tailrace.job.id"] == job.id
    assert told[gen_ai.GEN_AI_OPERATION_NAME] == operation
    assert told[gen_ai.GEN_AI_PROVIDER_NAME] == "openai"
    assert told[gen_ai.GEN_AI_REQUEST_MODEL] == "gpt-4o-mini"
    assert told[gen_ai.GEN_AI_REQUEST_TEMPERATURE] == 0.5
    assert told[gen_ai.GEN_AI_REQUEST_STREAM] is True
    assert told[gen_ai.GEN_AI_RESPONSE_MODEL] == "gpt-4o-mini"
    assert told[gen_ai.GEN_AI_RESPONSE_ID]
    assert told[gen_ai.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)
    assert told[gen_ai.GEN_AI_USAGE_INPUT_TOKENS] > 0
    assert told[gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS] > 0
    assert 0 <= told[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] < 10
    assert told.get("openai.api.type") == api_type
    assert told[server_attributes.SERVER_ADDRESS] == "127.0.0.1"
    assert f":{told[server_attributes.SERVER_PORT]}/" in e.rehearsal.base_url
    assert error_attributes.ERROR_TYPE not in told
    assert call.headers["traceparent"][:-2] == f"00-{trace_of(request):032x}-{id_of(asked_model):016x}-"


async def blocking(e: Engine) -> str:
    redis: Any = e.redis  # redis-py's own annotations are partly unknown to a strict checker
    kwargs = redis.connection_pool.connection_kwargs
    settings = e.settings.model_copy(update={"redis_url": f"unix://:{kwargs['password']}@{kwargs['path']}"})

    def submit() -> str:
        with Tailrace(settings=settings) as tailrace:
            return tailrace.submit(PROMPT).id

    return await asyncio.to_thread(submit)


async def submitted(e: Engine) -> str:
    return (await e.tailrace.submit(PROMPT)).id


async def in_a_batch(e: Engine) -> str:
    return (await e.tailrace.submit_many([PROMPT, PROMPT]))[1].id


async def by_the_openai_package(e: Engine) -> str:
    from tailrace.openai import AsyncOpenAI

    async with AsyncOpenAI(tailrace=e.tailrace) as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="rehearsal", messages=[{"role": "user", "content": PROMPT}]
        )
        return str(answer.headers["x-tailrace-job-id"])


@pytest.mark.parametrize("submit", [submitted, in_a_batch, blocking, by_the_openai_package])
async def test_whoever_submits_the_jobs_trace_is_that_of_its_caller(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch, submit: Callable[[Engine], Awaitable[str]]
) -> None:
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace) as e:
            with trace.get_tracer("app").start_as_current_span("caller"):
                job_id = await submit(e)
            await e.tailrace.job(job_id).result(timeout=10)

            def of_job() -> list[Any]:
                return [span for span in spans.named("process ") if attributes(span)["tailrace.job.id"] == job_id]

            await wait_until("the attempt is over", of_job)
        (processed,) = of_job()
        assert trace_of(processed) == trace_of(spans.one("caller"))
        assert parent_of(processed) == id_of(spans.one("send "))


async def test_steps_calls_children_and_followers_of_a_task_are_below_it(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App()

    def fails() -> None:
        raise ValueError(PROMPT)

    async def count(text: str) -> int:
        return len(text.split())

    @app.task
    async def research(ctx: Context, topic: str) -> str:
        plan = await ctx.llm(f"plan {topic}", name="plan", model="m", **script(text=ANSWER))
        await ctx.gather(ctx.step("count", count, plan), ctx.llm("read", name="read", model="m"))
        async for _ in ctx.llm("leave", name="left", model="m"):
            break
        await ctx.child(PROMPT, name="other", model="of-child")
        with pytest.raises(Exception, match="fails"):
            await ctx.step("fails", fails)
        return "done"

    @app.task
    async def afterwards(ctx: Context, result: Result) -> str:
        return "too"

    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace, app=app) as e:
            job = await e.tailrace.submit(task="research", input=PROMPT, then="afterwards")
            await job.result(timeout=10)
            await wait_until("all three jobs are over", lambda: len(spans.named("process ")) == 3)
    of_task = {attributes(span).get("tailrace.job.task"): span for span in spans.named("process ")}
    research_span, after_span, child_span = of_task["research"], of_task["afterwards"], of_task[None]
    assert len({trace_of(span) for span in spans.all}) == 1
    sent = {attributes(span)["tailrace.job.id"]: span for span in spans.named("send ")}
    steps = {span.name: span for span in spans.named("step ")}
    assert set(steps) == {"step plan", "step count", "step read", "step left", "step other", "step fails"}
    assert {parent_of(span) for span in steps.values()} == {id_of(research_span)}
    calls = {parent_of(span): span for span in spans.named("chat m")}
    assert set(calls) == {id_of(steps[name]) for name in ("step plan", "step read", "step left")}
    assert parent_of(child_span) == id_of(sent[attributes(child_span)["tailrace.job.id"]])
    assert parent_of(sent[attributes(child_span)["tailrace.job.id"]]) == id_of(steps["step other"])
    assert parent_of(sent[attributes(after_span)["tailrace.job.id"]]) == id_of(research_span)
    assert attributes(steps["step fails"])["error.type"] == "step_error"
    assert not steps["step plan"].status.description
    nothing_said(spans)


async def test_every_attempt_is_a_span_that_says_how_it_went(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace, upstream={"max_retries": 0}) as e:
            job = await e.tailrace.submit(PROMPT, max_attempts=2, **script(fault="cut", at=2))
            with pytest.raises(JobFailed):
                await job.result(timeout=10)
            await wait_until("both attempts are over", lambda: len(spans.named("process ")) == 2)
    first, second = spans.named("process ")
    assert [attributes(each)["tailrace.attempt.number"] for each in (first, second)] == [1, 2]
    assert [attributes(each)["tailrace.attempt.outcome"] for each in (first, second)] == ["retried", "ended"]
    assert [attributes(each)["tailrace.attempt.restarted"] for each in (first, second)] == [False, True]
    assert parent_of(first) == parent_of(second) == id_of(spans.one("send "))
    assert [event.name for event in first.events] == ["tailrace.retry"]
    assert attributes(second)["tailrace.job.status"] == "failed"
    for span in (first, second, *spans.named("chat")):
        assert attributes(span)["error.type"] == "upstream_broken"
        assert span.status.status_code is trace.StatusCode.ERROR
    assert [parent_of(span) for span in spans.named("chat")] == [id_of(first), id_of(second)]
    nothing_said(spans)


async def test_a_cancelled_attempt_says_so(real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace) as e:
            job = await e.tailrace.submit(PROMPT, **script(tokens=1000, pace=0.05))
            async for _ in job.stream():
                break
            await job.cancel()
            await wait_until("it has stopped", lambda: spans.named("process "))
    assert attributes(spans.one("process "))["tailrace.attempt.outcome"] == "sealed"
    assert attributes(spans.one("chat"))["error.type"] == "CancelledError"


async def test_an_upstream_can_be_kept_from_the_context(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch):
        async with engine(real_redis, namespace, upstream={"traceparent": False}) as e:
            await (await e.tailrace.submit(PROMPT)).result(timeout=10)
    assert "traceparent" not in e.rehearsal.calls[0].headers


async def test_a_context_is_no_part_of_the_request_and_none_of_what_readers_get(
    real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as spans:
        async with engine(real_redis, namespace, with_worker=False) as e:
            for _ in range(2):
                with trace.get_tracer("app").start_as_current_span("caller"):
                    await e.tailrace.submit(PROMPT, job_id="same")
            keys = e.settings.keys
            stored = json.loads(await real_redis.get(keys.request("same")) or b"")
            log: Any = await real_redis.xrange(keys.log("same"))
            await e.tailrace.job("same").delete()
    first, second = spans.named("send ")
    assert stored["trace"]["traceparent"][:-2] == f"00-{trace_of(first):032x}-{id_of(first):016x}-"
    assert stored["digest"] == JobRequest.of(PROMPT).digest()
    assert [attributes(each)["tailrace.job.new"] for each in (first, second)] == [True, False]
    assert f"{trace_of(first):032x}" not in str(log)


BAD: Final[list[Any]] = [
    None,
    "00-" + "a" * 32,
    [],
    {},
    {"traceparent": 5},
    {"traceparent": "00-" + "0" * 32 + "-" + "b" * 16 + "-01"},
    {"traceparent": "00-" + "a" * 32 + "-" + "0" * 16 + "-01"},
    {"traceparent": "ff-" + "a" * 32 + "-" + "b" * 16 + "-01"},
    {"traceparent": "00-" + "A" * 32 + "-" + "b" * 16 + "-01"},
    {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01\n"},
    {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01-" + "x" * 100_000},
    {"traceparent": "\u0660\u0660-" + "a" * 32 + "-" + "b" * 16 + "-01"},
]
GOOD: Final = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.mark.parametrize("planted", BAD, ids=range(len(BAD)))
async def test_a_planted_context_is_none(
    planted: Any, real_redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as spans:
        assert tracing.received(planted) is None
        if planted in (BAD[0], BAD[1], BAD[4]):
            async with engine(real_redis, namespace, with_worker=False) as e:
                await e.tailrace.submit(PROMPT, job_id="job")
                key = e.settings.keys.request("job")
                stored = json.loads(await real_redis.get(key) or b"") | {"trace": planted}
                await real_redis.set(key, json.dumps(stored), keepttl=True)
                async with e.another_worker():
                    await e.tailrace.job("job").result(timeout=10)
                    await wait_until("the attempt is over", lambda: spans.named("process "))
            assert parent_of(spans.one("process ")) is None


@pytest.mark.parametrize(
    ("state", "stands"),
    [
        ("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", 2),
        ("", 0),
        (5, 0),
        ("a=" + "x" * 600, 0),
        ("two words=1", 0),
        ("a=1\r\nx: y", 0),
        (",".join(f"k{number}=1" for number in range(33)), 0),
    ],
)
def test_a_tracestate_stands_as_a_whole_or_not_at_all(
    state: object, stands: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with kept(monkeypatch):
        found = tracing.received({"traceparent": GOOD, "tracestate": state})
    assert found is not None
    assert len(found.context.trace_state) == stands
    assert not caplog.records


def nothing_said(spans: Spans) -> None:
    told = " ".join(span.to_json() for span in spans.all)
    assert "tailrace.job.id" in told
    for canary in ("Wj8vB3xN", "Zebulon", "Heron", "Kp4tR9sL", "canary"):
        assert canary not in told
