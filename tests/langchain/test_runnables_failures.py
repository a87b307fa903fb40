"""Runnables that fail, are cancelled, die with their worker: what readers are told."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun, adispatch_custom_event
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableParallel
from langchain_core.tools import ToolException, tool
from redis.asyncio import Redis
from runnable_events import world

from engine import Engine, engine, running_worker, wait_until
from tailrace import App, JobCancelled, JobFailed, Settings
from tailrace.client.jobs import JobsOf
from tailrace.worker.runnables.watching import RunFailed, happenings

QUESTION = "what do the otters do when it rains"
PROMPT: Any = ChatPromptTemplate.from_template("Answer: {question}")


class Broken(BaseRetriever):
    """Finds nothing."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's
    ) -> Any:
        raise LookupError(f"no index for {query}")


class BrokenChat(FakeListChatModel):
    """Says two characters."""

    responses: list[str] = ["hello"]  # noqa: RUF012 - a field of pydantic's
    error_on_chunk_number: int | None = 2


class BrokenLLM(FakeListLLM):
    """Says nothing."""

    responses: list[str] = []  # noqa: RUF012 - a field of pydantic's


class Strict(BaseOutputParser[str]):
    """Accepts nothing."""

    def parse(self, text: str) -> str:
        raise OutputParserException(f"not an answer: {text}")


@tool
def broken(city: str) -> str:
    """Fail."""
    raise ToolException(f"no weather in {city}")


def unchanged(given: Any) -> Any:
    return given


def much(_: Any) -> Any:
    return ["x" * 20_000]


def little(_: Any) -> Any:
    return "short"


def divided(_: Any) -> float:
    return 1 / 0


async def events_of(running: Engine, task: str, given: Any) -> list[dict[str, Any]]:
    job = await running.tailrace.submit(task=task, input=given)
    events: list[Any] = []

    async def read() -> None:
        async for event in job.stream_events():
            events.append(event)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(JobFailed):
        await read()
    return events


def check_well_formed(events: list[dict[str, Any]]) -> None:
    """Each run begins once, after its parents, and ends once, with nothing of it behind that."""
    begun: set[str] = set()
    ended: set[str] = set()
    for event in events:
        run, phase = event["run_id"], event["event"].rpartition("_")[2]
        if event["event"] == "on_custom_event":
            continue
        assert run not in ended
        assert (phase == "start") == (run not in begun)
        assert begun.issuperset(event["parent_ids"])
        begun.add(run)
        if phase in ("end", "error"):
            ended.add(run)
    assert begun == ended


FAILURES: dict[str, tuple[Runnable[Any, Any], Any, list[str]]] = {
    "prompt": (
        PROMPT | FakeListChatModel(responses=["hi"]),
        {"other": QUESTION},
        ["on_prompt_error", "on_chain_error"],
    ),
    "chat model": (PROMPT | BrokenChat(), {"question": QUESTION}, ["on_chat_model_error", "on_chain_error"]),
    "completion": (PROMPT | BrokenLLM(), {"question": QUESTION}, ["on_llm_error", "on_chain_error"]),
    "tool": (broken, {"city": "Rome"}, ["on_tool_error"]),
    "parser": (
        PROMPT | FakeListChatModel(responses=["no JSON"]) | Strict(),
        {"question": QUESTION},
        ["on_parser_error", "on_chain_error"],
    ),
    "retriever": (Broken(), QUESTION, ["on_retriever_error"]),
    "function": (RunnableLambda(unchanged) | divided, QUESTION, ["on_chain_error", "on_chain_error"]),
    "branch": (
        RunnableParallel[Any](
            good=FakeListChatModel(responses=["fine"]) | StrOutputParser(), bad=RunnableLambda(divided)
        ),
        QUESTION,
        ["on_chain_error"],
    ),
}


@pytest.mark.parametrize("where", FAILURES)
async def test_every_run_that_fails_has_an_error_event(where: str, redis: Redis, namespace: str) -> None:
    runnable, given, expected = FAILURES[where]
    app = App()
    app.add_runnable("task", runnable)
    async with engine(redis, namespace, app=app) as running:
        events = await events_of(running, "task", given)
    check_well_formed(events)
    errors = [event for event in events if event["event"].endswith("_error")]
    assert [event["event"] for event in errors][: len(expected)] == expected
    assert (errors[-1]["name"], errors[-1]["data"]["error"]["type"]) == ("task", "task_error")
    assert errors[0]["data"]["error"]["type"] == "run_error"
    # What an exception quotes of the question is not told.
    assert QUESTION not in repr(events)


