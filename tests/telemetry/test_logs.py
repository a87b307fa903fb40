"""Lines of the log: one for each event that matters, as text or JSON, with the job's id; libraries never say too much."""

import io
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from opentelemetry import trace
from redis.asyncio import Redis

from engine import engine, wait_until
from spans import id_of, kept, trace_of
from tailrace import App, Context, JobFailed
from tailrace.telemetry.current import working_for
from tailrace.telemetry.logs import ACCESS, JOBS, JsonFormatter, log_to_stderr

PROMPT: Final = "canary prompt of Zebulon"


def line(**fields: Any) -> dict[str, Any]:
    record = logging.LogRecord("tailrace.x", logging.WARNING, __file__, 1, "job %r: %d", ("a\nb", 3), None)
    vars(record).update(fields)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    told: dict[str, Any] = json.loads(text)
    return told


def test_a_line_has_time_level_logger_and_event() -> None:
    told = line(created=1_795_385_637.963)
    assert told == {
        "time": "2026-11-22T22:13:57.963Z",
        "level": "warning",
        "logger": "tailrace.x",
        "event": "job 'a\\nb': 3",
    }


def test_fields_go_along_and_none_replaces_the_lines_own() -> None:
    told = line(job_id="j", attempt=2, event="mine", time=5, nothing=None, many=(1, "two", 3.5), odd=float("nan"))
    assert told["event"] == "job 'a\\nb': 3"
    assert told["time"] != 5
    assert (told["job_id"], told["attempt"], told["many"], told["odd"]) == ("j", 2, [1, "two", 3.5], None)
    assert "nothing" not in told


def test_of_an_object_only_the_class_is_told() -> None:
    class Secret:
        def __repr__(self) -> str:
            return "canary"

    told = line(what=Secret(), within={"it": [Secret()]})
    assert (told["what"], told["within"]) == ("Secret", {"it": ["Secret"]})


def test_an_exception_is_one_field() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        told = line(exc_info=(ValueError, error, error.__traceback__))
    assert told["exception"].startswith("Traceback")
    assert told["exception"].endswith("ValueError: two\nlines")


def test_the_job_and_the_span_at_hand_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "trace_id" not in line()
    with kept(monkeypatch) as spans, trace.get_tracer("app").start_as_current_span("x"), working_for({"job_id": "j"}):
        told = line()
    span = spans.one("x")
    assert told["job_id"] == "j"
    assert (told["trace_id"], told["span_id"]) == (f"{trace_of(span):032x}", f"{id_of(span):016x}")


@contextmanager
def new_process() -> Generator[None]:
    """The loggers as they are in a process that has just begun."""
    names = ("tailrace", JOBS, ACCESS, "openai", "arq", "asyncio", "httpx", "httpx2", "opentelemetry")
    root = logging.getLogger()
    before, handlers, levels = root.level, root.handlers[:], {name: logging.getLogger(name).level for name in names}
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(before)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def test_libraries_are_never_heard_below_info() -> None:
    stream = io.StringIO()
    with new_process():
        log_to_stderr("json", "debug", stream=stream)
        for name in ("openai._base_client", "httpx2", "aiohttp.client", "somebody", "tailrace.worker.run"):
            logging.getLogger(name).debug("canary")
    assert [json.loads(each)["logger"] for each in stream.getvalue().splitlines()] == ["tailrace.worker.run"]


@pytest.mark.parametrize(
    ("how", "heard"),
    [
        ({}, ["info", "jobs", "access", "warning"]),
        ({"jobs": False}, ["info", "access", "warning"]),
        ({"access": False}, ["info", "jobs", "warning"]),
        ({"level": "warning"}, ["warning"]),
        ({"level": "debug"}, ["debug", "info", "jobs", "access", "warning"]),
    ],
)
def test_lines_can_be_turned_down(how: dict[str, Any], heard: list[str]) -> None:
    stream, logger = io.StringIO(), logging.getLogger("tailrace.worker")
    with new_process():
        log_to_stderr("text", **how, stream=stream)
        logger.debug("debug")
        logger.info("info")
        logging.getLogger(JOBS).info("jobs")
        logging.getLogger(ACCESS).info("access")
        logging.getLogger(JOBS).warning("warning")
    assert [each.split()[-1] for each in stream.getvalue().splitlines()] == heard


def of(caplog: pytest.LogCaptureFixture, job_id: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if vars(record).get("job_id") == job_id and record.name == JOBS]


async def test_a_job_is_two_lines_with_what_became_of_it(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with engine(real_redis, namespace) as e:
        job = await e.tailrace.submit(PROMPT)
        await job.result(timeout=10)
        await wait_until("both were told", lambda: len(of(caplog, job.id)) == 2)
        assert e.worker is not None
        first, last = of(caplog, job.id)
        assert (first["attempt"], first["worker"], first["api"]) == (1, e.worker.name, "chat")
        assert (last["status"], last["finish_reason"], last["levelname"]) == ("completed", "stop", "INFO")
        assert last["input_tokens"] > 0
        assert last["output_tokens"] > 0
        assert last["duration_ms"] >= last["first_chunk_ms"] >= 0
    assert "canary" not in f"{[vars(record) for record in caplog.records if record.name.startswith('tailrace')]}"


async def test_retries_and_failures_say_of_which_kind(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with engine(real_redis, namespace, upstream={"max_retries": 0}) as e:
        script: dict[str, Any] = {"rehearsal": {"fault": "status", "code": 503}}
        job = await e.tailrace.submit(PROMPT, max_attempts=2, params=script)
        with pytest.raises(JobFailed):
            await job.result(timeout=10)
        await wait_until("all was told", lambda: len(of(caplog, job.id)) == 4)
    told = of(caplog, job.id)
    assert [each.get("error_type") for each in told] == [None, "upstream_status", None, "upstream_status"]
    assert (told[1]["http_status"], told[1]["retryable"], told[3]["status"]) == (503, True, "failed")
    assert told[3]["levelname"] == "WARNING"


async def test_what_a_task_logs_itself_has_its_jobs_id(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, stream = App(), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    mine = logging.getLogger("my_tasks")
    mine.addHandler(handler)

    def in_a_thread() -> None:
        mine.warning("in a thread")

    @app.task
    async def tells(ctx: Context) -> None:
        mine.warning("in the task")
        await ctx.step("thread", in_a_thread)

    try:
        async with engine(real_redis, namespace, app=app) as e:
            job = await e.tailrace.submit(task="tells")
            await job.result(timeout=10)
    finally:
        mine.removeHandler(handler)
    told = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert [(each["event"], each["job_id"], each["attempt"]) for each in told] == [
        ("in the task", job.id, 1),
        ("in a thread", job.id, 1),
    ]


async def test_a_fenced_attempt_is_a_warning(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine(real_redis, namespace) as e:
        job = await e.tailrace.submit(PROMPT, params={"rehearsal": {"tokens": 1000, "pace": 0.05}})
        async for _ in job.stream():
            break
        keys = e.settings.keys
        top = (await real_redis.xrevrange(keys.log(job.id), count=1))[0][0].decode()
        epoch = int(top.partition("-")[0]) + 1
        attempt = {"attempt": 1, "worker": "other", "nonce": "n", "after": top, "incarnation": "x", "ts": 1}
        await real_redis.xadd(keys.log(job.id), {"attempt": json.dumps(attempt)}, id=f"{epoch}-0")
        await wait_until("it is told", lambda: [each for each in of(caplog, job.id) if "outcome" in each])
        await job.cancel()
    (told,) = [each for each in of(caplog, job.id) if each.get("outcome") == "fenced"]
    assert told["levelname"] == "WARNING"
