"""Connections that come about, or do not: names, addresses, TLS, time, and cancellations in the middle of each."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from push_peers import (
    CHUNKED,
    Heard,
    Line,
    answering,
    cancelled_at_every_step,
    chunk,
    client_over,
    closed_port,
    opened,
    pulled,
    pushed,
    read,
    serving,
    until,
)

from tailrace.worker.push import PushTransport
from tailrace.worker.push.names import Names
from tls_certificates import Certificates

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@contextmanager
def deaf() -> Generator[int]:
    """A port on loopback that takes no connection and refuses none: its queue is full."""
    with socket.socket() as server, contextlib.ExitStack() as fillers:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_a_refused_connection_says_so(http: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.ConnectError) as caught:
        await http.get(f"http://127.0.0.1:{closed_port()}/")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_name_that_nobody_has_says_so(http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown, raising=False)
    with pytest.raises(httpx2.ConnectError) as caught:
        await http.get("http://nobody.invalid/")
    assert isinstance(caught.value.__cause__, socket.gaierror)


async def test_a_name_that_is_none_says_so(http: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.ConnectError):
        await http.get(f"http://{'a' * 64}.invalid/")


async def test_a_server_that_does_not_accept_is_given_up_in_time(http: httpx2.AsyncClient) -> None:
    with deaf() as port, pytest.raises(httpx2.ConnectTimeout):
        await http.get(f"http://127.0.0.1:{port}/", timeout=httpx2.Timeout(None, connect=0.1))


async def test_the_time_for_connecting_includes_the_handshake(tls: Certificates) -> None:
    async def mute(line: Line) -> None:
        await line.reader.read(1)
        hung_up.set_result(await drained(line))

    hung_up = asyncio.get_running_loop().create_future()
    async with serving(mute) as peer, client_over(PushTransport(tls.client())) as client:
        with pytest.raises(httpx2.ConnectTimeout):
            await client.get(f"https://localhost:{peer.port}/", timeout=httpx2.Timeout(None, connect=0.1))
        async with asyncio.timeout(5):
            assert await hung_up


async def drained(line: Line) -> bool:
    with contextlib.suppress(ConnectionError):
        await line.reader.read(-1)
    return True


async def test_time_for_connecting_is_no_time_for_answering(http: httpx2.AsyncClient) -> None:
    async def late(line: Line) -> None:
        await line.request()
        await asyncio.sleep(0.1)  # twice the time for connecting
        await line.say(OK)

    async with serving(late) as peer:
        response = await http.get(peer.url, timeout=httpx2.Timeout(None, connect=0.05))
        assert response.content == b"hello"


async def test_the_next_address_is_tried_beside_one_that_does_not_answer(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(answering(OK)) as peer:
        with deaf() as port:
            places: list[Any] = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number)) for number in (port, peer.port)
            ]

            async def addresses(*_: Any) -> list[Any]:
                return places

            monkeypatch.setattr(Names, "addresses", addresses)
            assert await pulled(http, "http://two.places/") == b"hello"


async def test_an_address_that_refuses_does_not_hide_the_next(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(answering(OK)) as peer:
        places: list[Any] = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number)) for number in (closed_port(), peer.port)
        ]

        async def addresses(*_: Any) -> list[Any]:
            return places

        monkeypatch.setattr(Names, "addresses", addresses)
        assert await pulled(http, "http://two.places/") == b"hello"


async def test_many_connections_at_once_look_a_name_up_once_and_after_a_failure_again(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(host: str, port: int, **_: Any) -> list[Any]:
        if host != "127.0.0.1":  # uvloop asks for addresses too
            asked.append(host)
        await asyncio.sleep(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", place["port"]))]

    asked: list[str] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found, raising=False)
    async with serving(answering(OK)) as peer:
        place = {"port": peer.port}
        await asyncio.gather(*(opened(http, "http://upstream.test/") for _ in range(20)))
        assert asked == ["upstream.test"]
        place["port"] = closed_port()
    for expected in (1, 2):
        with pytest.raises(httpx2.ConnectError):
            await asyncio.gather(*(http.get("http://upstream.test/") for _ in range(1)))
        assert len(asked) == expected


async def test_tls_by_name_with_http_1_1_as_the_only_protocol(tls: Certificates) -> None:
    async def script(line: Line) -> None:
        protocols.append(line.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answering(CHUNKED + chunk(b"hel"), chunk(b"lo"), b"0\r\n\r\n")(line)

    protocols: list[str | None] = []
    context = tls.server()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with serving(script, tls=context) as peer, client_over(PushTransport(tls.client())) as client:
        assert await read(client, f"https://localhost:{peer.port}/") == b"hello"
        assert await pulled(client, f"https://localhost:{peer.port}/") == b"hello"
        assert peer.lines == 1
    assert protocols == ["http/1.1"]


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_that_is_not_trusted_or_not_the_hosts_is_refused(tls: Certificates, trusted: bool) -> None:
    verify, host = (tls.client(), "127.0.0.1") if trusted else (tls.stranger(), "localhost")
    async with serving(answering(OK), tls=tls.server()) as peer, client_over(PushTransport(verify)) as client:
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get(f"https://{host}:{peer.port}/")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_server_without_tls_is_no_server_with_tls(tls: Certificates) -> None:
    async def plain(line: Line) -> None:
        await line.reader.read(1)
        await line.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(plain) as peer, client_over(PushTransport(tls.client())) as client:
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get(f"https://localhost:{peer.port}/")
    assert isinstance(caught.value.__cause__, OSError)


async def test_back_pressure_and_close_work_through_tls(tls: Certificates) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        with contextlib.suppress(ConnectionError):
            line.writer.write(bytes(size))
            await line.writer.drain()
        await drained(line)
        hung_up.append(line.number)

    size, hung_up = 8 * 1024 * 1024, list[int]()
    async with serving(script, tls=tls.server()) as peer, client_over(PushTransport(tls.client())) as client:
        abandoned = await opened(client, f"https://localhost:{peer.port}/")
        for _ in range(500):
            await asyncio.sleep(0)
        pushed(abandoned).close()
        await until(lambda: hung_up == [1])
        heard = Heard(await opened(client, f"https://localhost:{peer.port}/"))
        heard.body.pause()
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(heard.text) < size // 2
        heard.body.resume()
        assert await heard.end() is None
        assert len(heard.text) == size


@pytest.mark.parametrize("secure", [False, True])
async def test_a_cancellation_at_any_step_leaves_no_connection(tls: Certificates, secure: bool) -> None:
    async def script(line: Line) -> None:
        asked = False
        try:
            await line.request()
            asked = True
            await line.say(CHUNKED + chunk(b"hello"))
            await drained(line)
        finally:
            gone.append(asked)

    gone: list[bool] = []
    context = tls.server() if secure else None
    async with serving(script, tls=context) as peer, client_over(PushTransport(tls.client())) as client:
        url = f"{peer.scheme}://localhost:{peer.port}/"
        await (await opened(client, url)).aclose()  # from now on the name is known
        await cancelled_at_every_step(lambda: pulled(client, url), lambda: True in gone[1:])
        await until(lambda: len(gone) == peer.lines)


async def test_a_cancellation_at_any_step_of_a_handshake_leaves_no_connection(tls: Certificates) -> None:
    async def mute(line: Line) -> None:
        if await line.reader.read(1):
            shaken.append(line.number)
        await drained(line)
        gone.append(line.number)

    shaken, gone = list[int](), list[int]()
    async with serving(mute) as peer, client_over(PushTransport(tls.client())) as client:
        url = f"https://127.0.0.1:{peer.port}/"
        await cancelled_at_every_step(lambda: client.get(url), lambda: bool(shaken))
        await until(lambda: len(gone) == peer.lines)