async def test_an_error_that_a_fallback_catches_is_told_when_it_happens(redis: Redis, namespace: str) -> None:
    async def slowly(_: Any) -> AsyncGenerator[str]:
        for word in ("a ", "second ", "answer"):
            yield word

    app = App()
    app.add_runnable("task", (PROMPT | BrokenLLM()).with_fallbacks([RunnableGenerator(slowly)]), events="all")
    async with engine(redis, namespace, app=app) as running:
        job = await running.tailrace.submit(task="task", input={"question": QUESTION})
        events: list[Any] = [event async for event in job.stream_events()]
        assert await job.text() == "a second answer"
    check_well_formed(events)
    shown = [event["event"] for event in events]
    assert shown.index("on_llm_error") < shown.index("on_chain_stream")
    assert events[-1]["event"] == "on_chain_end"


async def test_an_error_comes_after_what_the_run_has_streamed(redis: Redis, namespace: str) -> None:
    app = App()
    app.add_runnable("task", PROMPT | BrokenChat(), events="all")
    async with engine(redis, namespace, app=app) as running:
        events = await events_of(running, "task", {"question": QUESTION})
    model = [event["event"] for event in events if event["name"] == "BrokenChat"]
    assert model == ["on_chat_model_start", *["on_chat_model_stream"] * 2, "on_chat_model_error"]


async def test_what_tailrace_acts_on_cannot_be_told_by_a_runnable(redis: Redis, namespace: str) -> None:
    async def spoofs(given: Any) -> Any:
        await adispatch_custom_event("tailrace.retry", {"counted": False})
        await adispatch_custom_event("plain", 7)
        return given

    app = App()
    app.add_runnable("task", RunnableLambda(spoofs))
    async with engine(redis, namespace, app=app) as running:
        job = await running.tailrace.submit(task="task", input="what")
        events: list[Any] = [event async for event in job.stream_events()]
    told = {event["name"]: event["data"] for event in events if event["event"] == "on_custom_event"}
    assert told == {"custom.tailrace.retry": {"counted": False}, "plain": {"value": 7}}


async def test_a_cancelled_runnable_lets_go_of_its_upstream(redis: Redis, namespace: str) -> None:
    app = App()
    async with world(redis, namespace, app) as (running, model):
        endless = model.bind(extra_body={"rehearsal": {"tokens": 5, "fault": "stall", "at": 2}})
        app.add_runnable("task", PROMPT | endless | StrOutputParser())
        job = await running.tailrace.submit(task="task", input={"question": QUESTION})
        stream = job.stream()
        for _ in range(2):  # all that comes: the runnable waits for its upstream
            await anext(stream)
        await job.cancel()
        with pytest.raises(JobCancelled):
            _ = [piece async for piece in stream]
        await wait_until("the upstream call is closed", lambda: not running.rehearsal.open_streams)


async def test_a_runnable_is_run_again_when_its_worker_goes_and_no_text_comes_twice(
    redis: Redis, namespace: str
) -> None:
    gate, words = asyncio.Event(), ["one ", "two ", "three ", "four"]
    runs = 0

    async def speaks(_: Any) -> AsyncGenerator[str]:
        nonlocal runs
        runs += 1
        for number, word in enumerate(words):
            if number == 2 and runs == 1:
                await gate.wait()
            yield word

    app = App()
    app.add_runnable("task", RunnableLambda(unchanged) | RunnableGenerator(speaks))
    async with engine(redis, namespace, with_worker=False) as running:
        job = await running.tailrace.submit(task="task", input=QUESTION)
        read: list[str] = []

        async def read_all() -> None:
            async for piece in job.stream():
                read.append(piece)  # noqa: PERF401 - looked at while it grows

        reading = asyncio.create_task(read_all())
        jobs = JobsOf(running.tailrace)
        async with running_worker(running.settings, redis, app=app, jobs=jobs):
            await wait_until("half of it is read", lambda: len(read) == 2)
        async with running_worker(running.settings, redis, app=app, jobs=jobs):
            await reading
        assert read == words
        assert runs == 2
        events: list[Any] = [event async for event in job.stream_events()]
    check_well_formed(events)
    restarted = [event["name"] for event in events if event["event"] == "on_chain_error"]
    assert restarted == ["speaks", "unchanged", "RunnableSequence"]
    assert all(event["data"]["error"]["type"] == "restarted" for event in events if event["event"] == "on_chain_error")
    assert [event["name"] for event in events if event["event"] == "on_chain_end"][-2:] == ["RunnableSequence", "task"]


