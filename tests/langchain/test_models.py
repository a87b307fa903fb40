"""What our models have beyond LangChain's own: jobs."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessageChunk

from stack import Stack
from tailrace import AsyncTailrace, Status, Tailrace
from tailrace.langchain import ChatTailrace, JobOptions, TailraceLLM
from tailrace.openai import close_shared

PATIENCE_S = 20


@pytest.fixture(params=["chat", "responses"])
def chat(request: pytest.FixtureRequest, tailrace: Tailrace) -> ChatTailrace:
    return ChatTailrace(model="gpt-4o-mini", tailrace=tailrace, use_responses_api=request.param == "responses")


@pytest.fixture
def llm(tailrace: Tailrace) -> TailraceLLM:
    return TailraceLLM(model="gpt-3.5-turbo-instruct", tailrace=tailrace)


def merged(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole, *rest = chunks
    for chunk in rest:
        whole += chunk
    return whole


async def test_the_metadata_of_an_answer_names_its_job(chat: ChatTailrace, tailrace: Tailrace) -> None:
    for answer in (
        chat.invoke("hello"),
        await chat.ainvoke("hello"),
        merged(list(chat.stream("hello"))),
        merged([chunk async for chunk in chat.astream("hello")]),
    ):
        result = tailrace.job(answer.response_metadata["job_id"]).result(timeout=PATIENCE_S)
        assert (result.status, result.text) == (Status.COMPLETED, answer.text)


def test_a_job_id_can_be_chosen_and_the_same_call_is_the_same_job(chat: ChatTailrace, stack_calls: "Calls") -> None:
    before = stack_calls()
    job_id = f"chosen-{chat.use_responses_api}"
    first, second = (chat.invoke("hello", job_id=job_id) for _ in range(2))
    assert first.response_metadata["job_id"] == second.response_metadata["job_id"] == job_id
    assert first.content == second.content
    assert stack_calls() == before + 1


def test_a_job_is_resumed_from_its_beginning(chat: ChatTailrace) -> None:
    said = merged(list(chat.stream("hello")))
    again = merged(list(chat.resume(said.response_metadata["job_id"])))
    assert again.text == said.text
    assert again.usage_metadata == said.usage_metadata
    assert again.response_metadata["job_id"] == said.response_metadata["job_id"]


async def test_a_job_is_resumed_after_a_position(tailrace: Tailrace) -> None:
    chat = ChatTailrace(model="gpt-4o-mini", tailrace=tailrace)
    job_id = chat.invoke("hello").response_metadata["job_id"]
    pieces = list(tailrace.job(job_id).stream())
    rest = [chunk.text async for chunk in chat.aresume(job_id, after=pieces[9].position)]
    assert [text for text in rest if text] == [str(piece) for piece in pieces[10:]]


def test_tool_calls_are_resumed_too(tailrace: Tailrace) -> None:
    chat = ChatTailrace(model="gpt-4o-mini", tailrace=tailrace)
    tool = {
        "name": "weather",
        "description": "w",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    said = chat.bind(tools=[{"type": "function", "function": tool}]).invoke("the weather in 'Rome'")
    again = merged(list(chat.resume(said.response_metadata["job_id"])))
    assert [(call["name"], call["args"]) for call in again.tool_calls] == [("weather", {"city": "Rome"})]
    assert [call["id"] for call in again.tool_calls] == [call["id"] for call in said.tool_calls]


def test_who_resumes_what_is_not_there_is_told(chat: ChatTailrace) -> None:
    with pytest.raises(openai.NotFoundError, match="no job 'nowhere'"):
        list(chat.resume("nowhere"))


def test_a_completions_text_is_resumed(llm: TailraceLLM, tailrace: Tailrace) -> None:
    generation = llm.generate(["hello"]).generations[0][0]
    assert generation.generation_info is not None
    job_id = generation.generation_info["job_id"]
    assert tailrace.job(job_id).text() == generation.text == "".join(llm.resume(job_id))


def test_each_prompt_is_a_job_of_its_own(llm: TailraceLLM, tailrace: Tailrace) -> None:
    llm.batch_size = 2
    prompts = [f"prompt {number}" for number in range(5)]
    found = llm.generate(prompts)
    job_ids: list[str] = [generations[0].generation_info["job_id"] for generations in found.generations]  # type: ignore[index]  # it has one
    assert len(set(job_ids)) == 5
    assert [tailrace.job(job_id).text() for job_id in job_ids] == [each[0].text for each in found.generations]
    assert [llm.invoke(prompt) for prompt in prompts] == [each[0].text for each in found.generations]
    assert found.llm_output is not None
    usages = [tailrace.job(job_id).result().usage for job_id in job_ids]
    assert found.llm_output["token_usage"]["total_tokens"] == sum(usage["total_tokens"] for usage in usages if usage)  # type: ignore[misc]  # counts


def test_an_answer_streamed_inside_is_one_job(llm: TailraceLLM, tailrace: Tailrace) -> None:
    llm.streaming = True
    generation = llm.generate(["hello"]).generations[0][0]
    assert tailrace.job(generation.generation_info["job_id"]).text() == generation.text  # type: ignore[index]  # it has one


def test_options_go_to_the_job_and_params_to_the_upstream(tailrace: Tailrace, langchain_stack: Stack) -> None:
    chat = ChatTailrace(
        model="gpt-4o-mini",
        tailrace=tailrace,
        temperature=0.5,
        metadata={"lang": "chain"},
        jobs=JobOptions(metadata={"customer": 7}, tags=["a"]),
        extra_body={"metadata": {"theirs": "1"}},
    )
    result = tailrace.job(chat.invoke("hello").response_metadata["job_id"]).result()
    assert (result.metadata, result.tags) == ({"customer": 7}, ["a"])
    assert langchain_stack.rehearsal is not None
    body = langchain_stack.rehearsal.calls[-1].body
    assert (body["temperature"], body["metadata"]) == (0.5, {"theirs": "1"})


def test_an_upstream_that_nobody_configured_is_refused(tailrace: Tailrace) -> None:
    chat = ChatTailrace(model="gpt-4o-mini", tailrace=tailrace, upstream="elsewhere")
    with pytest.raises(openai.BadRequestError, match="elsewhere"):
        chat.invoke("hello")


@pytest.mark.parametrize(
    ("code", "expected"),
    [(401, openai.AuthenticationError), (429, openai.RateLimitError), (400, openai.BadRequestError)],
)
def test_an_upstreams_refusal_is_the_sdks_own_error(
    chat: ChatTailrace, code: int, expected: type[openai.APIStatusError], stack_calls: "Calls"
) -> None:
    before = stack_calls()
    refused: dict[str, Any] = {
        "extra_body": {"rehearsal": {"fault": "status", "code": code, "retry_after": 0.01}},
        "extra_headers": {"x-tailrace-max-attempts": "1"},
    }
    with pytest.raises(expected):
        chat.invoke("hello", **refused)
    with pytest.raises(expected):
        list(chat.stream("hello", **refused))
    # The worker tries again what may pass, and nobody above it: 1 or 3 calls for each.
    assert stack_calls() - before == (6 if code == 429 else 2)


def test_one_model_serves_threads_and_event_loops(tailrace: Tailrace) -> None:
    chat = ChatTailrace(model="gpt-4o-mini", tailrace=tailrace)
    expected = chat.invoke("hello").text

    def in_a_loop(number: int) -> str:
        return (asyncio.run(chat.ainvoke("hello")) if number % 2 else chat.invoke("hello")).text

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(in_a_loop, range(16))) == {expected}


async def test_many_calls_wait_at_the_same_time(tailrace: Tailrace) -> None:
    chat = ChatTailrace(model="rehearsal:ttft=0.2", tailrace=tailrace)
    async with asyncio.timeout(PATIENCE_S):
        answers = await chat.abatch([f"hello {number}" for number in range(60)])
    assert len({answer.response_metadata["job_id"] for answer in answers}) == 60


async def test_an_async_client_serves_async_methods(langchain_stack: Stack) -> None:
    async with AsyncTailrace(settings=langchain_stack.settings) as tailrace:
        chat = ChatTailrace(model="gpt-4o-mini", tailrace=tailrace)
        assert (await chat.ainvoke("hello")).content
        with pytest.raises(TypeError, match="async methods only"):
            chat.invoke("hello")


def test_without_a_client_one_is_opened_at_the_first_call(langchain_stack: Stack) -> None:
    settings = langchain_stack.settings
    try:
        assert ChatTailrace(model="gpt-4o-mini", settings=settings).invoke("hello").content
        assert TailraceLLM(settings=settings).invoke("hello")
    finally:
        close_shared()


class Calls:
    """How many calls the upstream has had."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __call__(self) -> int:
        assert self._stack.rehearsal is not None
        return len(self._stack.rehearsal.calls)


@pytest.fixture
def stack_calls(langchain_stack: Stack) -> Calls:
    return Calls(langchain_stack)


def ran(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50)


def test_importing_tailrace_does_not_import_langchain() -> None:
    done = ran("import sys, tailrace; print([name for name in sys.modules if name.startswith('langchain')])")
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("room", "missing"), [("langchain", "langchain_openai"), ("openai", "openai")])
def test_a_missing_extra_is_named(room: str, missing: str) -> None:
    done = ran(f"import sys; sys.modules[{missing!r}] = None; import tailrace.{room}")
    assert f"tailrace.{room} needs" in done.stderr
    assert f"pip install 'tailrace[{room}]'" in done.stderr
