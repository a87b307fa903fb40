"""Workers that die and come back, a server that restarts: who goes on, how soon, and in how many words."""

import asyncio
import signal
import time
from contextlib import aclosing
from typing import Any

import pytest
from arq.worker import Retry
from recovery_process import POISON
from worker_fleet import Fleet, fleet

from engine import wait_until
from tailrace import JobFailed, Settings
from tailrace.client import AsyncJob
from tailrace.joblog import connected
from tailrace.queue import Claimed
from tailrace.schemas import AttemptRecord
from tailrace.worker.quarantine import Quarantine
from tailrace.worker.relay import Relay
from tailrace.worker.run import Run
from tailrace.worker.tools import Tools
from tailrace.worker.upstreams import Upstreams

pytestmark = pytest.mark.timeout(120)

#: From a kill -9 to the next attempt's first record, under default settings.
RECOVERY_S = 7.0


async def submit(f: Fleet, tokens: int, pace: float, *, prompt: str = "x", max_attempts: int = 3) -> AsyncJob:
    script = {"tokens": tokens, "pace": pace}
    return await f.tailrace.submit(prompt, params={"rehearsal": script}, max_attempts=max_attempts)


def text(tokens: int) -> str:
    return "".join(f" token{number}" for number in range(tokens))


async def test_under_default_settings_the_next_attempt_writes_within_seven_seconds_of_a_kill() -> None:
    async with fleet() as f:
        first = await f.start()
        job = await submit(f, 1500, 0.02)
        attempts: list[AttemptRecord] = []
        killed_at = silence = 0.0
        async with aclosing(job.records()) as records:
            count = 0
            async for record in records:
                count += 1
                if isinstance(record, AttemptRecord):
                    attempts.append(record)
                if count == 20:
                    await f.start()
                    first.send(signal.SIGKILL)
                    killed_at = time.monotonic()
                if len(attempts) == 2:
                    silence = time.monotonic() - killed_at
                    break
        assert 0 < silence < RECOVERY_S
        await job.cancel()


async def test_a_worker_that_lost_its_lease_in_its_sleep_closes_its_upstream_call() -> None:
    async with fleet(lease_s=1.0) as f:
        first = await f.start()
        job = await submit(f, 600, 0.02)
        async with aclosing(job.stream()) as stream:
            async for _ in stream:
                break
        first.send(signal.SIGSTOP)
        await f.start()
        await wait_until("another worker has it", lambda: len(f.rehearsal.calls) == 2)
        first.send(signal.SIGCONT)
        await f.rehearsal.wait_until(lambda: f.rehearsal.calls[0].aborted, "the first call is closed")
        assert not f.rehearsal.calls[1].aborted
        assert await job.text(timeout=30) == text(600)
        writers = {record.worker async for record in job.records() if isinstance(record, AttemptRecord)}
        assert len(writers) == 2
        await f.rehearsal.wait_until(lambda: f.rehearsal.open_streams == 0, "no call is left open")


async def test_a_worker_that_lost_its_lease_closes_a_call_that_says_nothing() -> None:
    """No append of its own tells it that somebody else has the job."""
    async with fleet(lease_s=1.0) as f:
        first = await f.start()
        script: dict[str, Any] = {"tokens": 500, "pace": 0.02, "fault": "stall", "at": 5, "times": 1}
        job = await f.tailrace.submit("x", params={"rehearsal": script})
        # All that comes before the silence: a word more, and the refused append would tell it.
        async with aclosing(job.stream()) as stream:
            said = [await anext(stream) for _ in range(script["at"])]
        assert "".join(said) == text(5)
        first.send(signal.SIGSTOP)
        await f.start()
        await wait_until("another worker has it", lambda: len(f.rehearsal.calls) == 2)
        first.send(signal.SIGCONT)
        await f.rehearsal.wait_until(lambda: f.rehearsal.calls[0].aborted, "the first call is closed")
        assert f.rehearsal.open_streams == 1, "the job still runs: it is not its end that closed the call"
        await job.cancel()


