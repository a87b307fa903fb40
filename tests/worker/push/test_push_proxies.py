"""Through proxies: whole URLs for http, tunnels for https, TLS to the proxy itself, and what goes wrong on the way."""

import asyncio
import ssl
from base64 import b64encode

import httpx2
import pytest
from push_peers import (
    CHUNKED,
    PATIENCE_S,
    Line,
    Peer,
    answering,
    cancelled_at_every_step,
    chunk,
    client_over,
    closed_port,
    opened,
    pulled,
    read,
    serving,
    until,
)
from push_proxies import Proxy

from tailrace.worker.push import ProxyRefused, PushTransport
from tls_certificates import Certificates

HELLO = (CHUNKED + chunk(b"hel"), chunk(b"lo"), b"0\r\n\r\n")


def by(proxy: Peer, tls: ssl.SSLContext, **options: tuple[str, str]) -> PushTransport:
    # By name where there is TLS: the certificate is for that.
    url = proxy.url if proxy.scheme == "http" else f"https://localhost:{proxy.port}"
    return PushTransport(tls, httpx2.Proxy(url, **options))  # type: ignore[arg-type]  # only auth is given


@pytest.mark.parametrize("proxy_has_tls", [False, True])
async def test_http_is_asked_of_the_proxy_by_its_whole_url(tls: Certificates, proxy_has_tls: bool) -> None:
    proxy = Proxy()
    async with (
        serving(answering(*HELLO)) as peer,
        serving(proxy, tls=tls.server() if proxy_has_tls else None) as place,
        client_over(by(place, tls.client())) as client,
    ):
        for _ in range(2):
            assert await read(client, f"{peer.url}/v1/models?a=b") == b"hello"
        assert (peer.lines, place.lines) == (1, 1)
    lines = proxy.heads[0].split(b"\r\n")
    assert lines[0] == f"GET {peer.url}/v1/models?a=b HTTP/1.1".encode()
    assert f"Host: 127.0.0.1:{peer.port}".encode() in lines


@pytest.mark.parametrize("proxy_has_tls", [False, True])
async def test_https_is_spoken_through_a_tunnel_with_the_server_itself(tls: Certificates, proxy_has_tls: bool) -> None:
    proxy = Proxy()
    async with (
        serving(answering(*HELLO), tls=tls.server()) as peer,
        serving(proxy, tls=tls.server() if proxy_has_tls else None) as place,
        client_over(by(place, tls.client())) as client,
    ):
        for _ in range(2):
            assert await read(client, f"https://localhost:{peer.port}/") == b"hello"
            assert await pulled(client, f"https://localhost:{peer.port}/") == b"hello"
        assert (peer.lines, place.lines) == (1, 1)
    target = f"localhost:{peer.port}".encode()
    assert proxy.heads == [b"CONNECT %s HTTP/1.1\r\nHost: %s" % (target, target)]


@pytest.mark.parametrize("secure", [False, True])
async def test_the_proxy_is_told_who_asks_and_the_server_behind_a_tunnel_is_not(
    tls: Certificates, secure: bool
) -> None:
    async def script(line: Line) -> None:
        requests.append(await line.request())
        await line.say(*HELLO)

    requests: list[bytes] = []
    proxy = Proxy(credentials=b64encode("käse:s3cret".encode()))
    async with serving(script, tls=tls.server() if secure else None) as peer, serving(proxy) as place:
        async with client_over(by(place, tls.client(), auth=("käse", "s3cret"))) as client:
            assert await read(client, f"{peer.scheme}://localhost:{peer.port}/") == b"hello"
        async with client_over(by(place, tls.client())) as client:
            if secure:
                with pytest.raises(ProxyRefused, match="407") as caught:
                    await opened(client, f"https://localhost:{peer.port}/")
                assert caught.value.status == 407
            else:
                assert (await opened(client, peer.url)).status_code == 407
    assert b"Proxy-Authorization" in proxy.heads[0]
    assert len(requests) == 1
    if secure:
        assert b"Proxy-Authorization" not in requests[0]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "https://127.0.0.1:1/"])
