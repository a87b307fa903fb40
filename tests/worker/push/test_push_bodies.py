"""A body that is listened to: in the reading callback, with back-pressure, let go at once, ended exactly once."""

import asyncio
import gzip
import ssl
import sys
from typing import Any

import httpx2
import pytest
from push_peers import (
    CHUNKED,
    PATIENCE_S,
    Heard,
    Line,
    answering,
    chunk,
    client_over,
    opened,
    pulled,
    pushed,
    read,
    serving,
    until,
)

from tailrace.worker.push import PushTransport, body_of

LAST = b"0\r\n\r\n"
MIB = 1024 * 1024


def paced(go: asyncio.Event, before: bytes, after: bytes) -> Any:
    """A script that says one thing, and the other when it is told to."""

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.say(CHUNKED + before)
            await go.wait()
            await line.say(after)

    return script


async def test_pieces_come_in_the_reading_callback_without_any_task(http: httpx2.AsyncClient) -> None:
    tasks: list[object] = []
    go = asyncio.Event()
    async with serving(paced(go, b"", chunk(b"hello") + LAST)) as peer:
        response = await opened(http, peer.url)
        ended = asyncio.Event()
        pushed(response).listen(lambda _: tasks.append(asyncio.current_task()), lambda _: ended.set())
        go.set()
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
    assert tasks == [None]


async def test_what_came_before_listening_is_handed_over_at_once_and_so_is_the_end(http: httpx2.AsyncClient) -> None:
    async with serving(answering(CHUNKED + chunk(b"hel"), chunk(b"lo") + LAST)) as peer:
        response = await opened(http, peer.url)
        await opened(http, peer.url)  # time goes by
        heard = Heard(response)
        assert (heard.pieces, heard.ends) == ([b"hello"], [None])


async def test_several_chunks_of_one_read_are_one_piece(http: httpx2.AsyncClient) -> None:
    go = asyncio.Event()
    async with serving(paced(go, chunk(b"a"), chunk(b"b") + chunk(b"c") + LAST)) as peer:
        heard = Heard(await opened(http, peer.url))
        await heard.until(b"a")
        go.set()
        assert await heard.end() is None
        assert heard.pieces == [b"a", b"bc"]


@pytest.mark.parametrize("when", ["at_once", "later"])
async def test_a_listener_that_raises_ends_its_own_body_only(http: httpx2.AsyncClient, when: str) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + (chunk(b"hello") if when == "at_once" else b""))
        await go.wait()
        await line.say(chunk(b"hello"))
        if line.number == 1:
            hung_up.set_result(await line.closed())
        await line.say(LAST)

    def broken(_: bytes) -> None:
        raise RuntimeError("of the listener")

    go, hung_up = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with serving(script) as peer:
        first, second = await opened(http, peer.url), await opened(http, peer.url)
        healthy = Heard(second)
        if when == "at_once":
            await healthy.until(b"hello")
        ends: list[Exception | None] = []
        pushed(first).listen(broken, ends.append)
        go.set()
        assert await healthy.end() is None
        assert [repr(end) for end in ends] == ["RuntimeError('of the listener')"]
        async with asyncio.timeout(PATIENCE_S):
            assert await hung_up


async def test_a_listener_that_raises_at_the_end_is_reported_and_costs_no_connection(http: httpx2.AsyncClient) -> None:
    def broken(_: Exception | None) -> None:
        raise ZeroDivisionError

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    go = asyncio.Event()
    async with serving(paced(go, b"", chunk(b"hello") + LAST)) as peer:
        pushed(await opened(http, peer.url)).listen(lambda _: None, broken)
        go.set()
        await until(lambda: bool(reported))
        assert await read(http, peer.url) == b"hello"
        assert peer.lines == 1
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


@pytest.mark.parametrize("listening", [True, False])
async def test_a_body_that_is_not_taken_holds_its_server_up(http: httpx2.AsyncClient, listening: bool) -> None:
    written = 0

    async def script(line: Line) -> None:
        nonlocal written
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64):
            line.writer.write(bytes(MIB))
            await line.writer.drain()
            written += 1

    async with serving(script) as peer:
        response = await opened(http, peer.url)
        heard = Heard(response) if listening else None
        if heard is not None:
            heard.body.pause()
        seen = -1
        while written > seen:  # as long as anything moves in half a second's worth of turns
            seen = written
            for _ in range(2000):
                await asyncio.sleep(0)
        assert written < 32
        if heard is None:
            heard = Heard(response)
        else:
            assert len(heard.text) <= MIB
            heard.body.resume()
        assert await heard.end() is None
        assert sum(map(len, heard.pieces)) == 64 * MIB


async def test_nothing_comes_while_paused_and_everything_after(http: httpx2.AsyncClient) -> None:
    def took(piece: bytes) -> None:
        pieces.append(piece)
        body.pause()

    pieces: list[bytes] = []
    ends: list[Exception | None] = []
    go, other = asyncio.Event(), asyncio.Event()
    async with serving(paced(go, chunk(b"a"), chunk(b"b"))) as peer, serving(paced(other, b"", LAST)) as clock:
        body = pushed(await opened(http, peer.url))
        body.listen(took, ends.append)
        await until(lambda: pieces == [b"a"])
        go.set()
        other.set()
        await read(http, clock.url)  # time goes by
        assert pieces == [b"a"]
        body.resume()
        await until(lambda: pieces == [b"a", b"b"])
        assert ends == []