async def test_a_job_that_finds_redis_away_goes_back_without_an_error_of_its_own() -> None:
    settings = Settings()
    claimed = Claimed(job_id="job", queued_id="tailrace:job", number=1, worker="w", due_ms=0)
    async with connected("redis://127.0.0.1:1/0") as broker:
        run = Run(
            "job",
            claimed,
            broker=broker,
            keys=settings.keys,
            relay=Relay(broker, settings.keys, worker="w"),
            tools=Tools(Upstreams(settings)),
            settings=settings.worker,
            quarantine=Quarantine(),
        )
        with pytest.raises(Retry):
            await run.carry_out()


async def test_fifty_running_jobs_outlive_a_restart_of_the_server_with_one_line_for_the_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with fleet(lease_s=3.0) as f:
        worker = await f.start()
        # Half of them end while the server is away.
        jobs = [await submit(f, 60 if number % 2 else 250, 0.02) for number in range(50)]
        reading = [asyncio.create_task(job.text(timeout=60)) for job in jobs]
        await wait_until("all are running", lambda: f.rehearsal.open_streams == 50)
        said_before = len(worker.said())
        caplog.clear()
        await asyncio.to_thread(f.server.kill)
        refused = asyncio.create_task(submit_until_taken(f))
        await wait_until("half of the answers are over", lambda: f.rehearsal.open_streams <= 25)
        await asyncio.to_thread(f.server.start)
        texts = await asyncio.gather(*reading)
        assert texts == [text(60 if number % 2 else 250) for number in range(50)]
        assert await (await refused).text(timeout=30) == text(1)
        said = worker.said()[said_before:]
        assert not [line for line in said if "Traceback" in line or "ERROR" in line], "\n".join(said)
        about = [line for line in said if "Redis" in line or "append" in line or "lost" in line or "back" in line]
        assert len(about) == 2, "\n".join(said)
        assert "does not answer" in about[0]
        assert "answers again" in about[1]
        told = [message for message in caplog.messages if "live channels" in message]
        assert len(told) == 2, told
        # Nobody asked an upstream twice.
        assert len(f.rehearsal.calls) == 51


async def submit_until_taken(f: Fleet) -> AsyncJob:
    """What a producer does that is told BrokerUnavailable."""
    while True:
        try:
            return await f.tailrace.submit("late", job_id="late", params={"rehearsal": {"tokens": 1}})
        except ConnectionError:
            await asyncio.sleep(0.05)


async def test_a_job_that_kills_every_worker_fails_with_its_history_and_starves_nobody() -> None:
    async with fleet(lease_s=1.0, sweep_s=0.5) as f:
        poison = await submit(f, 1, 0, prompt=POISON, max_attempts=2)
        watching = asyncio.create_task(poison.result(timeout=60))
        others: list[AsyncJob] = []
        for _ in range(2):
            worker = await f.start()
            others += [await submit(f, 5, 0.01, max_attempts=9) for _ in range(5)]
            assert await worker.process.wait() == 9
        others += [await submit(f, 5, 0.01) for _ in range(5)]
        last = await f.start()
        with pytest.raises(JobFailed) as failed:
            await watching
        assert await asyncio.gather(*(job.text(timeout=30) for job in others)) == [text(5)] * 15
        assert last.alive
        error = failed.value.error
        assert error.type == "attempts_exhausted"
        names = [record.worker for record in await attempts_of(poison)]
        assert len(set(names)) == 2
        assert error.message == (
            f"all 2 attempts are used up: attempt 1 by worker {names[0]!r} died with it; "
            f"attempt 2 by worker {names[1]!r} died with it"
        )


async def attempts_of(job: AsyncJob) -> list[AttemptRecord]:
    """Of a job that has failed."""
    found: list[AttemptRecord] = []
    try:
        async for record in job.records():
            if isinstance(record, AttemptRecord):
                found.append(record)  # noqa: PERF401  # what came before the error counts
    except JobFailed:
        pass
    return found
