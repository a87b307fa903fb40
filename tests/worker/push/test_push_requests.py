"""What is sent: bytes that say one request and no more, also when they are many, or the answer comes before their end."""

import asyncio
import re
import ssl

import httpx2
import pytest
from push_peers import EMPTY, PATIENCE_S, Line, opened, pulled, read, serving

from tailrace.worker.push import PushTransport
from tailrace.worker.push.heads import head_of

MIB = 1024 * 1024
IMAGES = bytes(range(256)) * (24 * MIB // 256)


async def noted(line: Line, peer: list[bytes]) -> None:
    while True:
        peer.append(await line.request())
        await line.say(EMPTY)


async def test_a_request_is_its_method_target_headers_and_body(http: httpx2.AsyncClient) -> None:
    requests: list[bytes] = []
    async with serving(lambda line: noted(line, requests)) as peer:
        response = await http.post(f"{peer.url}/v1/chat?q=a%20b&c=d", json={"a": 1}, headers=[(b"X-Latin", b"\xe9")])
        assert response.status_code == 200
    head, _, body = requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat?q=a%20b&c=d HTTP/1.1"
    assert f"Host: 127.0.0.1:{peer.port}".encode() in lines
    assert b"X-Latin: \xe9" in lines
    assert sum(line.lower().startswith(b"content-length") for line in lines) == 1
    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    ("method", "content", "length"), [("GET", b"", None), ("POST", b"", b"0"), ("DELETE", b"x", b"1")]
)
async def test_a_body_has_a_length_and_so_has_its_absence_where_one_is_expected(
    http: httpx2.AsyncClient, method: str, content: bytes, length: bytes | None
) -> None:
    requests: list[bytes] = []
    async with serving(lambda line: noted(line, requests)) as peer:
        await (await opened(http, peer.url, method, content=content)).aread()
    found = re.findall(rb"(?i)content-length: (\d+)", requests[0])
    assert found == ([length] if length is not None else [])


async def test_a_body_that_comes_in_pieces_is_sent_with_its_length(http: httpx2.AsyncClient) -> None:
    async def pieces() -> object:
        yield b"hel"
        yield b"lo"

    requests: list[bytes] = []
    async with serving(lambda line: noted(line, requests)) as peer:
        await http.post(peer.url, content=pieces())  # type: ignore[arg-type]  # an async generator  # pyright: ignore[reportArgumentType]
    assert requests[0].endswith(b"\r\n\r\nhello")
    assert b"Content-Length: 5" in requests[0]
    assert b"chunked" not in requests[0].lower()


async def test_an_ipv6_host_is_named_in_brackets(http: httpx2.AsyncClient) -> None:
    requests: list[bytes] = []
    try:
        server = serving(lambda line: noted(line, requests), host="::1")
        peer = await server.__aenter__()
    except OSError:
        pytest.skip("no IPv6 here")
    try:
        await pulled(http, peer.url)
    finally:
        await server.__aexit__(None, None, None)
    assert f"Host: [::1]:{peer.port}\r\n".encode() in requests[0]


async def test_a_request_without_a_host_header_gets_one() -> None:
    requests: list[bytes] = []
    transport = PushTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    async with serving(lambda line: noted(line, requests)) as peer, transport:
        request = httpx2.Request("GET", peer.url)
        del request.headers["Host"]
        response = await transport.handle_async_request(request)
        await response.aread()
    assert f"Host: 127.0.0.1:{peer.port}\r\n".encode() in requests[0]


@pytest.mark.parametrize("value", [b"a\r\nX-Injected: b", b"a\nb", b"a\rb", b"a\0b", b"\r\n\r\nGET / HTTP/1.1"])
async def test_a_header_cannot_break_out_of_its_line(http: httpx2.AsyncClient, value: bytes) -> None:
    async with serving(lambda line: noted(line, [])) as peer:
        with pytest.raises(httpx2.LocalProtocolError, match="'X-Key'") as caught:
            await http.get(peer.url, headers=[(b"X-Key", value)])
        assert "Injected" not in str(caught.value)  # it may be a key
        assert peer.lines == 0


@pytest.mark.parametrize("name", [b"X Key", b"X\r\nY", b"X:Y", b"", b"X\xe9", b"X\0"])
def test_what_is_no_name_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="no name"):
        head_of(b"GET", b"/", [(name, b"v")])


