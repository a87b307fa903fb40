"""Connections that are reset, cut in the middle of a reply, half open, refused or slow, on either side of the server."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pytest
from fault_proxy import Proxy
from fault_world import World, world

from engine import wait_until
from tailrace import AsyncTailrace, BrokerUnavailable, Status

T = TypeVar("T")

fast = pytest.mark.faults_fast

sides = pytest.mark.parametrize("side", ["workers", "clients"])

#: redis-py waits so long for an answer on a connection that died without a word (joblog/connections.py).
ANSWER_TIMEOUT_S = 15.0


def link(w: World, side: str) -> Proxy:
    return w.worker_link if side == "workers" else w.client_link


@sides
@fast
async def test_resets_and_cut_replies_cost_nobody_a_record(side: str, chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=250, pace=0.01)
        async with w.watching(job) as witness:
            for _ in range(2):
                await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 20))
                link(w, side).reset()
                await witness.until_chunks(len(witness.chunks) + chance.randrange(1, 20))
                link(w, side).cut_replies(chance.randrange(1, 4), keep=chance.randrange(0, 8))
        await witness.check(w.text(250), silence_s=5)
        assert w.calls == len(witness.attempts) == 1


@sides
async def test_a_half_open_connection_is_given_up_and_nothing_is_missing(side: str, chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=150, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            link(w, side).half_open()
        await witness.check(w.text(150), silence_s=ANSWER_TIMEOUT_S + 5)
        assert w.calls == len(witness.attempts) == 1


@sides
async def test_connections_that_died_idle_hold_nobody_up_for_long(side: str) -> None:
    async with world() as w:
        await w.start_worker()
        jobs = [await w.submit(tokens=2, prompt=str(number)) for number in range(10)]
        await asyncio.gather(*[job.text() for job in jobs])
        link(w, side).half_open()
        async with asyncio.timeout(2 * ANSWER_TIMEOUT_S + 10):
            for number in range(5):
                job = await persistently(lambda number=number: w.submit(tokens=2, job_id=f"n{number}"))  # type: ignore[misc]  # a default in a lambda
                assert await persistently(job.text) == w.text(2)
        assert w.calls == 15


@sides
async def test_a_server_that_refuses_for_three_seconds_delays_and_loses_nothing(
    side: str, chance: random.Random
) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=150, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 40))
            await link(w, side).refuse()
            await asyncio.sleep(3)
            await link(w, side).accept()
        await witness.check(w.text(150), silence_s=7)
        assert w.calls == len(witness.attempts) == 1, "a lease that nobody took up is kept"


async def test_clients_are_told_at_once_that_the_server_refuses() -> None:
    async with world() as w:
        await w.client_link.refuse()
        began = time.monotonic()
        for ask in (w.submit(tokens=1), w.tailrace.job("x").status(), w.tailrace.job("x").text()):
            with pytest.raises(BrokerUnavailable):
                await ask
        assert time.monotonic() - began < 10
        await w.client_link.accept()


async def test_a_slow_line_delays_and_changes_nothing(chance: random.Random) -> None:
    async with world() as w:
        w.worker_link.delay_s = w.client_link.delay_s = 0.15
        await w.start_worker()
        job = await w.submit(tokens=200, pace=0.005)
        async with w.watching(job) as witness:
            pass
        w.client_link.delay_s = 0
        await witness.check(w.text(200), silence_s=5)
        assert w.calls == len(witness.attempts) == 1


async def test_a_submit_whose_answer_is_lost_can_be_repeated_and_is_one_job(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        for number in range(10):
            w.client_link.cut_replies(chance.randrange(1, 3), keep=chance.randrange(0, 8))
            job = await persistently(lambda number=number: w.submit(tokens=2, job_id=f"n{number}"))  # type: ignore[misc]  # a default in a lambda
            assert await persistently(job.text) == w.text(2)
        assert w.calls == 10
        queue = w.tailrace.settings.keys.queue

        async def empty() -> bool:
            return not await w.redis.zcard(queue)

        await wait_until("the queue is empty", empty)


async def test_a_cancel_whose_answer_is_lost_has_cancelled(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=10_000, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(3)
            w.client_link.cut_replies(chance.randrange(1, 4), keep=chance.randrange(0, 8))
            assert await persistently(job.cancel) is Status.CANCELLED
        await witness.check(None, status=Status.CANCELLED)


async def persistently(ask: Callable[[], Awaitable[T]]) -> T:
    """As a user who was told that the server did not answer, and tries again."""
    for _ in range(4):
        with suppress(BrokerUnavailable):
            return await ask()
    return await ask()


async def test_150_readers_that_reconnect_at_once_all_get_everything(chance: random.Random) -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=300, pace=0.01)
        clients = [w.client() for _ in range(30)]
        texts: list[str] = []

        async def read(client: AsyncTailrace) -> None:
            texts.append("".join([chunk async for chunk in client.job(job.id).stream()]))

        async with w.watching(job) as witness, asyncio.TaskGroup() as group:
            for client in clients:
                await client.__aenter__()
            for client in clients:
                for _ in range(5):
                    group.create_task(read(client))
            await witness.until_chunks(30)
            connections = w.client_link.connections
            await w.client_link.refuse()
            await asyncio.sleep(0.5)
            await w.client_link.accept()
        for client in clients:
            await client.__aexit__()
        await witness.check(w.text(300), silence_s=7)
        assert texts == [w.text(300)] * 150
        assert w.client_link.connections - connections < 31 * 12, "readers come back in a storm"
