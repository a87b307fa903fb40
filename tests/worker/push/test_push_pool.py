"""Connections that wait for the next request: the youngest first, none that is dead, none for ever."""

import asyncio
import socket
import ssl
import threading

import httpx2
import pytest
from push_peers import EMPTY, PATIENCE_S, Line, answering, client_over, pulled, read, serving, until

from tailrace.worker.push import PushTransport, pool


def numbered(line: Line) -> bytes:
    number = str(line.number).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(number), number)


async def test_the_connection_used_last_is_used_next(http: httpx2.AsyncClient) -> None:
    async def script(line: Line) -> None:
        while True:
            await line.request()
            if line.number == 2:
                both.set()
            await both.wait()
            await line.say(numbered(line))

    both = asyncio.Event()
    async with serving(script) as peer:
        await asyncio.gather(read(http, peer.url), read(http, peer.url))
        last = await read(http, peer.url)
        assert [await read(http, peer.url) for _ in range(3)] == [last] * 3
        assert peer.lines == 2


async def test_origins_do_not_share_connections(http: httpx2.AsyncClient) -> None:
    async with serving(answering(EMPTY)) as one, serving(answering(EMPTY)) as other:
        for _ in range(2):
            await read(http, one.url)
            await read(http, other.url)
        assert (one.lines, other.lines) == (1, 1)


async def test_an_idle_connection_is_closed_after_a_while_and_a_younger_one_is_not(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(EMPTY)
        await line.closed()
        gone.append(line.number)

    gone: list[int] = []
    monkeypatch.setattr(pool, "KEEP_ALIVE_S", 0.03)
    async with serving(script) as peer:
        await read(http, peer.url)
        monkeypatch.setattr(pool, "KEEP_ALIVE_S", 3600.0)
        async with serving(answering(EMPTY)) as other:
            await read(http, other.url)
            async with asyncio.timeout(PATIENCE_S):
                await until(lambda: gone == [1])
            await read(http, other.url)
            assert other.lines == 1
        await read(http, peer.url)
        assert peer.lines == 2


async def test_a_connection_past_its_time_is_not_used_even_if_no_timer_has_run(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "KEEP_ALIVE_S", 0.0)
    async with serving(answering(EMPTY)) as peer:
        await read(http, peer.url)
        await read(http, peer.url)
        assert peer.lines == 2


def once(server: socket.socket, close: threading.Event, closed: threading.Event) -> None:
    """Take one connection, answer one request, close it when told to, and be there for no other."""
    connection, _ = server.accept()
    server.close()
    connection.recv(65536)
    connection.sendall(EMPTY)
    close.wait(PATIENCE_S)
    connection.close()
    closed.set()


async def test_a_connection_whose_end_the_event_loop_has_not_seen_is_not_used(http: httpx2.AsyncClient) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    close, closed = threading.Event(), threading.Event()
    thread = threading.Thread(target=once, args=(server, close, closed))
    thread.start()
    try:
        await read(http, url)
        close.set()
        assert closed.wait(PATIENCE_S)  # the event loop stands still meanwhile
        # On the dead connection this would be a ReadError.
        with pytest.raises(httpx2.ConnectError):
            await read(http, url)
    finally:
        close.set()
        thread.join()


async def test_a_connection_that_closes_at_the_request_is_an_error_and_nothing_is_sent_twice(
    http: httpx2.AsyncClient,
) -> None:
    async def script(line: Line) -> None:
        requests.append(await line.request())
        await line.say(EMPTY)
        requests.append(await line.request())

    requests: list[bytes] = []
    async with serving(script) as peer:
        await read(http, peer.url)
        with pytest.raises(httpx2.ReadError, match="before it answered"):
            await read(http, peer.url)
        assert (len(requests), peer.lines) == (2, 1)
        await read(http, peer.url)
        assert peer.lines == 2


async def test_a_connection_on_which_the_server_speaks_unasked_is_closed(http: httpx2.AsyncClient) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(EMPTY)
        await go.wait()
        await line.say(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        hung_up.set_result(await line.closed())

    go, hung_up = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with serving(script) as peer:
        await read(http, peer.url)
        go.set()
        async with asyncio.timeout(PATIENCE_S):
            assert await hung_up


async def test_closing_the_transport_closes_what_is_idle_and_it_can_be_used_again() -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(EMPTY)
        hung_up.append(await line.closed())

    hung_up: list[bool] = []
    transport = PushTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    async with serving(script) as peer, client_over(transport) as client:
        await pulled(client, peer.url)
        await transport.aclose()
        await until(lambda: hung_up == [True])
        await pulled(client, peer.url)
        await transport.aclose()
        await transport.aclose()
        await until(lambda: hung_up == [True, True])


async def test_a_connection_that_opens_while_the_transport_closes_is_closed_too() -> None:
    async def script(line: Line) -> None:
        hung_up.set_result(await line.closed())

    hung_up = asyncio.get_running_loop().create_future()
    transport = PushTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    async with serving(script) as peer, client_over(transport) as client:
        asking = asyncio.create_task(pulled(client, peer.url))
        await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(httpx2.ReadError, match="the transport was closed"):
            await asking
        async with asyncio.timeout(PATIENCE_S):
            assert await hung_up
