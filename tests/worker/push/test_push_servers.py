"""Servers that others have written, and the clients that tailrace has: over this transport as over any."""

import asyncio
import http.server
import json
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from aiohttp import web
from openai import AsyncOpenAI
from push_peers import PATIENCE_S, Heard, client_over, opened, pulled, read, until

from tailrace.upstreams.rehearsal import Rehearsal
from tailrace.worker.push import PushTransport, body_of

KEY = "sk-test-0123456789"
TOKENS = [f"data: token {number}\n\n".encode() for number in range(200)]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`/stream` streams, `/cut` breaks off, `/echo` says how much it got, `/none` has nothing to say."""
    body, more = 0, True
    while more:
        message = await receive()
        body, more = body + len(message.get("body", b"")), message.get("more_body", False)
    path = scope["path"]
    headers = [(b"content-type", b"text/event-stream")]
    if path == "/none":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
    elif path == "/echo":
        said = str(body).encode()
        headers.append((b"content-length", str(len(said)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for token in TOKENS:
            await send({"type": "http.response.body", "body": token, "more_body": True})
        if path == "/cut":
            raise ConnectionAbortedError("on purpose")
        await send({"type": "http.response.body"})


@asynccontextmanager
async def by_uvicorn(http: str) -> AsyncGenerator[str]:
    config = uvicorn.Config(app, port=0, http=http, lifespan="off", log_config=None, ws="none")  # pyright: ignore[reportArgumentType]  # a name of one
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())  # pyright: ignore[reportPrivateUsage]  # serve() would take the signals
    try:
        await until(lambda: server.started or running.done())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await running


@asynccontextmanager
async def by_aiohttp() -> AsyncGenerator[str]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/none":
            return web.Response(status=204)
        if request.path == "/echo":
            return web.Response(body=str(len(body)).encode())
        response = web.StreamResponse()
        await response.prepare(request)
        for token in TOKENS:
            await response.write(token)
        if request.path == "/cut":
            assert request.transport is not None
            request.transport.close()
            raise ConnectionAbortedError("on purpose")
        await response.write_eof()
        return response

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(params=["uvicorn-h11", "uvicorn-httptools", "aiohttp"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    name: str = request.param
    async with by_aiohttp() if name == "aiohttp" else by_uvicorn(name.partition("-")[2]) as url:
        yield url


async def test_streams_whole_cut_and_empty_one_after_another(http: httpx2.AsyncClient, server: str) -> None:
    for ask in (read, pulled):
        assert await ask(http, f"{server}/stream") == b"".join(TOKENS)
        assert await ask(http, f"{server}/none") == b""
        heard = Heard(await opened(http, f"{server}/cut"))
        assert isinstance(await heard.end(), httpx2.ReadError)
        # What was sent last may be lost with the connection; nothing else is.
        assert b"".join(TOKENS).startswith(heard.text)


async def test_long_requests_of_many_at_once(http: httpx2.AsyncClient, server: str) -> None:
    sizes = [0, 1, 65_535, 65_536, 65_537, 700_000, 900_000]
    responses = await asyncio.gather(*(http.post(f"{server}/echo", content=bytes(size)) for size in sizes))
    assert [int(response.content) for response in responses] == sizes


class Old(http.server.BaseHTTPRequestHandler):
    """HTTP/1.0: the end of a body is the end of its connection."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        for token in TOKENS:
            self.wfile.write(token)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  # the library's word


async def test_a_server_of_http_1_0() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            async with client_over(PushTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))) as client:
                for _ in range(2):
                    assert await read(client, f"http://127.0.0.1:{server.server_port}/") == b"".join(TOKENS)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
async def openai(http: httpx2.AsyncClient) -> AsyncIterator[tuple[AsyncOpenAI, Rehearsal]]:
    async with Rehearsal(api_key=KEY) as rehearsal:
        yield AsyncOpenAI(api_key=KEY, base_url=rehearsal.base_url, http_client=http, max_retries=0), rehearsal


async def test_the_openai_package_streams_over_it(openai: tuple[AsyncOpenAI, Rehearsal]) -> None:
    client, _ = openai
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        extra_body={"rehearsal": {"text": "a b c"}},
    )
    said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(said) == "a b c"
    assert [model.id async for model in client.models.list()]


@pytest.mark.parametrize("shape", [{}, {"crlf": True, "comments": True}, {"split": 1}, {"split": 7}])
async def test_a_stream_of_the_openai_package_can_be_listened_to(
    openai: tuple[AsyncOpenAI, Rehearsal], shape: dict[str, Any]
) -> None:
    client, _ = openai
    async with client.chat.completions.with_streaming_response.create(
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        extra_body={"rehearsal": {"text": "one two three", **shape}},
    ) as response:
        heard = Heard(response.http_response)
        assert await heard.end() is None
    lines = [line for line in heard.text.decode().splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line[6:])["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "one two three"


async def test_leaving_a_stream_reaches_the_server(openai: tuple[AsyncOpenAI, Rehearsal]) -> None:
    client, rehearsal = openai
    async with client.chat.completions.with_streaming_response.create(
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        extra_body={"rehearsal": {"tokens": 10_000, "pace": 0.005}},
    ) as response:
        body = body_of(response.http_response)
        assert body is not None
        first = asyncio.Event()
        body.listen(lambda _: first.set(), lambda _: None)
        async with asyncio.timeout(PATIENCE_S):
            await first.wait()
    await rehearsal.wait_until(lambda: rehearsal.open_streams == 0, "the upstream has heard of it")
