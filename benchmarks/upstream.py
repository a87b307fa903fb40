"""A fast upstream as a process of the benchmarks: chat completions, streamed, at a steady pace for thousands at a time.

It answers as OpenAI does: chunked, an SSE event a chunk, a chunk's JSON in full. What a stream is asked for stands in the
request's `model`: `wheel:rate=10,tokens=200` (without tokens it goes on until the benchmark says `finish`). All streams of
one rate hang on one wheel, so that a token costs little more than its write. A token is of fixed width and says when it
was sent (`token`, `sent_us`). Nothing waits for a slow reader: what is due is written, as a model that computes would.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from benchmarks.loops import FASTEST, Orders, run_child, write_at_once
from benchmarks.processes import Child, child, say

_WRAP_US: Final = 10**10
#: Of a token's text: a space, ten digits.
WIDTH: Final = 11
_TICK_S: Final = 0.001

_EVENT: Final = (
    'data: {"id":"chatcmpl-BwoiPTGRbKkY5rncfaM0s9KtWrq5N","object":"chat.completion.chunk","created":1753357673,'
    '"model":"gpt-4.1-2025-04-14","service_tier":"default","system_fingerprint":"fp_51e1070cf2",'
    '"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}],"usage":null}\n\n'
)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_1\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def token(now_us: int) -> str:
    """A token's text."""
    return f" {now_us % _WRAP_US:010d}"


def now_us() -> int:
    return time.monotonic_ns() // 1000


def age_us(text: str, arrived_us: int) -> int:
    """How long ago the (last) token of this text was sent."""
    return (arrived_us - int(text[-WIDTH + 1 :])) % _WRAP_US


def _chunked(text: str) -> bytes:
    raw = text.encode()
    return b"%x\r\n%b\r\n" % (len(raw), raw)


def _event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return _chunked(_EVENT % (json.dumps(delta, separators=(",", ":")), json.dumps(finish_reason)))


_BEGIN: Final = _HEAD + _event({"role": "assistant", "content": "", "refusal": None})
_END: Final = _event({}, "stop") + _chunked("data: [DONE]\n\n") + b"0\r\n\r\n"


def model(rate: float, tokens: int = 0) -> str:
    """What to ask for: so many tokens a second, and how many (0: until told to finish)."""
    return f"wheel:rate={rate:g},tokens={tokens}"


# The child's side.


class _Wheel:
    """The streams of one rate, spread evenly over the time between two tokens."""

    def __init__(self, rate: float) -> None:
        self._slots: list[dict[_Connection, None]] = [{} for _ in range(max(1, round(1000 / rate)))]
        self._slot_s = 1 / rate / len(self._slots)
        self._loop = asyncio.get_running_loop()
        self._turns = 0
        self._due = 0.0
        self._turning = False
        self.sent = 0

    def hang(self, connection: "_Connection") -> dict["_Connection", None]:
        """Into the emptiest slot."""
        slot = min(self._slots, key=len)
        slot[connection] = None
        if not self._turning:
            self._turning = True
            self._due = self._loop.time()
            self._turn()
        return slot

    def _turn(self) -> None:
        if not any(self._slots):
            self._turning = False
            return
        now = self._loop.time()
        while True:
            slot = self._slots[self._turns % len(self._slots)]
            if slot:
                if self._due > now:
                    break
                self._write(slot)
            self._turns += 1
            self._due += self._slot_s
            if not any(self._slots):
                break
        # uvloop counts in milliseconds and would go round and round within one.
        self._loop.call_later(max(_TICK_S, self._due - now), self._turn)

    def _write(self, slot: dict["_Connection", None]) -> None:
        event = _event({"content": token(now_us())})
        finished: list[_Connection] = []
        for connection in slot:
            connection.send(event)
            connection.left -= 1
            if not connection.left:
                finished.append(connection)
        self.sent += len(slot)
        for connection in finished:
            connection.finish()


class _Upstream:
    def __init__(self) -> None:
        self._wheels: dict[float, _Wheel] = {}
        self.streaming: set[_Connection] = set()

    def wheel(self, rate: float) -> _Wheel:
        if rate not in self._wheels:
            self._wheels[rate] = _Wheel(rate)
        return self._wheels[rate]

    @property
    def sent(self) -> int:
        return sum(wheel.sent for wheel in self._wheels.values())


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: _Upstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._slot: dict[_Connection, None] | None = None
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._fd: int = transport.get_extra_info("socket").fileno()

    def send(self, event: bytes) -> None:
        write_at_once(self.transport, self._fd, event)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._unhang()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _content_length(head.split(b"\r\n"))
        if len(rest) < length:
            return
        self._received = b""  # nobody sends the next request before this one is answered
        if head.startswith(b"POST /v1/chat/completions "):
            self._begin(json.loads(rest)["model"])
        else:
            self.transport.write(_NOT_FOUND)

    def _begin(self, asked: str) -> None:
        options = dict(option.split("=") for option in asked.partition(":")[2].split(","))
        self.transport.write(_BEGIN)
        self.left = int(options["tokens"]) or -1
        self._slot = self._upstream.wheel(float(options["rate"])).hang(self)
        self._upstream.streaming.add(self)

    def finish(self) -> None:
        self._unhang()
        self.transport.write(_END)

    def _unhang(self) -> None:
        self._upstream.streaming.discard(self)
        if self._slot is not None:
            self._slot.pop(self, None)


def _content_length(lines: Iterable[bytes]) -> int:
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _main(orders: Orders) -> None:
    upstream = _Upstream()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(upstream), "127.0.0.1", 0, backlog=4096)

    async def count() -> None:
        say("count", len(upstream.streaming), upstream.sent)

    async def finish() -> None:
        for connection in list(upstream.streaming):
            connection.finish()
        say("finished")

    orders.on("count", count)
    orders.on("finish", finish)
    async with server:
        say("ready")
        say("port", server.sockets[0].getsockname()[1])
        await server.serve_forever()


# The benchmark's side.


class FastUpstream:
    """The process, as the benchmark sees it."""

    def __init__(self, process: Child, port: int) -> None:
        self._process = process
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}/v1"

    @property
    def pid(self) -> int:
        return self._process.pid

    async def count(self) -> tuple[int, int]:
        """How many streams are open, and how many tokens were ever sent."""
        await self._process.tell("count")
        _, streaming, sent = await self._process.line()
        return int(streaming), int(sent)

    async def finish(self) -> None:
        """End all streams as a model does that has said what it wanted."""
        await self._process.tell("finish")
        await self._process.line()


@asynccontextmanager
async def fast_upstream(cores: Iterable[int] = ()) -> AsyncGenerator[FastUpstream]:
    configuration: dict[str, Any] = {"loop": FASTEST, "cores": sorted(cores)}
    async with child("benchmarks.upstream", configuration) as process:
        _, port = await process.line()
        yield FastUpstream(process, int(port))


if __name__ == "__main__":
    run_child(_main)
