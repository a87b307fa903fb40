"""Upstreams against the rehearsal upstream: streams, retries, fallbacks, closing."""

import asyncio
import contextlib
from typing import Any

import pytest
from asking import KEY, ask, closed_port, failing, read, serving, text_of, upstreams_of

from tailrace.schemas import Finish, JobRequest, Native, OpenPart, Status
from tailrace.upstreams.rehearsal import Rehearsal


@pytest.mark.parametrize("api", ["chat", "completions", "responses"])
@pytest.mark.parametrize("shape", [{}, {"crlf": True, "comments": True}, {"split": 7}, {"split": 1, "ascii": True}])
async def test_each_api_gives_the_text_and_its_usage_however_the_stream_is_cut(
    rehearsal: Rehearsal, api: str, shape: dict[str, Any]
) -> None:
    said = "One line, 東京 \U0001f600\n\x00 and another."
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        items, outcome = await read(upstreams, ask(api=api, text=said, **shape))
    assert text_of(items) == said
    assert outcome.status is Status.COMPLETED
    assert outcome.finish_reason == "stop"
    assert outcome.usage is not None
    assert outcome.usage["total_tokens"] > 0
    assert outcome.model == "gpt-4o-mini"


async def test_tool_calls_reasoning_and_choices_come_as_parts(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        calls = [{"name": "f", "arguments": '{"a": 1}'}, {"name": "g", "arguments": "{}"}]
        items, outcome = await read(upstreams, ask(calls=calls, reasoning="hm"))
        several = JobRequest.of("hi", model="gpt-4o-mini", n=2)
        both, _ = await read(upstreams, several)
    opened = [(item.part, item.index, item.name) for item in items if isinstance(item, OpenPart) and item.name]
    assert opened == [("tool_call", 0, "f"), ("tool_call", 1, "g")]
    assert OpenPart(part="reasoning") in items
    assert outcome.finish_reason == "tool_calls"
    assert {item.choice for item in both if isinstance(item, Finish)} == {0, 1}


async def test_responses_keep_the_upstreams_own_events(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        items, _ = await read(upstreams, ask(api="responses", text="ab cd"))
    kinds = [item.event["type"] for item in items if isinstance(item, Native)]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.done" not in kinds


async def test_a_length_limit_is_incomplete(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        _, outcome = await read(upstreams, JobRequest.of("hi", model="gpt-4o-mini", max_tokens=3))
    assert (outcome.status, outcome.finish_reason) == (Status.INCOMPLETE, "length")


async def test_an_answer_of_no_length_is_an_answer(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        items, outcome = await read(upstreams, ask(fault="no_content"))
    assert text_of(items) == ""
    assert outcome.finish_reason == "stop"


async def test_a_missing_done_is_accepted(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        assert (await read(upstreams, ask(fault="no_done")))[1].finish_reason == "stop"


async def test_an_upstream_that_needs_no_key_is_asked_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        seen.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: [DONE]\n\n")
        await writer.drain()

    async with serving(answer) as url, upstreams_of(default={"base_url": url, "api_key_env": ""}) as upstreams:
        await read(upstreams, ask())
    assert KEY.encode() not in seen[0]


async def test_an_upstream_that_holds_the_connection_after_done_is_not_waited_for() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: [DONE]\n\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with serving(answer) as url, upstreams_of(default={"base_url": url}) as upstreams, asyncio.timeout(5):
        assert (await read(upstreams, ask()))[1].finish_reason is None


async def test_retries_are_counted_and_used_from_one_budget(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url, "max_retries": 2}) as upstreams:
        flaky = ask(fault="status", code=503, retry_after=0.01, times=2)
        async with upstreams.open(flaky) as stream:
            assert stream.retries_taken == 2
            assert text_of([item async for items in stream for item in items])
        _, error = await failing(upstreams, ask("again", fault="status", code=503, retry_after=0.01), max_retries=1)
    assert error.retries_taken == 1
    assert len(rehearsal.calls) == 5


async def test_a_fallback_is_asked_when_the_first_takes_no_request(rehearsal: Rehearsal) -> None:
    async with Rehearsal(script={"fault": "status", "code": 503, "retry_after": 0.01}) as broken:
        given = {"base_url": broken.base_url, "fallback": "other", "max_retries": 1}
        async with upstreams_of(default=given, other={"base_url": rehearsal.base_url}) as upstreams:
            async with upstreams.open(ask()) as stream:
                assert (stream.upstream, stream.retries_taken) == ("other", 1)
                assert text_of([item async for items in stream for item in items])
            assert len(broken.calls) == 2


async def test_a_circle_of_fallbacks_is_asked_once_each_within_the_budget() -> None:
    async with Rehearsal(script={"fault": "status", "code": 503, "retry_after": 0.01}) as broken:
        one = {"base_url": broken.base_url, "fallback": "other", "max_retries": 1}
        async with upstreams_of(default=one, other={"base_url": broken.base_url, "fallback": "default"}) as upstreams:
            _, error = await failing(upstreams, ask())
        assert len(broken.calls) == 3
        assert error.retries_taken == 1
        assert "'other'" in error.detail.message


async def test_what_would_fail_anywhere_is_not_sent_to_a_fallback(rehearsal: Rehearsal) -> None:
    given = {"base_url": rehearsal.base_url, "fallback": "other"}
    async with upstreams_of(default=given, other={"base_url": rehearsal.base_url}) as upstreams:
        await failing(upstreams, ask(fault="status", code=404))
    assert len(rehearsal.calls) == 1


async def test_a_stream_that_breaks_does_not_change_to_the_fallback(rehearsal: Rehearsal) -> None:
    given = {"base_url": rehearsal.base_url, "fallback": "other"}
    async with upstreams_of(default=given, other={"base_url": rehearsal.base_url}) as upstreams:
        _, error = await failing(upstreams, ask(tokens=5, fault="cut", at=2))
    assert error.detail.type == "upstream_broken"
    assert len(rehearsal.calls) == 1


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_continue_from_goes_on_where_the_text_ends(rehearsal: Rehearsal, api: str) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url, "prefill": True}) as upstreams:
        whole = text_of((await read(upstreams, ask("Tell me", api=api)))[0])
        async with upstreams.open(ask("Tell me", api=api), continue_from=whole[:20]) as stream:
            assert stream.continued
            rest = text_of([item async for items in stream for item in items])
    assert rest == whole[20:]


async def test_params_reach_the_body_and_nothing_else(rehearsal: Rehearsal) -> None:
    forged = JobRequest(
        api="chat",
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "hi"}],
        params={"extra_headers": {"X-Odd": "1"}, "extra_query": {"q": "1"}, "timeout": 0, "user": "u"},
    )
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        await read(upstreams, forged)
    call = rehearsal.calls[0]
    assert call.body["user"] == "u"
    assert "x-odd" not in call.headers
    assert set(call.body) == {"user", "model", "stream", "stream_options", "messages"}