async def test_on_restart_fail_does_not_run_it_again(redis: Redis, namespace: str) -> None:
    began = asyncio.Event()

    async def waits(_: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    app = App()
    app.add_runnable("task", RunnableLambda(waits))
    async with engine(redis, namespace, with_worker=False) as running:
        job = await running.tailrace.submit(task="task", input=QUESTION, on_restart="fail")
        async with running_worker(running.settings, redis, app=app):
            await began.wait()
        async with running_worker(running.settings, redis, app=app):
            with pytest.raises(JobFailed) as failed:
                await job.result(timeout=10)
        assert failed.value.error.type == "restarted"


async def test_what_is_over_the_limit_is_left_out_of_events_and_ends_the_job_in_its_output(
    redis: Redis, namespace: str
) -> None:
    app = App()
    app.add_runnable("echo", RunnableLambda(much) | RunnableLambda(little))
    app.add_runnable("whole", RunnableLambda(much))
    async with engine(redis, namespace, app=app, worker={"output_bytes": 10_000}) as running:
        job = await running.tailrace.submit(task="echo", input=QUESTION)
        assert await job.text(timeout=10) == "short"
        events: list[Any] = [event async for event in job.stream_events()]
        first = next(event["data"]["output"] for event in events if event["event"] == "on_chain_end")
        assert (first["type"], first["reason"]) == ("not_serializable", "output_limit")
        job = await running.tailrace.submit(task="whole", input=QUESTION)
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=10)
        assert failed.value.error.type == "output_limit"


@asynccontextmanager
async def worker_process(settings: Settings) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("runnable_process.py")),
        settings.model_dump_json(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # The pipes' transports are closed by the loop, in its next turns.
        await asyncio.sleep(0)


async def test_a_killed_worker_leaves_no_gap_no_repeat_and_no_run_without_an_end(
    real_redis: Redis, server_url: str, namespace: str
) -> None:
    async with engine(real_redis, namespace, with_worker=False, redis_url=server_url) as running:
        job = await running.tailrace.submit(task="poem", input={"topic": QUESTION})
        read: list[str] = []
        async with worker_process(running.settings) as first:
            stream = job.stream()
            read += [await anext(stream) for _ in range(5)]
            first.kill()
            await first.wait()
            async with worker_process(running.settings):
                read += [piece async for piece in stream]
        assert "".join(read) == "".join(f" token{number}" for number in range(30))
        assert len(read) == 30
        result = await job.result()
        events: list[Any] = [event async for event in job.stream_events()]
    assert (result.attempts, result.text) == (2, "".join(read))
    check_well_formed(events)
    errors = [(event["event"], event["data"]["error"]["type"]) for event in events if "error" in event["data"]]
    assert errors == [
        ("on_parser_error", "restarted"),
        ("on_chat_model_error", "restarted"),
        ("on_chain_error", "restarted"),
    ]
    assert [event["attempt"] for event in events if event["event"] == "on_prompt_end"] == [1, 2]
    assert len(running.rehearsal.calls) == 2


async def test_an_error_never_overtakes_what_happened_before_it() -> None:
    """Threads put an event into LangChain's channel and tell of an error within one turn of the event loop."""

    async def events(_: Any, *, config: Any, version: str) -> AsyncGenerator[dict[str, Any]]:
        assert version == "v2"
        channel: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def in_one_turn() -> None:
            loop.call_soon_threadsafe(channel.put_nowait, {"event": "on_chain_start"})
            await config["callbacks"][-1].on_chain_error(ValueError("no"), run_id=UUID(int=1))

        telling = asyncio.create_task(in_one_turn())
        yield await channel.get()
        await telling
        yield await channel.get()

    async with aclosing(happenings(events, None, {})) as happened:
        told = [await anext(happened), await anext(happened)]
    assert told[0] == {"event": "on_chain_start"}
    assert isinstance(told[1], RunFailed)
    assert told[1].run_id == str(UUID(int=1))
