"""Where a response ends, and what is no response: RFC 9112, read strictly where being wrong would be silent."""

import asyncio
import contextlib
import re
import socket
import struct

import httpx2
import pytest
from push_peers import CHUNKED, EMPTY, Heard, Line, answering, chunk, opened, pulled, read, serving, until

OK = b"HTTP/1.1 200 OK\r\n"
#: The response, whether its end is the connection's, its body, and whether the connection serves another request.
WHOLE: dict[str, tuple[bytes, bool, bytes, bool]] = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", False, b"hello", True),
    "no_body": (EMPTY, False, b"", True),
    "chunks": (CHUNKED + chunk(b"hel") + chunk(b"lo") + b"0\r\n\r\n", False, b"hello", True),
    "chunks_named_in_capitals": (
        OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n" + chunk(b"x") + b"0\r\n\r\n", False, b"x", True,
    ),
    "chunk_extensions": (CHUNKED + b'5;a=b;c="d;\\"e"\r\nhello\r\n0;end\r\n\r\n', False, b"hello", True),
    "chunk_sizes_padded": (CHUNKED + b"0005 \r\nhello\r\n000\r\n\r\n", False, b"hello", True),
    "trailers": (
        CHUNKED + chunk(b"hello") + b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n", False, b"hello", True,
    ),
    "close": (OK + b"\r\nhello", True, b"hello", False),
    "close_of_http_1_0": (b"HTTP/1.0 200 OK\r\n\r\nhello", True, b"hello", False),
    "close_without_a_body": (OK + b"\r\n", True, b"", False),
    "length_and_close": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", True, b"hello", False),
    "length_of_http_1_0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, b"hello", False),
    "kept_alive_in_http_1_0": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", False, b"hello", True,
    ),
    "chunks_in_http_1_0": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x") + b"0\r\n\r\n",
        False, b"x", False,
    ),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello", False, b"hello", True),
    "early_hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 \r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nh",
        False, b"h", True,
    ),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n", False, b"", True),
    "no_content_of_a_length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", False, b"", True),
    "not_modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False, b"", True),
    "empty_lines_before": (b"\r\n\r\n" + EMPTY, False, b"", True),
    "no_reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nh", False, b"h", True),
    "bare_lf_in_the_head": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", False, b"hello", True),
}  # fmt: skip
#: Bytes, and then the connection is closed.
CUT = {
    "in_a_length": OK + b"Content-Length: 5\r\n\r\nhell",
    "before_the_body": OK + b"Content-Length: 5\r\n\r\n",
    "in_a_chunk": CHUNKED + b"5\r\nhel",
    "in_a_chunk_size": CHUNKED + chunk(b"hello") + b"5",
    "behind_a_chunk": CHUNKED + chunk(b"hello"),
    "before_the_last_chunk": CHUNKED + chunk(b"hello") + b"0",
    "in_the_last_chunk": CHUNKED + chunk(b"hello") + b"0\r\n",
    "in_the_trailers": CHUNKED + chunk(b"hello") + b"0\r\nX-Sum: 1\r\n",
}
REFUSED = {
    "chunked_and_length": (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "Content-Length"),
    "length_and_chunked": (OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
    "two_lengths": (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "Content-Length"),
    "a_length_that_is_none": (OK + b"Content-Length: 5, 5\r\n\r\n", "Content-Length"),
    "a_negative_length": (OK + b"Content-Length: -5\r\n\r\n", "Content-Length"),
    "too_long_a_length": (OK + b"Content-Length: 99999999999999999999999\r\n\r\n", "Content-Length"),
    "a_coding_besides_chunked": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "coding"),
    "a_coding_behind_chunked": (OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n", "coding"),
    "chunked_twice": (OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "coding"),
    "a_folded_header": (OK + b"X-Folded: a\r\n b\r\nContent-Length: 5\r\n\r\n", "whitespace"),
    "a_space_before_the_colon": (OK + b"Content-Length : 5\r\n\r\n", "header"),
    "a_length_in_two_lines": (OK + b"Content-Length:\r\n 5\r\n\r\n", "header"),
    "a_nul_in_the_reason": (b"HTTP/1.1 200 O\0K\r\n\r\n", "reason"),
    "a_nul_in_a_header": (OK + b"X: a\0b\r\n\r\n", "header"),
    "another_protocol": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "101"),
    "another_protocol_without_asking": (b"SSH-2.0-OpenSSH_9.2\r\n", "HTTP"),
    "http_2": (b"HTTP/2.0 200 OK\r\n\r\n", "HTTP/2.0"),
    "http_0_9": (b"<html>hello</html>", "HTTP"),
    "an_interim_response_with_a_body": (b"HTTP/1.1 110 Odd\r\nContent-Length: 1\r\n\r\nx" + EMPTY, "110"),
    "a_status_that_is_none": (b"HTTP/1.1 99 Odd\r\n\r\n", "status"),
}
LARGE = 70_000
OVERSIZED = {
    "one_header": OK + b"X: " + b"x" * LARGE + b"\r\n\r\n",
    "many_headers": OK + b"X: x\r\n" * (LARGE // 2) + b"\r\n",
    "a_name": OK + b"x" * LARGE,
    "a_reason": b"HTTP/1.1 200 " + b"x" * LARGE,
    "interim_responses": b"HTTP/1.1 100 Continue\r\n\r\n" * (LARGE // 25),
    "empty_lines": b"\r\n" * LARGE,
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("cut", ["whole", "every_byte"])
async def test_a_response_ends_where_its_head_says(http: httpx2.AsyncClient, name: str, cut: str) -> None:
    raw, close, body, reused = WHOLE[name]
    pieces = [raw] if cut == "whole" else [raw[at : at + 1] for at in range(len(raw))]
    async with serving(answering(*pieces, close=close)) as peer:
        assert await read(http, peer.url) == body
        assert await pulled(http, peer.url) == body
        assert peer.lines == (1 if reused else 2)


@pytest.mark.parametrize("name", CUT)
async def test_a_response_that_is_cut_is_never_a_whole_one(http: httpx2.AsyncClient, name: str) -> None:
    async with serving(answering(CUT[name], close=True)) as peer:
        for ask in (read, pulled):
            with pytest.raises(httpx2.ReadError, match="in the middle of the body"):
                await ask(http, peer.url)


async def test_a_reset_is_not_the_end_of_a_body_that_ends_with_its_connection(http: httpx2.AsyncClient) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(OK + b"\r\nhello")
        heard.set()
        await told.wait()
        line.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.writer.transport.abort()

    heard, told = asyncio.Event(), asyncio.Event()
    async with serving(script) as peer:
        response = await opened(http, peer.url)
        told.set()
        with pytest.raises(httpx2.ReadError) as caught:
            await response.aread()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_connection_that_is_closed_before_the_answer_is_a_read_error(
    http: httpx2.AsyncClient, said: bytes
) -> None:
    async with serving(answering(said, close=True)) as peer:
        with pytest.raises(httpx2.ReadError, match="before it answered"):
            await opened(http, peer.url)


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_response_is_refused_and_its_connection_closed(http: httpx2.AsyncClient, name: str) -> None:
    async def script(line: Line) -> None:
        await line.request()
        whole = line.number == 1
        with contextlib.suppress(ConnectionError):
            await line.say(*([raw] if whole else [raw[at : at + 1] for at in range(len(raw))]))
        hung_up.append(await line.closed())

    raw, told = REFUSED[name]
    hung_up: list[bool] = []
    async with serving(script) as peer:
        for _ in range(2):
            with pytest.raises(httpx2.RemoteProtocolError, match=f"(?i){re.escape(told)}"):
                await opened(http, peer.url)
        await until(lambda: hung_up == [True, True])


@pytest.mark.parametrize("name", OVERSIZED)
@pytest.mark.parametrize("step", [LARGE * 8, 1000])
async def test_a_head_that_does_not_end_is_given_up(http: httpx2.AsyncClient, name: str, step: int) -> None:
    raw = OVERSIZED[name]
    async with serving(answering(*(raw[at : at + step] for at in range(0, len(raw), step)))) as peer:
        with pytest.raises(httpx2.RemoteProtocolError, match="65536 bytes"):
            await opened(http, peer.url)


@pytest.mark.parametrize("endless", [b"5;" + b"x" * LARGE, b"0\r\nX: " + b"x" * LARGE, b"0" * LARGE])
async def test_what_does_not_end_between_two_chunks_is_given_up(http: httpx2.AsyncClient, endless: bytes) -> None:
    pieces = [endless[at : at + 1000] for at in range(0, len(endless), 1000)]
    async with serving(answering(CHUNKED + chunk(b"hello"), *pieces)) as peer:
        with pytest.raises(httpx2.RemoteProtocolError, match="65536 bytes"):
            await read(http, peer.url)


async def test_a_long_body_is_not_mistaken_for_a_head(http: httpx2.AsyncClient) -> None:
    tokens = [chunk(b"a token of some length")] * 5000
    async with serving(answering(CHUNKED, *tokens, b"0\r\n\r\n")) as peer:
        assert await read(http, peer.url) == b"a token of some length" * 5000


async def test_what_comes_between_chunks_is_counted_from_the_last_chunk_on(http: httpx2.AsyncClient) -> None:
    size_line = b"5;" + b"x" * 1000 + b"\r\n"
    async with serving(answering(CHUNKED, *([size_line, b"hello\r\n"] * 100), b"0\r\n\r\n")) as peer:
        assert await read(http, peer.url) == b"hello" * 100


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nhelloXX", b"fffffffffffffffffffff\r\n"])
async def test_bytes_before_a_broken_chunk_are_given_and_then_the_error(
    http: httpx2.AsyncClient, broken: bytes
) -> None:
    async with serving(answering(CHUNKED + chunk(b"good") + broken)) as peer:
        response = await opened(http, peer.url)
        heard = Heard(response)
        assert isinstance(await heard.end(), httpx2.RemoteProtocolError)
        assert heard.text.startswith(b"good")


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"garbage", b"\0"])
@pytest.mark.parametrize("together", [True, False])
async def test_what_follows_a_response_unasked_is_never_the_next_answer(
    http: httpx2.AsyncClient, more: bytes, together: bool
) -> None:
    async def script(line: Line) -> None:
        await line.request()
        good = OK + b"Content-Length: 4\r\n\r\ngood"
        await line.say(*([good + more] if together else [good, more]))
        assert await line.closed()

    async with serving(script) as peer:
        for _ in range(3):
            assert await read(http, peer.url) == b"good"
            await asyncio.sleep(0)
        assert peer.lines == 3


async def test_headers_come_as_they_were_sent(http: httpx2.AsyncClient) -> None:
    head = b"HTTP/1.1 418 I'm a teapot\r\nX-Empty:\r\nX-Two: a\r\nx-two:\t b \t\r\nX-Latin: \xe9\r\n"
    async with serving(answering(head + b"Content-Length: 0\r\n\r\n")) as peer:
        response = await opened(http, peer.url)
        await response.aread()
    assert response.status_code == 418
    assert response.reason_phrase == "I'm a teapot"
    assert response.http_version == "HTTP/1.1"
    assert response.headers.raw == [
        (b"X-Empty", b""), (b"X-Two", b"a"), (b"x-two", b"b"), (b"X-Latin", b"\xe9"), (b"Content-Length", b"0"),
    ]  # fmt: skip
