"""Producers and readers that are killed, hang, have another clock, or come in numbers."""

import asyncio
import gc
import json
import random
import signal
from contextlib import aclosing
from typing import Any

import pytest
from fault_world import Process, counts, world

from tailrace import AsyncTailrace, JobConflict, JobNotFound
from tailrace.consumer.channels import BUFFERED_CHARACTERS
from tailrace.consumer.links import Link

fast = pytest.mark.faults_fast


@fast
async def test_every_job_that_a_killed_producer_had_accepted_is_run(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        producer = await w.start_client("submit", '{"tokens": 2}', "p")
        await producer.until(lambda lines: bool(lines), "submitting")
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        producer.kill()
        await producer.ended()
        accepted = [line.split()[1] for line in producer.lines if line.startswith("ok")]
        tried = [line.split()[1] for line in producer.lines if line.startswith("try")]
        assert accepted
        for job_id in accepted:
            assert await w.tailrace.job(job_id).text(timeout=20) == w.text(2)
        # The last one: stored and queued, or not there at all.
        unsure = len(tried) - len(accepted)
        assert unsure <= 1
        if unsure:
            try:
                assert await w.tailrace.job(tried[-1]).text(timeout=20) == w.text(2)
            except JobNotFound:
                unsure = 0
        assert w.calls == len(accepted) + unsure


async def test_a_job_that_was_stored_but_not_queued_is_found_by_the_sweep() -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=3, delay=0.5)
        await w.redis.delete(w.tailrace.settings.keys.queue)
        async with w.watching(job) as witness:
            pass
        await witness.check(w.text(3), silence_s=15)
        assert w.calls == 1


@fast
async def test_twenty_submits_of_one_job_at_once_are_one_job() -> None:
    async with world() as w:
        await w.start_worker()
        clients = [w.client() for _ in range(20)]
        for client in clients:
            await client.__aenter__()

        async def submit(client: AsyncTailrace, **script: Any) -> str:
            job = await client.submit("x", job_id="one", params={"rehearsal": {"tokens": 20, "pace": 0.01, **script}})
            return await job.text()

        try:
            texts = await asyncio.gather(*[submit(client) for client in clients])
            with pytest.raises(JobConflict):
                await submit(clients[0], tokens=21)
        finally:
            for client in clients:
                await client.__aexit__()
        assert texts == [w.text(20)] * 20
        assert w.calls == 1


def read(process: Process) -> tuple[list[str], list[str], str | None]:
    """What a reader process has printed: positions, texts, and its last word."""
    lines = [line.split(" ", 1) for line in process.lines]
    end = lines[-1][1] if lines and lines[-1][0] == "end" else None
    items = [line for line in lines if line[0] != "end"]
    return [position for position, _ in items], [json.loads(text) for _, text in items], end


@fast
async def test_a_killed_readers_successor_goes_on_where_it_stood(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=400, pace=0.02)
        positions: list[str] = []
        texts: list[str] = []
        after: list[str] = []
        for _ in range(3):
            reader = await w.start_client("stream", job.id, *after)
            wanted = chance.randrange(1, 20)
            await reader.until(lambda lines, wanted=wanted: len(lines) >= wanted, "reading")  # type: ignore[misc]  # a default in a lambda
            reader.kill()
            await reader.ended()
            seen, said, end = read(reader)
            assert end is None
            positions += seen
            texts += said
            after = [positions[-1]]
        last = await w.start_client("stream", job.id, *after)
        assert await last.ended() == 0
        seen, said, end = read(last)
        assert end == "completed"
        assert texts + said == [f" token{number}" for number in range(400)]
        assert len(set(positions + seen)) == 400


@pytest.mark.parametrize("off_s", [60, -60])
async def test_a_readers_clock_decides_nothing(off_s: int) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=100, pace=0.01, deadline=15.0)
        reader = await w.start_client("stream", job.id, env={"FAULTS_CLOCK_S": str(off_s), "FAULTS_GRACE_S": "0"})
        assert await reader.ended() == 0
        _, texts, end = read(reader)
        assert (end, "".join(texts)) == ("completed", w.text(100))


async def test_a_producers_clock_decides_nothing() -> None:
    async with world() as w:
        await w.start_worker()
        producer = await w.start_client("submit", '{"tokens": 2}', "p", env={"FAULTS_CLOCK_S": "-60"})
        await producer.until(lambda lines: "ok p3" in lines, "submitting")
        producer.kill()
        for number in range(4):
            assert await w.tailrace.job(f"p{number}").text(timeout=5) == w.text(2)


async def test_readers_that_hang_slow_nobody_and_do_not_fill_the_server(chance: random.Random) -> None:
    """Ten readers that would each make the server hold the whole answer, and memory for two of these."""
    words = [f"{number} " + "x" * 2000 + " " for number in range(450)]
    limits = {"client-output-buffer-limit": "pubsub 256kb 128kb 2"}
    async with world(server=limits, script={"chunks": words, "pace": 0.01}) as w:
        used = int((await w.redis.info("memory"))["used_memory"])
        await w.redis.config_set("maxmemory", str(used + 6_000_000))
        job = await w.submit()
        readers = [await w.start_client("stream", job.id) for _ in range(10)]
        worker = await w.start_worker()
        async with w.watching(job) as witness:
            for reader in readers:
                await reader.until(lambda lines: len(lines) > 1, "reading")
                reader.send(signal.SIGSTOP)
        await witness.check("".join(words), silence_s=5)
        assert counts(worker.said(), "WARNING") == 0, "hanging readers stopped the writer"
        for reader in readers:
            reader.send(signal.SIGCONT)
        for reader in readers:
            assert await reader.ended() == 0
            positions, texts, end = read(reader)
            assert (end, texts) == ("completed", words)
            assert len(set(positions)) == len(words)
        assert w.calls == 1


async def test_a_reader_that_does_not_keep_up_holds_a_bounded_buffer_and_misses_nothing() -> None:
    words = [f"{number} " + "x" * 2000 + " " for number in range(4000)]
    async with world(script={"chunks": words}, worker={"output_bytes": 10_000_000}) as w:
        await w.start_worker()
        job = await w.submit()
        async with aclosing(job.stream()) as slow:
            got = [await anext(slow)]
            async with w.watching(job) as witness:
                pass
            links: list[Link[Any]] = [thing for thing in gc.get_objects() if isinstance(thing, Link)]
            assert sum(len(item) for link in links for item in link.items) <= BUFFERED_CHARACTERS
            got += [chunk async for chunk in slow]
        await witness.check("".join(words), silence_s=5)
        assert [str(chunk) for chunk in got] == words
        assert w.calls == 1
