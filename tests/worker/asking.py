"""How these tests ask an upstream, and bare servers that behave worse than the rehearsal upstream can."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace.schemas import JobRequest, Settings, UpstreamSettings
from tailrace.worker.sources import Item, Outcome, UpstreamError
from tailrace.worker.upstreams import Upstreams

KEY = "sk-test-0123456789"


def upstreams_of(**upstreams: dict[str, Any]) -> Upstreams:
    return Upstreams(
        Settings(
            upstreams={
                name: UpstreamSettings.model_validate({"max_retries": 0, **given}) for name, given in upstreams.items()
            }
        )
    )


def ask(prompt: str = "hi", *, api: Any = "chat", upstream: str = "default", **script: Any) -> JobRequest:
    asked: dict[str, Any] = {"input": prompt} if api == "responses" else {"prompt": prompt}
    return JobRequest.of(
        **asked, api=api, model="gpt-4o-mini", upstream=upstream, params={"rehearsal": script} if script else None
    )


async def read(upstreams: Upstreams, request: JobRequest, **options: Any) -> tuple[list[Item], Outcome]:
    async with upstreams.open(request, **options) as stream:
        items = [item async for items in stream for item in items]
        return items, stream.outcome


async def failing(upstreams: Upstreams, request: JobRequest, **options: Any) -> tuple[list[Item], UpstreamError]:
    """The items before the failure, and the failure."""
    items: list[Item] = []
    try:
        async with upstreams.open(request, **options) as stream:
            async for some in stream:
                items += some
    except UpstreamError as error:
        return items, error
    pytest.fail("nothing failed")


def text_of(items: list[Item]) -> str:
    return "".join(item for item in items if isinstance(item, str))


@asynccontextmanager
async def serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Any],
) -> AsyncGenerator[str]:
    """A bare TCP server that reads a request's head and leaves the rest to `answer`."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await answer(reader, writer, await reader.readuntil(b"\r\n\r\n"))
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
