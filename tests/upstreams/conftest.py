"""A rehearsal upstream per test, the local model once per session, and a client that sees the bare bytes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI

from tailrace.upstreams.local_model import LocalModel, is_installed
from tailrace.upstreams.rehearsal import Rehearsal


@pytest.fixture
async def rehearsal() -> AsyncIterator[Rehearsal]:
    async with Rehearsal() as server:
        yield server
        await server.wait_until(lambda: server.open_streams == 0, "no call is left open")


@pytest.fixture
async def client(rehearsal: Rehearsal) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=rehearsal.base_url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def local_model() -> Iterator[LocalModel]:
    """The local model, started once. Its tests are marked `local_model`."""
    if not is_installed():
        pytest.skip("xllamacpp is not installed (extra local-model)")
    with LocalModel() as model:
        yield model


@dataclass
class Raw:
    """A response as it lay on the wire."""

    head: bytes = b""
    body: bytes = b""
    ended: Literal["whole", "cut", "reset", "stalled"] = "whole"
    chunks: list[bytes] = field(default_factory=list[bytes])

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def lines(self) -> list[bytes]:
        return self.body.splitlines()


Post = Callable[..., Awaitable[Raw]]


@pytest.fixture
def post(rehearsal: Rehearsal) -> Post:
    async def post(path: str, body: object, *, patience: float = 5.0) -> Raw:
        port = int(rehearsal.base_url.removesuffix("/v1").rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(payload)}\r\n\r\n"
        writer.write(head.encode() + payload)
        raw = Raw()
        try:
            async with asyncio.timeout(patience):
                await _read(reader, raw)
        except asyncio.IncompleteReadError as error:
            raw.head, raw.ended = raw.head or error.partial, "cut"
        except ConnectionResetError:
            raw.ended = "reset"
        except TimeoutError:
            raw.ended = "stalled"
        finally:
            raw.body = b"".join(raw.chunks)
            writer.close()
        return raw

    return post


async def _read(reader: asyncio.StreamReader, raw: Raw) -> None:
    raw.head = await reader.readuntil(b"\r\n\r\n")
    head = raw.head.lower()
    if b"chunked" not in head:
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        raw.chunks.append(await reader.readexactly(length))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        raw.chunks.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)


def chat(**script: Any) -> dict[str, Any]:
    """A streamed chat with a script."""
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "rehearsal": script,
    }


@pytest.fixture
def chat_body() -> Callable[..., dict[str, Any]]:
    return chat
