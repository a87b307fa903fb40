"""The openai package by itself, many streams in one process, nothing written anywhere: what reading alone costs.

`typed` is its documented way, `async for chunk in stream`. `raw` asks it for the bytes of the body, over its aiohttp
client, and takes events and texts out of them itself: what the transport leaves to be gained.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient
from pydantic_core import from_json

from benchmarks import upstream
from benchmarks.loops import Orders, answer_at_once, asked_at_once, run_child
from benchmarks.processes import child, say
from benchmarks.streams import Load, Running, Side

How = Literal["typed", "raw"]

#: The package's own clients stop at 1,000 connections.
NO_CAP: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
#: aiohttp has a limit of 100 instead of none, and takes 0 for none.
NO_CAP_AIOHTTP: Final = httpx2.Limits(max_connections=0, max_keepalive_connections=None)


class _Reading:
    """The streams that this process reads."""

    def __init__(self, base_url: str, how: How) -> None:
        make = DefaultAsyncHttpxClient if how == "typed" else DefaultAioHttpClient
        limits = NO_CAP if how == "typed" else NO_CAP_AIOHTTP
        self.client = AsyncOpenAI(base_url=base_url, api_key="none", http_client=make(limits=limits))
        self._read = self._typed if how == "typed" else self._raw
        self._tasks: list[asyncio.Task[None]] = []
        self.tokens = 0

    async def open(self, streams: int, model: str) -> None:
        """Begin to read so many. What ends one of them ends the process."""
        self._tasks = [asyncio.create_task(self._read(model)) for _ in range(streams)]
        await asyncio.gather(*self._tasks)

    async def _typed(self, model: str) -> None:
        stream = await self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "x"}], stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                self.tokens += 1

    async def _raw(self, model: str) -> None:
        asking = self.client.chat.completions.with_streaming_response.create(
            model=model, messages=[{"role": "user", "content": "x"}], stream=True
        )
        async with asking as response:
            rest = b""
            async for piece in response.iter_bytes():
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    if event.startswith(b"data: {"):
                        choices = from_json(event[6:])["choices"]
                        if choices and choices[0]["delta"].get("content"):
                            self.tokens += 1


async def _main(orders: Orders) -> None:
    configuration = orders.configuration
    reading = _Reading(configuration["base_url"], configuration["how"])
    opened = asyncio.Event()

    async def open_() -> None:
        opened.set()

    orders.on("open", open_)
    answer_at_once(lambda: (reading.tokens,))
    async with reading.client:
        await reading.open(1, upstream.model(100, tokens=3))  # warm
        reading.tokens = 0
        say("ready")
        await opened.wait()
        await reading.open(configuration["streams"], configuration["model"])
        await asyncio.Event().wait()


def direct(how: How, loop: str) -> Side:
    """Reading in this way, on this loop."""

    @asynccontextmanager
    async def running(load: Load) -> AsyncGenerator[Running]:
        configuration: dict[str, Any] = {
            "base_url": load.upstream.base_url,
            "how": how,
            "streams": load.streams,
            "model": upstream.model(load.rate),
            "loop": loop,
            "cores": sorted(load.cores.worker),
        }
        async with child("benchmarks.direct", configuration) as reader:

            async def open_() -> None:
                await reader.tell("open")

            async def through() -> int:
                (tokens,) = await asked_at_once(reader)
                return int(tokens)

            yield Running(reader.pid, open_, through)

    return running


if __name__ == "__main__":
    run_child(_main)
