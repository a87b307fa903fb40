"""The connections that the gateway is measured with: what they count is what was sent."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from benchmarks.sse_readers import Readers, sse_readers

TIMEOUT_S = 20.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'30\r\nid: 1-1\r\ndata: {"text":"%d"}\r\n\r\n\r\n'


class Server:
    """Sends every connection an event, and the rest when it is told to."""

    def __init__(self) -> None:
        self.connections: list[asyncio.StreamWriter] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + EVENT % 0)
        self.connections.append(writer)


@asynccontextmanager
async def serving(connections: int) -> AsyncGenerator[tuple[Server, Readers]]:
    server = Server()
    async with asyncio.timeout(TIMEOUT_S):
        listening = await asyncio.start_server(server.take, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        try:
            async with sse_readers(f"http://127.0.0.1:{port}/v1/jobs/some/stream", connections, ()) as readers:
                yield server, readers
        finally:
            listening.close()
            for writer in server.connections:
                writer.close()


async def until(readers: Readers, count: int) -> int:
    while (counted := await readers.count()) < count:  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.01)
    return counted


async def test_every_event_counts_once_however_its_bytes_are_cut() -> None:
    async with serving(3) as (server, readers):
        assert await readers.count() == 0
        for event in (EVENT % 1, EVENT % 2):
            for number in range(len(event)):
                for writer in server.connections:
                    writer.write(event[number : number + 1])
                await readers.count()  # by then it has probably read that byte, and alone
        assert await until(readers, 6) == 6


async def test_ages_are_those_of_events_between_two_counts() -> None:
    async with serving(2) as (server, readers):
        await readers.count()
        for writer in server.connections:
            writer.write(EVENT % 1 + EVENT % 2)
        await until(readers, 4)
        await readers.count()
        windows = await readers.ages_ms()
        assert sum(len(window) for window in windows) == 4
        assert all(age > 0 for window in windows for age in window)


async def test_a_lost_connection_is_an_error() -> None:
    async with serving(2) as (server, readers):
        await readers.count()
        for writer in server.connections:
            writer.close()
        with pytest.raises(RuntimeError, match="connections were lost"):
            await until(readers, 1)
