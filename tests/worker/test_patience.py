"""The bound on single waits."""

import asyncio

import pytest

from tailrace.worker.patience import Patience


async def test_a_wait_that_is_too_long_is_a_timeout_and_the_next_one_is_free() -> None:
    patience = Patience()
    for _ in range(2):
        with pytest.raises(TimeoutError), patience.at_most(0.01):
            await asyncio.Event().wait()
    with patience.at_most(5):
        await asyncio.sleep(0)
    patience.close()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_shorter_limit_after_a_longer_one_holds() -> None:
    patience = Patience()
    with patience.at_most(60):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError), patience.at_most(0.01):
            await asyncio.Event().wait()
    patience.close()


async def test_a_cancellation_from_outside_stays_one() -> None:
    patience, begun = Patience(), asyncio.Event()

    async def wait() -> None:
        with patience.at_most(60):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    patience.close()
