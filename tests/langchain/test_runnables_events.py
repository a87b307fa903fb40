"""The events of a runnable as a task beside LangChain's own over the same runnable."""

from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any, cast

import httpx2
import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun, adispatch_custom_event
from langchain_core.documents import Document
from langchain_core.messages import AIMessageChunk, AnyMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph  # pyright: ignore[reportMissingTypeStubs]  # it has its types in line, but no marker
from langgraph.prebuilt import ToolNode, tools_condition  # pyright: ignore[reportMissingTypeStubs]  # as above
from redis.asyncio import Redis
from runnable_events import Event, by_run, completion, joined, ours, steps, streamed, theirs, world

from tailrace import App, TailraceError
from tailrace.langchain import ChatTailrace, revive

pytestmark = [
    pytest.mark.filterwarnings("ignore:astream_events version"),
    # LangChain's tracer of v1 copies a log that holds messages.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]

PROMPT: Any = ChatPromptTemplate.from_messages([("system", "You are brief."), ("human", "Write of {topic}")])
OTTERS = {"topic": "otters in the rain"}


@tool
def weather(city: Annotated[str, "which city"]) -> str:
    """The weather of a city."""
    return f"rain in {city}"


class Library(BaseRetriever):
    """Two documents for every question."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's
    ) -> list[Document]:
        return [Document(f"{word} of {query}", metadata={"source": word}, id=word) for word in ("first", "second")]


async def shouted(pieces: Any) -> AsyncGenerator[str]:
    async for piece in pieces:
        yield piece.upper()


async def tells(given: Any) -> Any:
    await adispatch_custom_event("found", {"count": 2, "of": given})
    return given


def first_page(found: list[Document]) -> str:
    return found[0].page_content


def graph(model: Any) -> Any:
    bound = model.bind_tools([weather])

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    def sum_up(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("ai", f"{len(state['messages'])} messages")]}

    built: Any = StateGraph(MessagesState)
    built.add_node("agent", ask)
    built.add_node("tools", ToolNode([weather]))
    built.add_node("end", sum_up)
    built.add_edge(START, "agent")
    built.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: "end"})
    built.add_edge("tools", "end")
    built.add_edge("end", END)
    return built.compile()


SHAPES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "model": (lambda model: model, "hello there"),
    "chain": (lambda model: PROMPT | model | StrOutputParser(), OTTERS),
    "configured": (
        lambda model: (
            PROMPT | model.with_config(run_name="poet", tags=["verse"], metadata={"mood": "wet"})
        ).with_config(tags=["all"]),
        OTTERS,
    ),
    "generator": (lambda model: PROMPT | model | StrOutputParser() | RunnableGenerator(shouted), OTTERS),
    "tool": (lambda _: weather, {"city": "Rome"}),
    "retriever": (lambda _: Library(), "mills"),
    "custom": (lambda _: RunnableLambda(tells), "mills"),
    "bound": (lambda model: model.bind_tools([weather]), "the weather in 'Rome'"),
    "graph": (graph, {"messages": [["human", "the weather in 'Rome'"]]}),
    "retrieval": (
        lambda model: (
            {"context": Library() | RunnableLambda(first_page), "topic": RunnablePassthrough[Any]()}
            | ChatPromptTemplate.from_template("{topic} by {context}")
            | model
        ),
        "mills",
    ),
}
PARALLEL = {"retrieval"}

#: What is compared does not depend on the server.
on_one_server = pytest.mark.parametrize("redis", ["fake"], indirect=True)


@on_one_server
@pytest.mark.parametrize("shape", SHAPES)
async def test_runs_are_those_of_astream_events(shape: str, redis: Redis, namespace: str) -> None:
    make, given = SHAPES[shape]
    app = App()
    async with world(redis, namespace, app) as (running, model):
        app.add_runnable("task", make(model), events="all", inputs=True)
        known, told = await theirs(make(model), given), await ours(running, "task", given)
    view = by_run if shape in PARALLEL else steps
    assert view(told) == view(known)
    assert joined(told) == joined(known)
    echoes = ("chain", "parser", "prompt", "tool", "retriever")
    assert streamed(told, *echoes) == streamed(known, *echoes)


def as_v1_says_now(event: Event) -> Event:
    """v1 tells the output of a model or retriever below another run in a form of its own; and of the root run less metadata."""
    data = dict(event["data"])
    match data.get("output"):
        case {"generations": [[{"message": message}]]} if event["event"] == "on_chat_model_end":
            data["output"] = message
        case {"documents": documents} if event["event"] == "on_retriever_end":
            data["output"] = documents
        case _:
            pass
    return {**event, "data": data}


@on_one_server
@pytest.mark.parametrize("shape", SHAPES)
async def test_runs_are_those_of_astream_events_v1(shape: str, redis: Redis, namespace: str) -> None:
    make, given = SHAPES[shape]
    app = App()
    async with world(redis, namespace, app) as (running, model):
        app.add_runnable("task", make(model), inputs=True)
        known, told = await theirs(make(model), given, "v1"), await ours(running, "task", given, "v1")
    root = known[0]["run_id"]
    metadata = told[0]["metadata"]
    root_like: list[Event] = [
        {**as_v1_says_now(event), "metadata": metadata if event["run_id"] == root else event["metadata"]}
        for event in known
    ]
    # The root graph's output is a chunk there, and there are no custom events.
    told = [event for event in told if event["event"] != "on_custom_event"]
    known = root_like
    if shape == "graph":
        known[-1]["data"]["output"] = told[-1]["data"]["output"]
    view = by_run if shape in PARALLEL else steps
    assert without_position(view(told)) == without_position(view(known))


def without_position(value: Any) -> Any:
    """v1 puts chunks together again, with other marks of the last."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        # Which class put the stream together: v1 has a message where v2 has the chunk of all chunks.
        drop = ("chunk_position", "class", "type", "tool_call_chunks")
        return {name: without_position(item) for name, item in fields.items() if name not in drop}
    return [without_position(item) for item in cast("Any", value)] if isinstance(value, list) else value


async def test_a_completion_has_the_runs_of_astream_events(redis: Redis, namespace: str) -> None:
    app = App()
    async with world(redis, namespace, app) as (running, _), httpx2.AsyncClient() as client:
        chain = PromptTemplate.from_template("Write of {topic}") | completion(running, client)
        app.add_runnable("task", chain, events="all", inputs=True)
        known, told = await theirs(chain, OTTERS), await ours(running, "task", OTTERS)
        assert steps(told) == steps(known)
        # LangChain's chunks of a completion are generations when they are told by the model, texts when by the chain.
        texts = [chunk if isinstance(chunk, str) else chunk["text"] for chunk in streamed(known, "llm").popitem()[1]]
        assert streamed(told, "llm").popitem()[1] == [text for text in texts if text]


async def test_parallel_runs_are_those_of_astream_events(redis: Redis, namespace: str) -> None:
    app = App()
    async with world(redis, namespace, app) as (running, model):
        both = RunnableParallel[Any](
            left=PROMPT | model.with_config(tags=["left"]) | StrOutputParser(),
            right=PROMPT | model.with_config(tags=["right"]) | StrOutputParser(),
        )
        app.add_runnable("task", both, inputs=True)
        known, told = await theirs(both, OTTERS), await ours(running, "task", OTTERS)
        assert by_run(told) == by_run(known)
        assert nested(told) == nested(known)


def nested(events: list[Event]) -> list[Any]:
    """The names above each run."""
    names = {event["run_id"]: event["name"] for event in events}
    return sorted({(event["name"], *(names[above] for above in event["parent_ids"])) for event in events})


async def test_unless_asked_for_nothing_of_the_question_is_shown_and_no_echo(redis: Redis, namespace: str) -> None:
    app = App()
    async with world(redis, namespace, app) as (running, model):
        chain: Any = RunnablePassthrough[Any]() | PROMPT | model | StrOutputParser()
        app.add_runnable("task", chain)
        known, told = await theirs(chain, OTTERS), await ours(running, "task", OTTERS)
        assert steps(told, data=False) == steps(known, data=False)
        assert OTTERS["topic"] not in repr([event for event in told if "model" not in event["event"]])
        assert not [event for event in told if "input" in event["data"]]
        assert {event["event"] for event in told if event["event"].endswith("_stream")} == {"on_chat_model_stream"}
        withheld = next(event["data"]["output"] for event in told if event["event"] == "on_prompt_end")
        assert (withheld["type"], withheld["reason"]) == ("not_serializable", "withheld")


async def test_the_jobs_text_is_what_it_streams_and_its_output_what_it_returns(redis: Redis, namespace: str) -> None:
    app = App()
    async with world(redis, namespace, app) as (running, model):
        app.add_runnable("text", PROMPT | model | StrOutputParser() | RunnableGenerator(shouted))
        app.add_runnable("message", PROMPT | model)
        app.add_runnable("lookup", weather)
        job = await running.tailrace.submit(task="text", input=OTTERS)
        pieces = [piece async for piece in job.stream()]
        result = await job.result(timeout=10)
        expected = [piece async for piece in (PROMPT | model | StrOutputParser()).astream(OTTERS)]
        assert pieces == [piece.upper() for piece in expected if piece]
        assert result.text == result.output == "".join(pieces)

        result = await (await running.tailrace.submit(task="message", input=OTTERS)).result(timeout=10)
        message = revive(result.output)
        assert isinstance(message, AIMessageChunk)
        assert message.text == result.text == "".join(expected)
        assert result.usage == {
            name: count for name, count in (message.usage_metadata or {}).items() if isinstance(count, int)
        }

        result = await (await running.tailrace.submit(task="lookup", input={"city": "Rome"})).result(timeout=10)
        assert result.text == result.output == "rain in Rome"


async def test_a_chain_over_our_own_model_runs_its_calls_as_jobs(redis: Redis, namespace: str) -> None:
    app = App()
    async with world(redis, namespace, app) as (running, model):
        ours_below = PROMPT | ChatTailrace(model="gpt-4o-mini", tailrace=running.tailrace) | StrOutputParser()
        app.add_runnable("durable", ours_below)
        job = await running.tailrace.submit(task="durable", input=OTTERS)
        expected = await (PROMPT | model | StrOutputParser()).ainvoke(OTTERS)
        assert await job.text(timeout=10) == expected
        events = [event async for event in job.stream_events()]
        ended: Any = next(event["data"]["output"] for event in events if event["event"] == "on_chat_model_end")
        below = running.tailrace.job(ended["response_metadata"]["job_id"])
        assert (await below.result(timeout=10)).text == expected


async def test_the_input_can_be_checked_and_the_config_made_for_the_job(redis: Redis, namespace: str) -> None:
    app = App()

    def count(messages: list[Any], config: RunnableConfig) -> list[Any]:
        return [[type(message).__name__ for message in messages], config.get("metadata", {})["job"]]

    app.add_runnable(
        "count",
        RunnableLambda(count),
        input=list[AnyMessage],
        config=lambda job: {"metadata": {"job": job.job_id}},
    )
    async with world(redis, namespace, app) as (running, _):
        job = await running.tailrace.submit(task="count", input=[{"type": "human", "content": "hello"}])
        assert (await job.result(timeout=10)).output == [["HumanMessage"], job.id]
        with pytest.raises(TailraceError, match="input"):
            await (await running.tailrace.submit(task="count", input="hello")).result(timeout=10)


def test_only_runnables_are_registered() -> None:
    app = App()
    with pytest.raises(TypeError, match="no Runnable"):
        app.add_runnable("function", lambda: None)  # type: ignore[arg-type]  # what is refused  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="compile"):
        app.add_runnable("graph", StateGraph(MessagesState))  # type: ignore[arg-type]  # what is refused  # pyright: ignore[reportArgumentType]
    app.add_runnable("one", weather)
    with pytest.raises(ValueError, match="'one' already"):
        app.add_runnable("one", weather)
