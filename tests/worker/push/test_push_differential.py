"""Any bytes, cut anywhere, end as two other parsers say: h11 (which sees what a reader of RFC 9112 sees) and aiohttp."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import h11
import httpx2
import pytest
from aiohttp.client_exceptions import ClientError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.worker.push.connection import Connection

End: TypeAlias = Literal["whole", "broken", "open"]


@dataclass(frozen=True)
class Seen:
    """What a client makes of the bytes. The status is None if no response came about; `open`: more may follow."""

    status: int | None
    body: bytes
    end: End


class Keeper:
    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(65536))

    def freed(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Nowhere(asyncio.Transport):
    """A transport that sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


async def by_us(pieces: Sequence[bytes], eof: bool) -> Seen:
    keeper, transport = Keeper(), Nowhere()
    connection = Connection(keeper, b"")
    connection.connection_made(transport)
    asking = asyncio.create_task(connection.exchange(httpx2.Request("GET", "http://a"), b"", b""))
    await asyncio.sleep(0)
    for piece in pieces:
        if not transport.closed:
            keeper.buffer[: len(piece)] = piece
            connection.buffer_updated(len(piece))
    if eof and not transport.closed:
        connection.eof_received()
    await asyncio.sleep(0)
    body: list[bytes] = []
    ends: list[Exception | None] = []
    try:
        if not asking.done():
            return Seen(None, b"", "open")
        if asking.exception() is not None:
            return Seen(None, b"", "broken")
        asking.result().body.listen(body.append, ends.append)
        end: End = "open" if not ends else "whole" if ends[0] is None else "broken"
        return Seen(asking.result().status, b"".join(body), end)
    finally:
        connection.abort()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def by_h11(pieces: Sequence[bytes], eof: bool) -> Seen:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=65536)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    status, body = None, bytearray()
    try:
        for piece in [*pieces, *([b""] if eof else [])]:
            connection.receive_data(piece)
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return Seen(status, bytes(body), "whole")
                elif isinstance(event, h11.ConnectionClosed):
                    return Seen(status, bytes(body), "broken")
    except h11.RemoteProtocolError:
        return Seen(status, bytes(body), "broken")
    return Seen(status, bytes(body), "broken" if eof else "open")


async def by_aiohttp(pieces: Sequence[bytes], eof: bool) -> Seen:
    handler = ResponseHandler(asyncio.get_running_loop())
    handler.connection_made(Nowhere())
    handler.set_response_params(auto_decompress=False, read_until_eof=True)
    for piece in pieces:
        handler.data_received(piece)
    if eof:
        handler.connection_lost(None)
    status, body = None, b""
    try:
        while True:
            async with asyncio.timeout(0):
                message, payload = await handler.read()
            if message.code >= 200 or message.code == 101:
                break
        status = message.code
        while not payload.at_eof():
            async with asyncio.timeout(0):
                body += await payload.readany()
    except TimeoutError:
        return Seen(status, body, "open")
    except (ClientError, HttpProcessingError):
        return Seen(status, body, "broken")
    finally:
        handler.abort()
    return Seen(status, body, "whole")


def cut_at(raw: bytes, places: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted({place % (len(raw) + 1) for place in places}), len(raw)]
    return [raw[start:end] for start, end in pairwise(marks) if start < end]


TOKEN = st.text("abcXYZ-019", min_size=1, max_size=8).map(str.encode)
VALUE = st.text(" abc;=,\"'\t\x80", max_size=12).map(lambda text: text.encode("latin-1"))
PIECE = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"\r\n", b"0\r\n\r\n", b"data: x\n\n", b"\n", b"HTTP/1.1 200 OK\r\n\r\n"]),
)
CUTS = st.lists(st.integers(0, 2000), max_size=12)


