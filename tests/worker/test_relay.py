"""The relay against a server that forgets, stops and is written to by others."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from tailrace.joblog import Broker, End, Fenced, Gone, LogRefusal, Sealed, claim, read_whole, seal
from tailrace.producer import Producer
from tailrace.schemas import Entry, JobRequest, Keys, Status
from tailrace.worker.job import load
from tailrace.worker.log_writer import APPEND_RECORDS, LogWriter
from tailrace.worker.memory import Memory, chunk
from tailrace.worker.relay import Relay


@asynccontextmanager
async def writing(
    redis: Redis, namespace: str
) -> AsyncGenerator[tuple[Broker, Keys, Relay, LogWriter, list[LogRefusal]]]:
    broker, keys = Broker(redis), Keys(namespace)
    await Producer(broker, keys).submit(JobRequest.of("x", model="m"), job_id="j")
    refusals: list[LogRefusal] = []
    async with Relay(broker, keys, worker="w1") as relay:
        job = await load(broker, keys, "j")
        writer = await relay.open(
            "j", incarnation=job.record.incarnation, attempt=1, memory=job.memory, refused=refusals.append
        )
        yield broker, keys, relay, writer, refusals


async def log(broker: Broker, keys: Keys) -> list[Entry]:
    return await read_whole(broker, keys, "j")


async def text(broker: Broker, keys: Keys) -> str:
    return "".join(line.text for line in Memory(await log(broker, keys)).output())


async def test_records_land_in_order_and_long_writes_are_cut(redis: Redis, namespace: str) -> None:
    async with writing(redis, namespace) as (broker, keys, _, writer, _):
        for number in range(3 * APPEND_RECORDS):
            writer.write(chunk(f"{number} "))
        await writer.flushed()
        assert await text(broker, keys) == "".join(f"{n} " for n in range(3 * APPEND_RECORDS))
        await writer.seal(End(Status.COMPLETED))


async def test_a_lost_tail_is_written_again_and_again(real_redis: Redis, namespace: str) -> None:
    async with writing(real_redis, namespace) as (broker, keys, _, writer, _):
        kept: Any = None
        for number in range(60):
            writer.write(chunk(f"{number} "))
            await writer.flushed()
            if number % 11 == 3:
                kept = await broker.call("DUMP", keys.log("j"))
            if number % 11 == 9:
                ttl = await broker.call("PTTL", keys.log("j"))
                await broker.call("RESTORE", keys.log("j"), ttl, kept, "REPLACE")
        ending = await writer.seal(End(Status.COMPLETED))
        assert ending.ours
        assert await text(broker, keys) == "".join(f"{n} " for n in range(60))


async def test_a_seal_that_finds_the_tail_lost_writes_it_first(real_redis: Redis, namespace: str) -> None:
    async with writing(real_redis, namespace) as (broker, keys, _, writer, _):
        kept = await broker.call("DUMP", keys.log("j"))
        writer.write(chunk("all of it"))
        await writer.flushed()
        await broker.call("RESTORE", keys.log("j"), 60_000, kept, "REPLACE")
        await writer.seal(End(Status.COMPLETED))
        assert await text(broker, keys) == "all of it"


@pytest.mark.parametrize("what", ["fenced", "sealed", "gone"])
async def test_a_writer_that_lost_its_log_is_told_once_and_writes_nothing_more(
    redis: Redis, namespace: str, what: str
) -> None:
    async with writing(redis, namespace) as (broker, keys, _, writer, refusals):
        writer.write(chunk("mine"))
        await writer.flushed()
        if what == "fenced":
            await claim(broker, keys, "j", incarnation=writer.incarnation, attempt=2, worker="w2")
        elif what == "sealed":
            await seal(broker, keys, "j", End(Status.CANCELLED))
        else:
            await broker.call("DEL", keys.log("j"))
        writer.write(chunk("not any more"))
        with pytest.raises({"fenced": Fenced, "sealed": Sealed, "gone": Gone}[what]):
            await writer.flushed()
        with pytest.raises(LogRefusal):
            writer.write(chunk("nor this"))
        assert len(refusals) == 1
        if what == "gone":
            assert not await broker.call("EXISTS", keys.log("j"))
            await broker.call("DEL", keys.request("j"), keys.queue, keys.open)
        else:
            assert await text(broker, keys) == "mine"


async def test_an_append_whose_answer_was_lost_lands_once(redis: Redis, namespace: str) -> None:
    async with writing(redis, namespace) as (broker, keys, _, writer, _):
        pipe = writer.lane._pipe  # pyright: ignore[reportPrivateUsage]  # the wire is what fails
        ask = pipe.ask

        async def forgetful(commands: Any) -> list[Any]:
            await ask(commands)
            pipe.ask = ask  # type: ignore[method-assign]
            raise _unavailable()

        pipe.ask = forgetful  # type: ignore[method-assign]
        writer.write(chunk("once"))
        await writer.flushed()
        assert await text(broker, keys) == "once"


async def test_back_pressure_holds_a_source_while_the_server_is_away(redis: Redis, namespace: str) -> None:
    async with writing(redis, namespace) as (broker, keys, _, writer, _):
        pipe, away = writer.lane._pipe, True  # pyright: ignore[reportPrivateUsage]  # the wire is what fails
        ask = pipe.ask

        async def absent(commands: Any) -> list[Any]:
            if away:
                raise _unavailable()
            return await ask(commands)

        pipe.ask = absent  # type: ignore[method-assign]
        writer.write(chunk("x" * 300_000))
        writer.write(chunk("y" * 300_000))
        held = asyncio.create_task(writer.ready())
        done, _pending = await asyncio.wait([held], timeout=0.05)
        assert not done
        away = False
        await held
        await writer.flushed()
        assert len(await text(broker, keys)) == 600_000


async def test_a_forgotten_script_is_loaded_again(redis: Redis, namespace: str) -> None:
    async with writing(redis, namespace) as (broker, keys, _, writer, _):
        writer.write(chunk("a"))
        await writer.flushed()
        await broker.call("SCRIPT FLUSH")
        writer.write(chunk("b"))
        await writer.flushed()
        assert await text(broker, keys) == "ab"


def _unavailable() -> Exception:
    from tailrace.schemas import BrokerUnavailable

    return BrokerUnavailable("the answer was lost")
