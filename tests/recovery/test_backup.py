"""Back-up and restore: what a copy of the server's files brings back, and what workers and readers make of it."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from engine import Engine, engine, wait_until
from tailrace import JobNotFound, Status
from tailrace.joblog.embedded import EmbeddedServer

SLOW: Final = "rehearsal:tokens=120,pace=0.01"


@asynccontextmanager
async def client_of(server: EmbeddedServer) -> AsyncGenerator[Any]:
    anything: Any = Redis
    async with anything.from_url(server.url) as redis:
        yield redis


async def copy_append_only_file(redis: Any, server: EmbeddedServer, to: Path) -> None:
    """As docs/operations.md tells: no rewrite may begin or be under way meanwhile."""
    before = (await redis.config_get("auto-aof-rewrite-percentage"))["auto-aof-rewrite-percentage"]
    await redis.config_set("auto-aof-rewrite-percentage", 0)
    assert (await redis.info("persistence"))["aof_rewrite_in_progress"] == 0
    shutil.copytree(server.folder / "appendonlydir", to)
    await redis.config_set("auto-aof-rewrite-percentage", before)


def restore_append_only_file(server: EmbeddedServer, saved: Path) -> None:
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(saved, server.folder / "appendonlydir")


async def running(stack: Engine, job_id: str, records: int = 20) -> None:
    async def written() -> bool:
        return int(await stack.tailrace.broker.call("XLEN", stack.settings.keys.log(job_id))) > records

    await wait_until(f"{job_id} has written something", written)


async def test_a_server_that_is_taken_back_to_its_back_up_goes_on_from_there(namespace: str, tmp_path: Path) -> None:
    with EmbeddedServer(private=True) as server:
        async with client_of(server) as redis, engine(redis, namespace) as stack:
            tailrace = stack.tailrace
            done = await tailrace.submit("hello", job_id="done")
            text = await done.text()
            await tailrace.submit("hello", job_id="later", delay=3600)
            going = await tailrace.submit("hello", model=SLOW, job_id="going")
            await running(stack, "going")
            await copy_append_only_file(redis, server, tmp_path / "saved")
            await running(stack, "going", 60)
            after = await tailrace.submit("hello", job_id="after")
            await after.result()

            server.stop()
            restore_append_only_file(server, tmp_path / "saved")
            server.start()

            # What had ended is read as ever; what ran goes on: its worker has what the server has lost.
            assert await tailrace.job("done").text() == text
            whole = await going.text()
            assert len(whole.split()) >= 100
            kinds = [record.kind async for record in tailrace.job("going").records()]
            assert kinds.count("attempt") >= 2
            assert (await tailrace.job("later").status()) is Status.QUEUED
            with pytest.raises(JobNotFound):
                await after.status()
            # Nothing stays open but what waits for its time.
            keys = stack.settings.keys

            async def settled() -> bool:
                return bool(await tailrace.broker.call("ZRANGE", keys.open, 0, -1) == [b"later"])

            await wait_until("the sweep has healed what the back-up had open", settled)


async def test_an_empty_server_that_gets_a_dump_has_all_jobs_and_does_the_open_ones(
    namespace: str, tmp_path: Path
) -> None:
    with EmbeddedServer(private=True) as first:
        async with client_of(first) as redis, engine(redis, namespace) as stack:
            text = await (await stack.tailrace.submit("hello", job_id="done")).text()
            cut = await stack.tailrace.submit("hello", model=SLOW, job_id="cut")
            await running(stack, "cut")
            await redis.bgsave()

            async def saved() -> bool:
                return bool((await redis.info("persistence"))["rdb_bgsave_in_progress"] == 0)

            await wait_until("the dump is written", saved)
            shutil.copy(first.folder / "dump.rdb", tmp_path / "dump.rdb")
            await cut.cancel()
    # A server with appendonly reads its append-only file and nothing else: it is switched on once the dump is loaded.
    with EmbeddedServer(private=True, extra_config={"appendonly": "no"}) as second:
        second.kill()
        shutil.copy(tmp_path / "dump.rdb", second.folder / "dump.rdb")
        second.start()
        async with client_of(second) as redis:
            await redis.config_set("appendonly", "yes")
            async with engine(redis, namespace) as stack:
                assert await stack.tailrace.job("done").text() == text
                # Nobody remembers the attempt that the dump has cut off: the lease runs out, and another one goes on.
                result = await stack.tailrace.job("cut").result()
                assert result.status is Status.COMPLETED
                assert len(result.text.split()) >= 100
                assert (await redis.info("persistence"))["aof_enabled"] == 1