async def test_concurrency_lets_so_many_in_and_the_others_wait(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url, "concurrency": 2}) as upstreams:
        await asyncio.gather(*(read(upstreams, ask(str(number), tokens=2, pace=0.02)) for number in range(6)))
    calls = rehearsal.calls
    assert len(calls) == 6
    for call in calls:
        others = [other for other in calls if other.started < call.started < (other.finished or call.started + 1)]
        assert len(others) <= 1


async def test_a_job_that_is_cancelled_while_it_waits_for_a_place_takes_none(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url, "concurrency": 1}) as upstreams:
        async with upstreams.open(ask(fault="stall", tokens=3)):
            waiting, leaving = (asyncio.create_task(read(upstreams, ask(prompt))) for prompt in ("stays", "leaves"))
            await asyncio.sleep(0)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
        assert text_of((await waiting)[0])
    assert len(rehearsal.calls) == 2


async def test_more_than_a_hundred_streams_are_open_at_once(rehearsal: Rehearsal) -> None:
    async with (
        upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams,
        contextlib.AsyncExitStack() as stack,
    ):
        await asyncio.gather(
            *(stack.enter_async_context(upstreams.open(ask(fault="stall", tokens=1))) for _ in range(130))
        )
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 130)


@pytest.mark.parametrize(
    "script", [{"fault": "stall", "at": 2, "tokens": 9}, {"fault": "endless"}, {"tokens": 9, "pace": 5}]
)
async def test_leaving_the_context_closes_the_connection_at_once(rehearsal: Rehearsal, script: dict[str, Any]) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        async with upstreams.open(ask(**script)) as stream:
            await anext(aiter(stream))
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 0, "the connection is closed", timeout=1)
    assert rehearsal.calls[0].aborted


