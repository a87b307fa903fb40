"""Logs on one server, the queue on another: whatever happens between two steps that no script can take at once."""

import asyncio
import random

import pytest
from far_world import two_servers

from engine import wait_until
from tailrace import JobNotFound


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "admitted"])
async def test_a_producer_killed_between_two_servers_leaves_a_job_that_runs_or_none(stored: bool) -> None:
    async with two_servers() as w:
        await w.start_worker()
        keys = w.tailrace.settings.keys
        # A slow line to the logs: what is on its way there is neither here nor there for long enough.
        w.client_link.delay_s = 0.3
        producer = await w.start_client("submit", '{"tokens": 3}', "p")
        await wait_until("the queue knows of it", lambda: w.queue_redis.zscore(keys.open, "p0"), 20)
        assert not await w.redis.exists(keys.log("p0"))
        if stored:
            await wait_until("the log is there", lambda: w.redis.exists(keys.log("p0")))
        producer.kill()
        w.client_link.reset()
        await producer.ended()
        w.client_link.delay_s = 0
        assert producer.lines == ["try p0"]
        assert not await w.queue_redis.zscore(keys.queue, keys.queued("p0"))
        if stored:
            # It was not told that it was accepted. It is all the same: the sweep comes by after ten seconds.
            assert await w.tailrace.job("p0").text(timeout=30) == w.text(3)
        else:

            async def forgotten() -> bool:
                return await w.queue_redis.zscore(keys.open, "p0") is None

            await wait_until("the sweep has forgotten it", forgotten, 30)
            with pytest.raises(JobNotFound):
                await w.tailrace.job("p0").status()
        assert w.calls == int(stored)


async def test_an_end_that_only_the_logs_server_lost_is_written_again(chance: random.Random) -> None:
    """The job was handed off, so the queue has forgotten it; whether its end still stands is looked at a minute later."""
    async with two_servers() as w:
        await w.start_worker()
        keys = w.tailrace.settings.keys
        job = await w.submit(tokens=60, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(chance.randrange(1, 50))
            moment = w.aof_bytes()
        await wait_until("it is handed off", lambda: w.queue_redis.zcard(keys.handed))
        await w.lose_since(moment)
        # That minute is over.
        (entry,) = await w.queue_redis.zrange(keys.handed, 0, -1)
        assert await w.queue_redis.zadd(keys.handed, {entry: 0}, xx=True, ch=True) == 1
        assert await job.text(timeout=20) == w.text(60)
        await witness.check(w.text(60), may_differ=True)
        assert w.calls == 2


async def test_every_job_that_a_killed_producer_had_accepted_on_two_servers_is_run(chance: random.Random) -> None:
    async with two_servers() as w:
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
        # The last one: healed by the sweep if it was stored, else not there.
        unsure = len(tried) - len(accepted)
        assert unsure <= 1
        if unsure:
            try:
                assert await w.tailrace.job(tried[-1]).text(timeout=30) == w.text(2)
            except JobNotFound:
                unsure = 0
        assert w.calls == len(accepted) + unsure
