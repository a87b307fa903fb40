"""Users whom the server's ACL forbids to publish or to subscribe."""

import random
import time

import pytest
from fault_world import LEASE_S, World, counts, password_of, world

from tailrace import AsyncTailrace, BrokerUnsuitable, Status, TailraceError


async def restricted(w: World, *rules: str) -> str:
    """The server's URL for a user with these ACL rules."""
    await w.redis.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all", *rules)
    return w.server.tcp_url.replace(f"redis://:{password_of(w.server.tcp_url)}@", "redis://limited:secret@")


async def test_a_publish_that_the_acl_refuses_costs_speed_not_records(chance: random.Random) -> None:
    async with world() as w:
        w.worker_url = await restricted(w, "resetchannels")
        worker = await w.start_worker()
        job = await w.submit(tokens=100, pace=0.01)
        stopped = await w.submit(tokens=10_000, pace=0.01)
        async with w.watching(job) as witness, w.watching(stopped) as other:
            await other.until_chunks(1)
            cancelled_at = time.time()
            await stopped.cancel()
        await witness.check(w.text(100), silence_s=7)
        await other.check(None, status=Status.CANCELLED)
        assert w.calls == 2
        ends = [call.finished for call in w.rehearsal.calls if call.aborted and call.finished is not None]
        assert ends
        assert ends[0] - cancelled_at < 2 * LEASE_S + 1
        assert counts(worker.said(), "WARNING") < 5


async def test_a_client_that_may_not_publish_has_cancelled_all_the_same() -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=10_000, pace=0.01)
        async with w.watching(job) as witness:
            await witness.until_chunks(2)
            async with AsyncTailrace(await restricted(w, "resetchannels"), settings=w.tailrace.settings) as limited:
                assert await limited.job(job.id).cancel() is Status.CANCELLED
        await witness.check(None, status=Status.CANCELLED)


async def test_a_reader_that_may_not_subscribe_is_told_so() -> None:
    async with world() as w:
        await w.start_worker()
        job = await w.submit(tokens=100, pace=0.01)
        async with AsyncTailrace(await restricted(w, "resetchannels"), settings=w.tailrace.settings) as limited:
            with pytest.raises(TailraceError) as refused:
                await limited.job(job.id).text(timeout=10)
            assert isinstance(refused.value, BrokerUnsuitable)
        assert await job.text(timeout=20) == w.text(100)