@pytest.mark.parametrize("twice", [False, True])
async def test_a_cancelled_reader_leaves_no_connection_open(rehearsal: Rehearsal, twice: bool) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        readers = [asyncio.create_task(read(upstreams, ask(str(n), fault="stall", tokens=3, at=1))) for n in range(20)]
        await rehearsal.wait_until(lambda: sum(call.tokens for call in rehearsal.calls) == 20)
        for reader in readers:
            reader.cancel()
        if twice:
            asyncio.get_running_loop().call_soon(lambda: [reader.cancel() for reader in readers])
        results = await asyncio.gather(*readers, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 0, "the connections are closed", timeout=1)


async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_connection_open(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        reader = asyncio.create_task(read(upstreams, ask(fault="slow_headers")))
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 0, "the connection is closed", timeout=1)


async def test_a_proxy_is_used_for_its_upstream_only(rehearsal: Rehearsal) -> None:
    seen: list[tuple[str, bool]] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        line, _, rest = head.partition(b"\r\n")
        method, target, version = line.decode().split(" ")
        seen.append((target, b"\r\nProxy-Authorization: Basic dTpw\r\n" in head))
        host, port = target.removeprefix("http://").partition("/")[0].split(":")
        path = "/" + target.removeprefix("http://").partition("/")[2]
        there, out = await asyncio.open_connection(host, int(port))
        out.write(f"{method} {path} {version}\r\nConnection: close\r\n".encode() + rest)
        pumps = [asyncio.ensure_future(_pump(reader, out)), asyncio.ensure_future(_pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            out.close()

    given = {"base_url": rehearsal.base_url}
    async with (
        serving(forward) as proxy,
        upstreams_of(default={**given, "proxy": proxy.replace("//", "//u:p@")}, direct=given) as upstreams,
    ):
        assert text_of((await read(upstreams, ask()))[0])
        await read(upstreams, ask(upstream="direct"))
    assert seen == [(f"{rehearsal.base_url}/chat/completions", True)]


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while piece := await source.read(65536):
        sink.write(piece)
        await sink.drain()


async def test_check_tells_who_is_there_and_whether_the_key_is_right(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", "sk-wrong")
    async with upstreams_of(
        default={"base_url": rehearsal.base_url},
        wrong={"base_url": rehearsal.base_url, "api_key_env": "WRONG"},
        named={"base_url": rehearsal.base_url.replace("//", "//user:secret@")},
        gone={"base_url": f"http://127.0.0.1:{closed_port()}/v1"},
    ) as upstreams:
        good, *bad = [await upstreams.check(name) for name in ("default", "wrong", "named", "gone", "odd")]
    assert good.error is None
    assert "gpt-4o-mini" in good.models
    assert good.base_url == rehearsal.base_url.removesuffix("/v1")
    assert [check.error and check.error.type for check in bad] == [
        "upstream_auth",
        "upstream_unreachable",
        "upstream_unreachable",
        "unknown_upstream",
    ]
    assert "secret" not in str(bad)


async def test_the_outcome_is_not_known_before_the_end(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams, upstreams.open(ask()) as stream:
        with pytest.raises(RuntimeError):
            _ = stream.outcome
