"""The response by itself, on a server that can do what ASGI says and no more."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from engine import wait_until
from tailrace.gateway.errors import ApiError, StreamBroken
from tailrace.gateway.streams import EventStream, Streams, generated
from tailrace.schemas import GatewaySettings

SCOPE: dict[str, Any] = {"type": "http", "path": "/stream"}


class Asgi:
    """A server's side of one request; `left` and `stuck` are what its client does."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.stuck = False

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.stuck and message["type"] == "http.response.body":
            await asyncio.Event().wait()
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message["more_body"]:
            self.left.set()  # as the standard has it

    @property
    def ended(self) -> bool:
        return not self.sent[-1].get("more_body", True)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def events(*some: bytes, wait: asyncio.Event | None = None) -> AsyncGenerator[bytes]:
    for event in some:
        yield event
    if wait is not None:
        await wait.wait()


def streams(**given: Any) -> Streams:
    return Streams(GatewaySettings(**given))


async def test_what_the_source_gives_is_sent_to_its_end_and_nobody_has_left() -> None:
    server, left = Asgi(), list[str]()

    async def leave() -> None:
        left.append("left")

    response = EventStream(generated(events(b"a", b"b")), streams(), wire="ndjson", on_leave=leave)
    await response(SCOPE, server.receive, server.send)
    assert (server.body, server.ended, left) == (b"ab", True, [])


async def test_who_leaves_is_noticed_while_nothing_is_sent() -> None:
    server, left = Asgi(), list[str]()

    async def leave() -> None:
        left.append("left")

    response = EventStream(generated(events(b"a", wait=asyncio.Event())), streams(), on_leave=leave)
    running = asyncio.create_task(response(SCOPE, server.receive, server.send))
    await wait_until("it has begun", lambda: b"a" in server.body)
    server.left.set()
    await running
    assert left == ["left"]
    assert not server.ended


async def test_a_reader_that_takes_nothing_is_dropped_by_any_server() -> None:
    server, open_streams = Asgi(), streams(stalled_s=0.02)
    server.stuck = True
    response = EventStream(generated(events(b"a")), open_streams)
    with pytest.raises(StreamBroken, match="takes nothing"):
        await response(SCOPE, server.receive, server.send)
    assert len(open_streams) == 0


async def test_a_source_that_breaks_leaves_the_response_without_an_end() -> None:
    async def breaking() -> AsyncGenerator[bytes]:
        yield b"a"
        raise StreamBroken("lost")

    server = Asgi()
    with pytest.raises(StreamBroken, match="lost"):
        await EventStream(generated(breaking()), streams())(SCOPE, server.receive, server.send)
    assert not server.ended


async def test_no_stream_begins_while_the_gateway_closes() -> None:
    server, closing = Asgi(), streams()
    closing.close()
    with pytest.raises(ApiError, match="come back") as refused:
        await EventStream(generated(events(b"a")), closing)(SCOPE, server.receive, server.send)
    assert refused.value.status_code == 503
    assert not server.sent
