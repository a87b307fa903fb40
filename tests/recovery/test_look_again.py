"""What left the index of open jobs is looked at once more, where the logs have a server of their own: it may have gone back."""

from typing import Any

import pytest
from two_servers import Two

from job_logs import sealed
from tailrace.producer import Producer
from tailrace.schemas import Status
from tailrace.worker.settle import leave, settle
from tailrace.worker.sweep import sweep


async def test_an_end_in_place_of_one_that_was_told_and_lost_is_told_too(two: Two) -> None:
    job = await two.submitted()
    before = await job.dump()
    await sealed(job)
    assert await settle(two.broker, two.keys, "job")
    await job.restore(before)
    await sealed(job, Status.FAILED)
    assert await settle(two.broker, two.keys, "job")
    assert await settle(two.broker, two.keys, "job")
    statuses = [fields[b"status"] for _, fields in await two.queue.xrange(two.keys.ended)]
    assert statuses == [b"completed", b"failed"]


async def test_an_end_in_place_of_one_that_was_lost_is_settled_by_whoever_looks_again(two: Two) -> None:
    job = await two.submitted()
    before = await job.dump()
    await sealed(job)
    assert await settle(two.broker, two.keys, "job")
    await job.restore(before)
    await Producer(two.broker, two.keys).cancel("job")
    assert await two.looked_again() == 1
    assert (await sweep(two.broker, two.keys)).healed == {"settled": 1}
    assert await two.told() == ["job", "job"]
    assert await two.looked_again() == 0, "it is settled now"


async def test_a_deletion_that_was_lost_lets_the_job_run_on(two: Two) -> None:
    job = await two.submitted()
    before = await job.dump()
    await Producer(two.broker, two.keys).delete("job")
    await sweep(two.broker, two.keys)
    assert not await two.queue.zcard(two.keys.open)
    await job.restore(before)
    assert await two.looked_again() == 1


async def test_a_job_stored_just_when_it_is_forgotten_is_found_a_minute_later(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its producer had hung between the index and the log, for longer than the sweep waits."""
    run = two.broker.run

    async def slowly(script: Any, *args: Any) -> Any:
        answer = await run(script, *args)
        monkeypatch.undo()
        await two.submitted()
        return answer

    monkeypatch.setattr(two.broker, "run", slowly)
    assert await leave(two.broker, two.keys, "job")
    assert not await two.queue.zcard(two.keys.open)
    assert await two.looked_again() == 1
    assert (await sweep(two.broker, two.keys)).healed == {"queued": 1}


async def test_what_is_told_again_while_it_is_looked_at_is_looked_at_again(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sealed(await two.submitted())
    assert await settle(two.broker, two.keys, "job")
    run = two.broker.run

    async def slowly(script: Any, *args: Any) -> Any:
        answer = await run(script, *args)
        monkeypatch.undo()
        await settle(two.broker, two.keys, "job")
        return answer

    monkeypatch.setattr(two.broker, "run", slowly)
    assert await two.looked_again() == 0
    assert await two.queue.zcard(two.keys.handed) == 1
