"""The floor: what remains when everything that a worker promises is left out.

`append` writes made-up tokens: XADDs packed by hand, those of a millisecond in one write on one connection, the answers
counted. `relay` also gets the tokens from the upstream, over sockets of its own whose protocol is handed the bytes: no TLS,
no proxy, no timeouts, no retries, no fencing, no publishing, no leases, no memory of what was written.
"""

import asyncio
import json
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from pydantic_core import from_json

from benchmarks import upstream
from benchmarks.loops import FASTEST, Orders, answer_at_once, asked_at_once, run_child
from benchmarks.processes import child, say
from benchmarks.streams import Load, Running, Side

How = Literal["append", "relay"]

_SPACING_S: Final = 0.001
_EVENT: Final = re.compile(rb"data: (\{.*)\n")
_CONNECTIONS_AT_ONCE: Final = 100
_TOOL_S: Final = 20.0


class _Appends(asyncio.Protocol):
    """One connection to Redis; what was added goes out once a millisecond."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._commands: list[bytes] = []
        self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._password:
            self._transport.write(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(self._password), self._password))

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"-"):
            raise RuntimeError(data.decode())
        self.answered += data.count(b"$")  # an id a command, each with its length before it

    def add(self, key: bytes, text: bytes) -> None:
        if not self._commands:
            asyncio.get_running_loop().call_later(_SPACING_S, self._flush)
        self._commands.append(
            b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\nc\r\n$%d\r\n%b\r\n" % (len(key), key, len(text), text)
        )

    def _flush(self) -> None:
        self._transport.write(b"".join(self._commands))
        self._commands.clear()


class _Stream(asyncio.Protocol):
    """One stream of the upstream."""

    def __init__(self, appends: _Appends, key: bytes, request: bytes) -> None:
        self._appends, self._key, self._request = appends, key, request
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        whole, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        for event in _EVENT.findall(whole + b"\n"):
            choices = from_json(event)["choices"]
            if choices and (text := choices[0]["delta"].get("content")):
                self._appends.add(self._key, text.encode())


def _request(model: str) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: floor\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    loop = asyncio.get_running_loop()
    redis = urlsplit(cast("str", configuration["redis_url"]))
    _, appends = await loop.create_connection(
        lambda: _Appends(redis.password or ""), redis.hostname or "", redis.port or 6379
    )
    keys = [f"{configuration['namespace']}:floor:{number}".encode() for number in range(configuration["streams"])]
    opened = asyncio.Event()

    async def open_() -> None:
        opened.set()

    orders.on("open", open_)
    answer_at_once(lambda: (appends.answered,))
    say("ready")
    await opened.wait()
    if configuration["how"] == "append":
        await _make_up(appends, keys, configuration["rate"])
    request, port = _request(upstream.model(configuration["rate"])), configuration["upstream_port"]
    for number, key in enumerate(keys):
        await loop.create_connection(lambda key=key: _Stream(appends, key, request), "127.0.0.1", port)  # type: ignore[misc]  # the default binds it
        if number % _CONNECTIONS_AT_ONCE == 0:
            await asyncio.sleep(0)
    await asyncio.Event().wait()


async def _make_up(appends: _Appends, keys: list[bytes], rate: float) -> None:
    """Each millisecond what is due, in all streams in turns."""
    loop = asyncio.get_running_loop()
    began, made = loop.time(), 0
    text = upstream.token(0).encode()
    while True:
        await asyncio.sleep(_SPACING_S)
        due = int((loop.time() - began) * rate * len(keys))
        for number in range(made, due):
            appends.add(keys[number % len(keys)], text)
        made = due


def floor(how: How) -> Side:
    """So much of it, on the fastest loop there is."""

    @asynccontextmanager
    async def running(load: Load) -> AsyncGenerator[Running]:
        configuration: dict[str, Any] = {
            "redis_url": load.bench.redis_url,
            "upstream_port": load.upstream.port,
            "how": how,
            "namespace": load.namespace,
            "streams": load.streams,
            "rate": load.rate,
            "loop": FASTEST,
            "cores": sorted(load.cores.worker),
        }
        async with child("benchmarks.floor", configuration) as process:

            async def open_() -> None:
                await process.tell("open")

            async def through() -> int:
                (answered,) = await asked_at_once(process)
                return int(answered)

            yield Running(process.pid, open_, through, reads=how == "relay")

    return running


async def redis_benchmark(redis_url: str, appends: int) -> float | None:
    """Microseconds an XADD by Redis' own tool, 50 in a write. None where it is not installed."""
    tool = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if tool is None:
        return None
    redis = urlsplit(redis_url)
    command = [
        *(tool, "-h", str(redis.hostname), "-p", str(redis.port), "-c", "1", "-P", "50", "-n", str(appends), "--csv"),
        *(("-a", redis.password) if redis.password else ()),
        *("XADD", "bench-floor:tool", "*", "c", upstream.token(0)),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    try:
        async with asyncio.timeout(_TOOL_S):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    found = re.search(rb'"([0-9.]+)"', told.splitlines()[-1] if told else b"")
    return 1e6 / float(found[1]) if found else None


if __name__ == "__main__":
    run_child(_main)
