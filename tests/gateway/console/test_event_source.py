"""A browser's own EventSource on a page of another origin, with a read token: through cuts, restarts and the end."""

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import pytest
from gateway_process import free_port, gateway_process
from pages import Console, opened, text_of
from redis.asyncio import Redis

from engine import engine
from tailrace.client import AsyncJob
from tailrace.gateway.access import hash_key, new_key
from tailrace.schemas import ChunkRecord, JobCancelled

pytestmark = pytest.mark.browser

KEY: Final = new_key()
SECRET: Final = "signs-read-tokens-in-these-tests-and-nowhere-else"
_PAGE: Final = """<!doctype html><title>bare</title><pre id="text"></pre><script>
const seen = { ids: [], errors: 0, opens: 0, end: null };
function follow(url) {
  const output = document.getElementById("text");
  const source = new EventSource(url);
  seen.source = source;
  source.onopen = () => { seen.opens += 1; };
  source.onerror = () => { seen.errors += 1; };
  source.onmessage = (event) => {
    output.append(JSON.parse(event.data).text);
    seen.ids.push(event.lastEventId);
  };
  source.addEventListener("rewind", (event) => { output.textContent = JSON.parse(event.data).text_before; });
  // It does not close itself: that nothing follows, the gateway has to say.
  source.addEventListener("end", (event) => { seen.end = JSON.parse(event.data).status; });
}
</script>"""


class Cable:
    """A TCP proxy before the gateway: the network that can be unplugged."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._plug: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._links: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.plug_in()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.unplug()

    async def plug_in(self) -> None:
        self._plug = await asyncio.start_server(self._link, "127.0.0.1", self.port)
        self.port = self._plug.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        """Drop what is open, refuse what comes."""
        assert self._plug is not None
        self._plug.close()
        for end in self._ends:
            end.transport.abort()
        await asyncio.gather(*self._links)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        self._ends.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._ends.add(far_writer)
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            self._ends.discard(far_writer)
        finally:
            writer.transport.abort()
            self._ends.discard(writer)
            self._links.discard(link)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


def foreign_gateway(server_url: str, namespace: str, port: int, folder: Path) -> AbstractAsyncContextManager[Process]:
    """A gateway with one tenant, which pages from elsewhere may use."""
    config = folder / "tailrace.toml"
    config.write_text(
        f'[gateway]\ncors_origins = ["*"]\nretry_ms = 50\ntoken_secret_env = "TOKEN_SECRET"\n'
        f'[gateway.tenants.default]\nkey_hashes = ["{hash_key(KEY)}"]\n'
    )
    return gateway_process(server_url, namespace, port, "--config", str(config), TOKEN_SECRET=SECRET)


@asynccontextmanager
async def bare_page(gateway: str) -> AsyncGenerator[Console]:
    """A page of another origin than the gateway's, with a script of a few lines."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(_PAGE)}\r\nConnection: close\r\n\r\n"
        )
        writer.write((head + _PAGE).encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as elsewhere:
        port = elsewhere.sockets[0].getsockname()[1]
        async with opened(f"http://127.0.0.1:{port}", "/", cuts=True) as console:
            yield console


@asynccontextmanager
async def followed(console: Console, job: AsyncJob, gateway: str) -> AsyncGenerator["Followed"]:
    """The page reads the job's stream with a read token for this job."""
    async with httpx2.AsyncClient(base_url=gateway, headers={"Authorization": f"Bearer {KEY}"}) as http:
        made = await http.post(f"/v1/jobs/{job.id}/tokens", json={})
        assert made.status_code == 201, made.text
    follower = Followed(console, job)
    console.page.on(
        "response", lambda answer: follower.answers.append(answer.status) if "/stream" in answer.url else None
    )
    await console.page.evaluate("url => follow(url)", gateway + made.json()["url"])
    yield follower


class Followed:
    """A page that follows a job, and what it has seen."""

    def __init__(self, console: Console, job: AsyncJob) -> None:
        self._console, self._job = console, job
        self.answers: list[int] = []
        """The status of every request for the stream."""

    async def saw(self, what: str) -> Any:
        return await self._console.page.evaluate(what)

    async def more(self) -> None:
        """Wait until more text has come."""
        length = len(await self._console.text())
        await self._until(f"document.getElementById('text').textContent.length > {length + 100}")

    async def is_cut_off(self) -> None:
        """Wait until the browser has noticed, and has come back in vain as well."""
        errors = await self.saw("seen.errors")
        await self._until(f"seen.errors > {errors + 1}")

    async def ended(self) -> None:
        """Wait until the browser knows that nothing follows, then compare with the log."""
        await self._until("seen.source.readyState === EventSource.CLOSED")
        assert await self.saw("seen.end") == "cancelled"
        assert await self._console.text() == await text_of(self._job)
        ids = await self.saw("seen.ids")
        assert ids == [position for position in await chunk_positions(self._job) if position in set(ids)]
        # Once for each connection, once for the end of it all; nothing after that.
        assert self.answers == [200] * await self.saw("seen.opens") + [204]

    async def _until(self, condition: str) -> None:
        await self._console.page.wait_for_function(condition, timeout=15_000)


async def chunk_positions(job: AsyncJob) -> list[str]:
    records: list[Any] = []
    with suppress(JobCancelled):
        async for record in job.records():
            records.append(record)  # noqa: PERF401  # what came before the cancel counts
    return [record.position for record in records if isinstance(record, ChunkRecord)]


async def test_the_network_is_cut_and_comes_back_and_an_event_source_has_every_chunk_once(
    real_redis: Redis, namespace: str, server_url: str, tmp_path: Path
) -> None:
    port = free_port()
    async with (
        engine(real_redis, namespace) as running,
        foreign_gateway(server_url, namespace, port, tmp_path),
        Cable(port) as cable,
        bare_page(gateway := f"http://127.0.0.1:{cable.port}") as console,
    ):
        job = await running.tailrace.submit("hello", model="rehearsal:fault=endless,pace=0.01")
        async with followed(console, job, gateway) as page:
            for _ in range(2):
                await page.more()
                await cable.unplug()
                await page.is_cut_off()
                await cable.plug_in()
            await page.more()
            # The end comes while nobody can hear it.
            await cable.unplug()
            await page.is_cut_off()
            await job.cancel()
            await cable.plug_in()
            await page.ended()
            assert await page.saw("seen.opens") == 4


async def test_the_gateway_is_killed_and_started_again_and_an_event_source_has_every_chunk_once(
    real_redis: Redis, namespace: str, server_url: str, tmp_path: Path
) -> None:
    port = free_port()
    async with (
        engine(real_redis, namespace) as running,
        foreign_gateway(server_url, namespace, port, tmp_path) as first,
        bare_page(gateway := f"http://127.0.0.1:{port}") as console,
    ):
        job = await running.tailrace.submit("hello", model="rehearsal:fault=endless,pace=0.01")
        async with followed(console, job, gateway) as page:
            await page.more()
            first.kill()
            await page.is_cut_off()
            async with foreign_gateway(server_url, namespace, port, tmp_path):
                await page.more()
                await job.cancel()
                await page.ended()
                assert await page.saw("seen.opens") == 2
