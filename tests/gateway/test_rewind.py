"""An attempt dies in mid-stream and the next one goes another way: what OpenAI's package sees, over upstreams in each dress."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

import httpx2
import openai
import pytest
from gateways import Served, served
from redis.asyncio import Redis
from sse import read_sse

from engine import engine, running_worker
from tailrace.upstreams.rehearsal import Rehearsal

T = TypeVar("T")

#: One model of each dress: chat completions, legacy completions, Responses.
DRESSES: Final = ("rehearsal", "legacy-model", "native-model")
TOKENS: Final = 30
DIFFERS_AT: Final = 12
#: The first attempt breaks off; the second one says something else from a token on that has been shown already.
BREAKS: Final = {"fault": "cut", "at": 20, "times": 1}
OTHERWISE: Final = {"tokens": TOKENS, "seed_by": "call", "differ_at": DIFFERS_AT, "pace": 0.005}
FIRST: Final = "".join(f" token{number}" for number in range(20))
STANDS: Final = "".join(f" token{number}{'.2' if number >= DIFFERS_AT else ''}" for number in range(TOKENS))
MESSAGES: Final = [{"role": "user", "content": "x"}]


@asynccontextmanager
async def gateway_of(redis: Redis, namespace: str, *, with_worker: bool = True) -> AsyncGenerator[Served]:
    async with Rehearsal() as other:
        # Without retries of the request, whose pauses would be most of the time that these tests take.
        base = {"base_url": other.base_url, "api_key_env": "", "max_retries": 0}
        upstreams = {
            "legacy": {**base, "api": "completions", "models": ["legacy-model"]},
            "native": {**base, "api": "responses", "models": ["native-model"]},
        }
        running = engine(redis, namespace, with_worker=with_worker, upstream={"max_retries": 0}, upstreams=upstreams)
        async with running as started, served(started) as gateway:
            yield gateway


@pytest.fixture
async def gateway(real_redis: Redis, namespace: str) -> AsyncGenerator[Served]:
    async with gateway_of(real_redis, namespace) as gateway:
        yield gateway


def package(gateway: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


def told(**script: Any) -> dict[str, Any]:
    return {"rehearsal": {**OTHERWISE, **script}}


def bodies(events: list[Any]) -> list[dict[str, Any]]:
    return [event.to_dict() for event in events]


def deltas(events: list[dict[str, Any]], output_index: int) -> str:
    """The text of one item, as it came."""
    of_text = [event for event in events if event["type"] == "response.output_text.delta"]
    return "".join(event["delta"] for event in of_text if event["output_index"] == output_index)


def assert_told_as_two_items(events: list[dict[str, Any]], void: str) -> None:
    """An item that broke off with what was void in it, then another one with all that stands, and no number left out."""
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    begun = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["id"] for item in done] == begun
    assert len(set(begun)) == 2
    assert [item["status"] for item in done] == ["incomplete", "completed"]
    assert [item["content"][0]["text"] for item in done] == [deltas(events, 0), deltas(events, 1)] == [void, STANDS]
    # The first item is over before the second one begins.
    kinds = [(event["type"], event["output_index"]) for event in events if "output_index" in event]
    assert kinds.index(("response.output_item.done", 0)) + 1 == kinds.index(("response.output_item.added", 1))
    final = events[-1]["response"]
    assert events[-1]["type"] == "response.completed"
    assert [item["id"] for item in final["output"]] == begun[1:]
    assert final["output"] == done[1:]


@pytest.mark.parametrize("model", DRESSES)
async def test_a_response_closes_what_is_void_and_begins_anew_with_the_same_numbers_at_every_read(
    gateway: Served, model: str
) -> None:
    async with package(gateway) as client, package(gateway) as other:
        create, retrieve = client.responses.create, other.responses.retrieve
        stream = await create(model=model, input="x", stream=True, background=True, extra_body=told(**BREAKS))
        seen: list[Any] = [await anext(stream) for _ in range(10)]
        await stream.close()
        job_id = str(seen[0].to_dict()["response"]["id"])
        # A reader that was there before the rewind, and others that come after it.
        seen += [event async for event in await retrieve(job_id, stream=True, starting_after=9)]
        live = bodies(seen)
        assert_told_as_two_items(live, void=FIRST)
        assert bodies([event async for event in await retrieve(job_id, stream=True)]) == live
        for after in (-1, 8, 20, *range(23, 30), len(live) - 2):
            rest = [event async for event in await retrieve(job_id, stream=True, starting_after=after)]
            assert bodies(rest) == live[after + 1 :]
        whole = await retrieve(job_id)
        assert whole.output_text == STANDS == await gateway.engine.tailrace.job(job_id).text()
        assert whole.to_dict()["output"] == live[-1]["response"]["output"]
        async with other.responses.stream(response_id=job_id, starting_after=9) as helped:
            assert [event.sequence_number async for event in helped] == [*range(10, len(live))]
            assert (await helped.get_final_response()).output_text == STANDS


@pytest.mark.parametrize("model", ["rehearsal", "native-model"])
async def test_a_worker_goes_in_mid_stream_and_another_one_goes_another_way(
    real_redis: Redis, namespace: str, model: str
) -> None:
    async with gateway_of(real_redis, namespace, with_worker=False) as gateway, package(gateway) as client:
        settings = gateway.engine.settings
        events: list[Any] = []
        async with running_worker(settings, real_redis):
            stream = await client.responses.create(
                model=model, input="x", stream=True, background=True, extra_body=told(fault="stall", at=20, times=1)
            )
            async for event in stream:
                events.append(event)
                if getattr(event, "delta", "") == " token19":
                    break
        # One and the same connection, over both workers.
        async with running_worker(settings, real_redis), aclosing(stream):
            events += [event async for event in stream]
        assert_told_as_two_items(bodies(events), void=FIRST)
        again = await client.responses.retrieve(events[0].response.id, stream=True)
        assert bodies([event async for event in again]) == bodies(events)


async def chunks(client: openai.AsyncOpenAI, kind: str, **more: Any) -> Any:
    if kind == "chat":
        create: Any = client.chat.completions.create
        return await create(model="rehearsal", messages=MESSAGES, stream=True, **more)
    return await client.completions.create(model="legacy-model", prompt="x", stream=True, **more)


async def until_it_breaks(stream: AsyncIterator[T], into: list[T]) -> None:
    async for piece in stream:
        into.append(piece)  # noqa: PERF401  # what came before it breaks counts


def said(chunk: Any) -> str:
    choice = chunk.choices[0]
    return (choice.text if hasattr(choice, "text") else choice.delta.content) or ""


@pytest.mark.parametrize("kind", ["chat", "completions"])
async def test_a_stream_of_chunks_cannot_take_back_so_it_says_so_breaks_off_and_is_begun_again(
    gateway: Served, kind: str
) -> None:
    async with package(gateway) as client:
        stream = await chunks(client, kind, extra_body=told(**BREAKS))
        job_id = stream.response.headers["x-tailrace-job-id"]
        seen: list[Any] = []
        with pytest.raises(openai.APIError, match="resume the job from its beginning") as broken:
            await until_it_breaks(stream, seen)
        assert broken.value.code == "stream_rewound"
        assert "".join(map(said, seen)) == FIRST
        stands = [chunk async for chunk in await chunks(client, kind, extra_headers={"x-tailrace-resume": job_id})]
        assert "".join(map(said, stands)) == STANDS
        # From a position that stands, what stands is behind it; its text is part of both.
        before = [chunk for chunk in seen if chunk.position in {other.position for other in stands}]
        resume = {"x-tailrace-resume": job_id, "x-tailrace-after": before[5].position}
        rest = [chunk async for chunk in await chunks(client, kind, extra_headers=resume)]
        assert "".join(map(said, before[:6])) + "".join(map(said, rest)) == STANDS
        # From one that does not, there is no way on.
        resume = {"x-tailrace-resume": job_id, "x-tailrace-after": seen[-1].position}
        with pytest.raises(openai.APIStatusError, match="resume the job from its beginning") as refused:
            await chunks(client, kind, extra_headers=resume)
        assert (refused.value.status_code, refused.value.code) == (410, "stream_rewound")


async def test_a_chat_that_is_rewound_is_dropped_without_an_end(gateway: Served) -> None:
    asked = {"model": "rehearsal", "stream": True, "messages": MESSAGES, **told(**BREAKS)}
    pieces: list[bytes] = []
    async with gateway.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        with pytest.raises(httpx2.RemoteProtocolError):
            await until_it_breaks(answer.aiter_bytes(), pieces)
    assert read_sse(b"".join(pieces))[-1].json["error"]["code"] == "stream_rewound"
