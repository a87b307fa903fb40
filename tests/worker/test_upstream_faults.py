"""Every way in which an upstream can fail, and the word for it."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from asking import KEY, ask, closed_port, failing, read, serving, text_of, upstreams_of

from tailrace.schemas import JobRequest
from tailrace.upstreams.rehearsal import Rehearsal


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("cut", "upstream_broken"),
        ("reset", "upstream_broken"),
        ("clean_end", "upstream_broken"),
        ("stall", "upstream_stalled"),
        ("error_data", "upstream_error"),
        ("error_event", "upstream_error"),
        ("error_bare", "upstream_error"),
        ("malformed", "upstream_malformed"),
        ("empty_data", "upstream_malformed"),
        ("invalid_utf8", "upstream_malformed"),
        ("huge", "upstream_malformed"),
    ],
)
@pytest.mark.parametrize("api", ["chat", "completions", "responses"])
async def test_each_fault_in_a_stream_is_told_after_the_text_before_it(
    rehearsal: Rehearsal, api: str, fault: str, word: str
) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url, "stall_timeout_s": 0.2}) as upstreams:
        items, error = await failing(upstreams, ask(api=api, tokens=8, fault=fault, at=5))
        assert text_of(items).split() == [f"token{number}" for number in range(5)]
        assert (error.detail.type, error.phase) == (word, "stream")
        assert error.detail.retryable
        await rehearsal.wait_until(lambda: rehearsal.open_streams == 0, "the connection is closed")


@pytest.mark.parametrize(
    ("script", "word", "code", "retryable"),
    [
        ({"code": 401}, "upstream_auth", None, False),
        ({"code": 403}, "upstream_auth", None, False),
        ({"code": 404}, "upstream_status", None, False),
        ({"code": 429, "error_code": "rate_limit_exceeded"}, "upstream_status", "rate_limit_exceeded", True),
        ({"code": 500}, "upstream_status", None, True),
        ({"code": 503}, "upstream_status", None, True),
    ],
)
async def test_a_status_is_a_typed_failure_of_the_request(
    rehearsal: Rehearsal, script: dict[str, Any], word: str, code: str | None, retryable: bool
) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        _, error = await failing(upstreams, ask(fault="status", **script))
    assert (error.detail.type, error.phase, error.detail.retryable) == (word, "request", retryable)
    assert code is None or error.detail.code == code
    assert str(script["code"]) in error.detail.message


async def test_a_wrong_key_names_the_variable_and_not_the_key(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-wrong-987654321")
    async with upstreams_of(default={"base_url": rehearsal.base_url, "api_key_env": "OTHER_KEY"}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert error.detail.type == "upstream_auth"
    assert "OTHER_KEY" in error.detail.message
    assert "987654321" not in error.detail.message + str(error)


@pytest.mark.parametrize("key", ["", "  ", "sk-ключ"])
async def test_a_key_that_is_missing_or_no_key_is_told_before_any_request(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert error.detail.type == "no_api_key"
    assert "OPENAI_API_KEY" in error.detail.message
    assert not rehearsal.calls


async def test_an_unknown_upstream_is_told_and_a_model_is_the_jobs_the_settings_or_the_upstreams_choice(
    rehearsal: Rehearsal,
) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        _, unknown = await failing(upstreams, ask(upstream="odd"))
        _, no_model = await failing(upstreams, JobRequest.of("hi"))
    assert unknown.detail.type == "unknown_upstream"
    assert no_model.detail.type == "upstream_status"
    assert "you must provide a model parameter" in no_model.detail.message
    assert "model" not in rehearsal.calls[-1].body
    async with upstreams_of(default={"base_url": rehearsal.base_url, "default_model": "m-2"}) as upstreams:
        assert (await read(upstreams, JobRequest.of("hi")))[1].model == "m-2"


async def test_nothing_listening_is_unreachable() -> None:
    async with upstreams_of(default={"base_url": f"http://127.0.0.1:{closed_port()}/v1"}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert (error.detail.type, error.detail.retryable) == ("upstream_unreachable", True)
    assert "refused" in error.detail.message


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/v1", "127.0.0.1:80", "http://", "http://[", "http://h:x"])
async def test_a_url_that_is_none_is_told(url: str) -> None:
    for field in ("base_url", "proxy"):
        async with upstreams_of(default={field: url}) as upstreams:
            _, error = await failing(upstreams, ask())
        assert error.detail.type == "upstream_unreachable"
        assert field in error.detail.message


async def test_a_connection_closed_before_any_answer_is_broken(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        _, error = await failing(upstreams, ask(fault="refuse"))
    assert (error.detail.type, error.phase, error.detail.retryable) == ("upstream_broken", "request", True)


async def test_html_is_not_a_stream(rehearsal: Rehearsal) -> None:
    async with upstreams_of(default={"base_url": rehearsal.base_url}) as upstreams:
        _, error = await failing(upstreams, ask(fault="html"))
    assert (error.detail.type, error.phase, error.detail.retryable) == ("upstream_not_stream", "request", False)
    assert "text/html" in error.detail.message


async def test_something_that_speaks_no_http_is_told() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()

    async with serving(answer) as url, upstreams_of(default={"base_url": url}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert error.detail.type == "upstream_broken"
    assert "HTTP" in error.detail.message


async def test_an_error_object_with_status_200_is_an_error() -> None:
    body = json.dumps({"error": {"message": f"no room for {KEY}", "code": "overloaded"}}).encode()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async with serving(answer) as url, upstreams_of(default={"base_url": url}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert (error.detail.type, error.detail.code, error.phase) == ("upstream_error", "overloaded", "request")
    assert KEY not in error.detail.message


async def test_headers_that_do_not_come_time_out(rehearsal: Rehearsal) -> None:
    given = {"base_url": rehearsal.base_url, "first_byte_timeout_s": 0.1, "connect_timeout_s": 0.1}
    async with upstreams_of(default=given) as upstreams:
        _, error = await failing(upstreams, ask(fault="slow_headers"))
    assert (error.detail.type, error.phase, error.detail.retryable) == ("upstream_timeout", "request", True)
    await rehearsal.wait_until(lambda: rehearsal.open_streams == 0, "the connection is closed")


async def test_a_first_byte_that_does_not_come_times_out_and_later_silence_has_its_own_limit() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await writer.drain()
        await reader.read()
        await asyncio.Event().wait()

    given = {"first_byte_timeout_s": 0.2, "stall_timeout_s": 30.0}
    async with serving(answer) as url, upstreams_of(default={"base_url": url, **given}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert (error.detail.type, error.phase) == ("upstream_timeout", "stream")


async def test_an_error_body_that_never_ends_is_not_waited_for() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 4096)
                await writer.drain()

    async with serving(answer) as url, upstreams_of(default={"base_url": url}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert (error.detail.type, error.detail.code) == ("upstream_status", "500")


async def test_a_redirect_is_not_followed_and_no_key_travels(rehearsal: Rehearsal) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(
            f"HTTP/1.1 307 Moved\r\nLocation: {rehearsal.base_url}/chat/completions\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await writer.drain()

    async with serving(answer) as url, upstreams_of(default={"base_url": url}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert (error.detail.type, error.detail.code) == ("upstream_status", "307")
    assert not rehearsal.calls


async def test_a_proxy_that_is_not_there_is_told(rehearsal: Rehearsal) -> None:
    proxy = f"http://user:secret@127.0.0.1:{closed_port()}"
    async with upstreams_of(default={"base_url": rehearsal.base_url, "proxy": proxy}) as upstreams:
        _, error = await failing(upstreams, ask())
    assert error.detail.type == "upstream_unreachable"
    assert "proxy" in error.detail.message
    assert "secret" not in error.detail.message