@pytest.mark.parametrize(
    ("method", "target"), [(b"GE T", b"/"), (b"", b"/"), (b"GET", b"/ HTTP/1.1\r\nX: y"), (b"GET", b"")]
)
def test_what_is_no_method_and_no_target_is_refused(method: bytes, target: bytes) -> None:
    with pytest.raises(ValueError, match=r"method|target"):
        head_of(method, target, [])


@pytest.mark.parametrize("method", ["HEAD", "CONNECT"])
async def test_methods_whose_responses_are_framed_otherwise_are_not_sent(http: httpx2.AsyncClient, method: str) -> None:
    with pytest.raises(httpx2.LocalProtocolError, match=method):
        await opened(http, "http://127.0.0.1:9", method)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "ws://127.0.0.1/"])
async def test_other_schemes_are_not_spoken(url: str) -> None:
    async with PushTransport(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as transport:
        with pytest.raises(httpx2.UnsupportedProtocol):
            await transport.handle_async_request(httpx2.Request("GET", url))


async def test_24_mb_arrive_as_they_were_and_the_connection_is_used_again(http: httpx2.AsyncClient) -> None:
    requests: list[bytes] = []
    async with serving(lambda line: noted(line, requests)) as peer:
        for _ in range(2):
            await (await opened(http, peer.url, "POST", content=IMAGES)).aread()
        assert peer.lines == 1
    assert all(request.endswith(b"\r\n\r\n" + IMAGES) for request in requests)


async def test_a_request_waits_for_a_server_that_does_not_read(http: httpx2.AsyncClient) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of both ways  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        begun.set()
        await go.wait()
        line.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        await line.reader.readexactly(len(IMAGES))
        await line.say(EMPTY)

    begun, go = asyncio.Event(), asyncio.Event()
    async with serving(script) as peer:
        sending = asyncio.create_task(opened(http, peer.url, "POST", content=IMAGES))
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not sending.done()
        go.set()
        await (await sending).aread()


REFUSAL = b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large"


@pytest.mark.parametrize("reads_on", [True, False])
async def test_an_answer_before_the_end_of_the_request_is_the_answer(http: httpx2.AsyncClient, reads_on: bool) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(REFUSAL)
        if reads_on:
            received.append(len(await line.reader.read(-1)))
        else:
            await over.wait()

    received: list[int] = []
    over = asyncio.Event()
    async with serving(script) as peer:
        response = await opened(http, peer.url, "POST", content=IMAGES)
        assert response.status_code == 413
        assert await response.aread() == b"too large"
        over.set()
        # The rest of the request was never sent: this connection cannot carry another.
        assert await pulled(http, peer.url) == b"too large"
        assert peer.lines == 2
    assert not received or received[0] < len(IMAGES)


async def test_a_server_that_hangs_up_on_a_long_request_is_a_read_error_or_its_answer(
    http: httpx2.AsyncClient,
) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        if line.number % 2:
            await line.say(REFUSAL)

    async with serving(script) as peer:
        for attempt in range(6):
            try:
                response = await opened(http, peer.url, "POST", content=IMAGES)
            except httpx2.ReadError:
                continue
            assert attempt % 2 == 0
            assert response.status_code == 413
            await response.aclose()


async def test_cancelling_a_long_request_closes_its_connection(http: httpx2.AsyncClient) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        begun.set()
        await go.wait()
        rest.set_result(len(await line.reader.read(-1)))

    begun, go = asyncio.Event(), asyncio.Event()
    rest: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with serving(script) as peer:
        sending = asyncio.create_task(opened(http, peer.url, "POST", content=IMAGES))
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            go.set()
            assert await rest < len(IMAGES)


async def test_requests_at_once_have_connections_of_their_own(http: httpx2.AsyncClient) -> None:
    def name(request: bytes) -> bytes:
        return request.split(b" ")[1]

    async def script(line: Line) -> None:
        while True:
            asked = name(await line.request())
            arrived.append(asked)
            if len(arrived) == 20:
                all_in.set()
            await all_in.wait()
            await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(asked), asked))

    arrived: list[bytes] = []
    all_in = asyncio.Event()
    async with serving(script) as peer:
        answers = await asyncio.gather(*(read(http, f"{peer.url}/{number}") for number in range(20)))
        assert answers == [b"/%d" % number for number in range(20)]
        assert peer.lines == 20