async def test_a_paused_body_may_end_and_its_connection_serves_the_next(http: httpx2.AsyncClient) -> None:
    go = asyncio.Event()
    async with serving(paced(go, b"", chunk(b"all") + LAST)) as peer:
        body = pushed(await opened(http, peer.url))
        ends: list[Exception | None] = []
        body.listen(lambda _: body.pause(), ends.append)
        go.set()
        await until(lambda: ends == [None])
        body.resume()
        assert await read(http, peer.url) == b"all"
        assert peer.lines == 1


@pytest.mark.parametrize("listening", [True, False])
async def test_closing_lets_go_at_once_and_nothing_is_told_any_more(http: httpx2.AsyncClient, listening: bool) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + chunk(b"hello"))
        hung_up.set_result(await line.closed())

    hung_up = asyncio.get_running_loop().create_future()
    async with serving(script) as peer:
        response = await opened(http, peer.url)
        heard = Heard(response) if listening else None
        if heard is not None:
            await heard.until(b"hello")
        body = pushed(response)
        body.close()
        body.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await hung_up
        assert heard is None or heard.ends == []
        if heard is None:
            Heard(response)  # too late: hears nothing
        with pytest.raises((httpx2.StreamClosed, httpx2.StreamConsumed)):
            await response.aread()


async def test_closing_from_within_the_callback_is_closing(http: httpx2.AsyncClient) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + chunk(b"hello"))
        hung_up.set_result(await line.closed())

    hung_up = asyncio.get_running_loop().create_future()
    async with serving(script) as peer:
        body = pushed(await opened(http, peer.url))
        ends: list[Exception | None] = []
        body.listen(lambda _: body.close(), ends.append)
        async with asyncio.timeout(PATIENCE_S):
            assert await hung_up
        assert ends == []


async def test_closing_at_the_last_piece_keeps_the_connection_if_the_end_came_with_it(http: httpx2.AsyncClient) -> None:
    go = asyncio.Event()
    async with serving(paced(go, b"", chunk(b"data: [DONE]\n\n") + LAST)) as peer:
        for _ in range(3):
            body = pushed(await opened(http, peer.url))
            ends: list[Exception | None] = []
            closed = asyncio.Event()

            def done(_: bytes, body: Any = body, closed: asyncio.Event = closed) -> None:
                body.close()
                closed.set()

            body.listen(done, ends.append)
            go.set()
            async with asyncio.timeout(PATIENCE_S):
                await closed.wait()
            assert ends == []
        assert peer.lines == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin later in this version of Python")
async def test_a_request_made_in_the_callback_that_closed_has_the_connection_to_itself(
    http: httpx2.AsyncClient,
) -> None:
    def next_one(_: bytes) -> None:
        body.close()
        eager: dict[str, Any] = {"loop": asyncio.get_running_loop(), "eager_start": True}
        asking.append(asyncio.Task(pulled(http, peer.url), **eager))

    asking: list[asyncio.Task[bytes]] = []
    go = asyncio.Event()
    async with serving(paced(go, b"", chunk(b"hello") + LAST)) as peer:
        body = pushed(await opened(http, peer.url))
        body.listen(next_one, lambda _: None)
        go.set()
        await until(lambda: bool(asking))
        assert await asking[0] == b"hello"
        assert peer.lines == 1


async def test_closing_after_the_end_does_not_touch_who_has_the_connection_next(http: httpx2.AsyncClient) -> None:
    go = asyncio.Event()
    go.set()
    async with serving(paced(go, chunk(b"a"), chunk(b"b") + LAST)) as peer:
        first = Heard(await opened(http, peer.url))
        await first.end()
        go.clear()
        second = Heard(await opened(http, peer.url))
        first.body.close()
        first.body.pause()
        first.body.resume()
        go.set()
        assert await second.end() is None
        assert (second.text, peer.lines) == (b"ab", 1)


async def test_a_body_is_read_once(http: httpx2.AsyncClient) -> None:
    async with serving(answering(CHUNKED + chunk(b"a") + LAST)) as peer:
        response = await opened(http, peer.url)
        heard = Heard(response)
        await heard.end()
        with pytest.raises(httpx2.StreamConsumed):
            heard.body.listen(print, print)
        with pytest.raises(httpx2.StreamConsumed):
            await response.aread()
        iterated = await opened(http, peer.url)
        await iterated.aread()
        with pytest.raises(httpx2.StreamConsumed):
            pushed(iterated).listen(print, print)


async def test_closing_the_transport_ends_the_bodies_that_are_open(http: httpx2.AsyncClient) -> None:
    transport = PushTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    async with serving(paced(asyncio.Event(), chunk(b"a"), LAST)) as peer, client_over(transport) as client:
        heard = Heard(await opened(client, peer.url))
        waiting = asyncio.create_task(pulled(client, peer.url))
        await until(lambda: peer.lines == 2)
        await transport.aclose()
        assert isinstance(await heard.end(), httpx2.ReadError)
        with pytest.raises(httpx2.ReadError):
            await waiting


async def test_a_compressed_body_is_decoded_by_httpx_and_not_offered(http: httpx2.AsyncClient) -> None:
    packed = gzip.compress(b"hello" * 100)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with serving(answering(head + packed)) as peer:
        response = await opened(http, peer.url)
        assert body_of(response) is None
        assert await response.aread() == b"hello" * 100
        assert peer.lines == 1
    assert body_of(httpx2.Response(200)) is None


async def test_cancelling_who_iterates_closes_the_connection(http: httpx2.AsyncClient) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + chunk(b"a"))
        hung_up.set_result(await line.closed())

    hung_up = asyncio.get_running_loop().create_future()
    async with serving(script) as peer:
        reading = asyncio.create_task(pulled(http, peer.url))
        await until(lambda: peer.lines == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        async with asyncio.timeout(PATIENCE_S):
            assert await hung_up