@st.composite
def heads(draw: st.DrawFn, status: int, framing: Sequence[tuple[bytes, bytes]], version: bytes = b"1.1") -> bytes:
    others = [(b"X-" + name, value) for name, value in draw(st.lists(st.tuples(TOKEN, VALUE), max_size=3))]
    lines = [
        b"%s:%s%s" % (name, draw(st.sampled_from([b"", b" ", b"  "])), value)
        for name, value in draw(st.permutations([*others, *framing]))
    ]
    reason = draw(st.sampled_from([b"OK", b"", b"Not Found"]))
    return b"\r\n".join([b"HTTP/%s %d %s" % (version, status, reason), *lines, b"", b""])


INTERIM = st.lists(st.sampled_from([100, 102, 103]).flatmap(lambda status: heads(status, [])), max_size=2).map(b"".join)
CHUNK = st.tuples(PIECE, st.sampled_from([b"", b";a", b";a=b"]))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Any response that a careful server could send."""
    status = draw(st.sampled_from([200, 200, 200, 404, 503, 204, 304]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    framing: list[tuple[bytes, bytes]] = []
    body = b""
    if status not in (204, 304):
        kind = draw(st.sampled_from(["length", "chunked", "close"]))
        if kind == "chunked":
            version, framing = b"1.1", [(b"Transfer-Encoding", b"chunked")]
            for piece, extension in draw(st.lists(CHUNK, max_size=5)):
                body += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
            trailers = draw(st.lists(st.tuples(TOKEN, VALUE), max_size=2))
            body += b"".join([b"0\r\n", *(b"X-%s: %s\r\n" % trailer for trailer in trailers), b"\r\n"])
        else:
            body = b"".join(draw(st.lists(PIECE, max_size=5)))
            framing = [(b"Content-Length", b"%d" % len(body))] if kind == "length" else [(b"Connection", b"close")]
    return draw(INTERIM) + draw(heads(status, framing, version)) + body


@st.composite
def damaged(draw: st.DrawFn, times: int) -> bytes:
    """A response in which something has been put in, left out, or written over."""
    raw = draw(responses())
    for _ in range(times):
        at = draw(st.integers(0, len(raw)))
        instead = draw(st.sampled_from([
            b"", b"\r", b"\n", b"\r\n", b"0", b"f", b" ", b"\t", b":", b";", b"\0", b"\xff", b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"HTTP/1.1 200 OK\r\n",
        ]))  # fmt: skip
        raw = raw[:at] + instead + raw[at + draw(st.integers(0, 3)) :]
    return raw


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@given(raw=responses(), cuts=CUTS, end=st.integers(0, 2000), eof=st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_a_careful_server_sends_ends_as_h11_and_aiohttp_say(
    runner: asyncio.Runner, raw: bytes, cuts: Sequence[int], end: int, eof: bool
) -> None:
    for sent in (raw, raw[: end % (len(raw) + 1)]):
        pieces = cut_at(sent, cuts)
        ours, aiohttps = runner.run(by_us(pieces, eof)), runner.run(by_aiohttp(pieces, eof))
        assert ours == by_h11(pieces, eof)
        assert (ours.status, ours.end) == (aiohttps.status, aiohttps.end)
        # Of a body that breaks off aiohttp drops what nobody has read yet.
        assert ours.body == aiohttps.body or ours.end == "broken"


@given(raw=damaged(times=1), cuts=CUTS, eof=st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_damaged_is_whole_only_if_another_parser_agrees(
    runner: asyncio.Runner, raw: bytes, cuts: Sequence[int], eof: bool
) -> None:
    pieces = cut_at(raw, cuts)
    ours = runner.run(by_us(pieces, eof))
    if ours.end == "whole":
        assert ours in (by_h11(pieces, eof), runner.run(by_aiohttp(pieces, eof)))


@given(raw=damaged(times=3), cuts=CUTS, eof=st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_made_of_the_bytes_does_not_depend_on_how_they_come(
    runner: asyncio.Runner, raw: bytes, cuts: Sequence[int], eof: bool
) -> None:
    assert runner.run(by_us(cut_at(raw, cuts), eof)) == runner.run(by_us([raw], eof))