async def test_a_proxy_that_is_not_there_says_so(tls: Certificates, url: str) -> None:
    proxy = httpx2.Proxy(f"http://127.0.0.1:{closed_port()}")
    async with client_over(PushTransport(tls.client(), proxy)) as client:
        with pytest.raises(httpx2.ProxyError) as caught:
            await client.get(url)
    assert not isinstance(caught.value, ProxyRefused)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_proxy_that_is_not_trusted_says_so(tls: Certificates) -> None:
    async with serving(Proxy(), tls=tls.server()) as place, client_over(by(place, tls.stranger())) as client:
        with pytest.raises(httpx2.ProxyError) as caught:
            await client.get("https://127.0.0.1:1/")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_server_that_is_not_trusted_is_refused_through_a_tunnel_too(tls: Certificates) -> None:
    async with (
        serving(answering(*HELLO), tls=tls.server()) as peer,
        serving(Proxy()) as place,
        client_over(by(place, tls.stranger())) as client,
    ):
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get(f"https://localhost:{peer.port}/")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "more than it was asked"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "too large"),
        (b"HTTP/1.1 200 O", "closed"),
        (b"", "closed"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad", "502"),
    ],
)
async def test_a_proxy_that_gives_no_tunnel_is_a_proxy_error(tls: Certificates, said: bytes, told: str) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(said)

    async with serving(script) as place, client_over(by(place, tls.client())) as client:
        with pytest.raises(httpx2.ProxyError, match=told):
            await opened(client, "https://127.0.0.1:1/")


async def test_a_proxy_that_does_not_answer_is_given_up_in_time(tls: Certificates) -> None:
    async def script(line: Line) -> None:
        await line.request()
        hung_up.set_result(await line.closed())

    hung_up = asyncio.get_running_loop().create_future()
    async with serving(script) as place, client_over(by(place, tls.client())) as client:
        with pytest.raises(httpx2.ConnectTimeout):
            await client.get("https://127.0.0.1:1/", timeout=httpx2.Timeout(None, connect=0.1))
        async with asyncio.timeout(PATIENCE_S):
            assert await hung_up


async def test_a_tunnel_to_an_ipv6_address_is_asked_for_in_brackets(tls: Certificates) -> None:
    proxy = Proxy(credentials=b"none")
    async with serving(proxy) as place, client_over(by(place, tls.client())) as client:
        with pytest.raises(ProxyRefused):
            await client.get("https://[::1]/")
    assert proxy.heads == [b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443"]


async def test_other_proxies_are_not_spoken_to(tls: Certificates) -> None:
    async with client_over(PushTransport(tls.client(), httpx2.Proxy("socks5://127.0.0.1:1"))) as client:
        with pytest.raises(httpx2.UnsupportedProtocol, match="socks5"):
            await client.get("http://127.0.0.1:1/")


async def test_a_proxys_headers_cannot_break_out_of_their_lines(tls: Certificates) -> None:
    async with serving(Proxy()) as place:
        proxy = httpx2.Proxy(place.url, headers=[(b"X-Key", b"a\r\nX-Injected: b")])
        async with client_over(PushTransport(tls.client(), proxy)) as client:
            for scheme in ("http", "https"):
                with pytest.raises((httpx2.LocalProtocolError, httpx2.ConnectError), match="X-Key"):
                    await client.get(f"{scheme}://127.0.0.1:1/")


@pytest.mark.parametrize("proxy_has_tls", [False, True])
async def test_a_cancellation_at_any_step_of_a_tunnel_leaves_no_connection(
    tls: Certificates, proxy_has_tls: bool
) -> None:
    async def counted(line: Line) -> None:
        try:
            await proxy(line)
        finally:
            gone.append(line.number)

    gone: list[int] = []
    proxy = Proxy()
    async with (
        serving(answering(*HELLO[:2]), tls=tls.server()) as peer,
        serving(counted, tls=tls.server() if proxy_has_tls else None) as place,
        client_over(by(place, tls.client())) as client,
    ):
        url = f"https://localhost:{peer.port}/"
        await (await opened(client, url)).aclose()  # from now on the names are known
        await cancelled_at_every_step(lambda: pulled(client, url), lambda: peer.lines > 1)
        await until(lambda: len(gone) == place.lines)
