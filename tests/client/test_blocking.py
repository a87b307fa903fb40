"""The blocking client: the same promises from threads."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis

from stack import running_stack
from tailrace import InvalidRequest, JobCancelled, JobFailed, JobNotFound, Settings, Status, Tailrace, TailraceError
from tailrace.client import blocking


@pytest.fixture(scope="module")
def settings(server_url: str) -> Iterator[Settings]:
    """Settings of a stack that runs in a thread: a worker on the rehearsal upstream."""
    with running_stack(server_url) as stack:
        yield stack.settings


def script(**script: Any) -> dict[str, Any]:
    return {"model": "rehearsal", "params": {"rehearsal": script}}


def test_one_client_serves_many_threads(settings: Settings) -> None:
    with Tailrace(settings=settings) as tailrace, ThreadPoolExecutor(8) as threads:

        def one(number: int) -> str:
            job = tailrace.submit(f"p{number}", **script(text=f"answer {number} of many", pace=0.002))
            return "".join(job.stream())

        assert list(threads.map(one, range(24))) == [f"answer {number} of many" for number in range(24)]


def test_every_way_to_read_is_there_in_blocking_form(settings: Settings) -> None:
    with Tailrace(settings=settings) as tailrace:
        job = tailrace.submit("x", metadata={"user": 1}, **script(tokens=3))
        assert list(job.stream()) == [" token0", " token1", " token2"]
        events = list(job.stream_events(version="v1", include_types=["chat_model"]))
        assert events[0]["event"] == "on_chat_model_start"
        assert [record.kind for record in job.records()][-1] == "end"
        assert job.result(timeout=5).text == job.text() == " token0 token1 token2"
        assert job.status() is Status.COMPLETED
        assert tailrace.job(job.id).status() == "completed"
        assert [each.text() for each in tailrace.submit_many([{"prompt": "y", **script(tokens=1)}])] == [" token0"]
        job.delete()
        with pytest.raises(JobNotFound):
            job.status()


def test_errors_arrive_in_the_callers_thread(settings: Settings) -> None:
    with Tailrace(settings=settings) as tailrace:
        with pytest.raises(InvalidRequest):
            tailrace.submit("")
        with pytest.raises(JobFailed):
            list(tailrace.submit("x", max_attempts=1, **script(fault="cut", at=1)).stream())
        slow = tailrace.submit("x", **script(tokens=1000, pace=0.05))
        with pytest.raises(TimeoutError):
            slow.result(timeout=0.05)
        assert slow.cancel() is Status.CANCELLED
        with pytest.raises(JobCancelled):
            slow.text()


def test_leaving_an_iterator_leaves_no_subscription(settings: Settings) -> None:
    with Tailrace(settings=settings) as tailrace:
        job = tailrace.submit("x", **script(tokens=1000, pace=0.01))
        for number, _chunk in enumerate(job.stream()):
            if number == 3:
                break
        client: Any = redis.Redis  # its own annotations are partly unknown
        with client.from_url(str(settings.redis_url)) as server:
            channel = settings.keys.live(job.id)
            give_up = time.monotonic() + 5
            while server.pubsub_numsub(channel) != [(channel.encode(), 0)]:
                assert time.monotonic() < give_up, "the subscription is still there"
                time.sleep(0.005)
        job.cancel()


def test_a_client_that_is_not_open_says_so() -> None:
    tailrace = Tailrace()
    with pytest.raises(TailraceError, match="not open"):
        tailrace.submit("x")
    with pytest.raises(TailraceError, match="not open"):
        tailrace.job("x").status()


def test_a_forked_child_is_told_to_open_a_client_of_its_own(settings: Settings) -> None:
    code = f"""
import os, sys, warnings
from tailrace import Settings, Tailrace, TailraceError

warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: a fork beside threads
settings = Settings.model_validate_json({settings.model_dump_json()!r})
with Tailrace(settings=settings) as tailrace:
    job = tailrace.submit("x", model="rehearsal:tokens=3")
    chunks = job.stream()
    next(chunks)
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1], flush=True)
    try:
        print(len(list(chunks)), flush=True)
    except TailraceError as error:
        print(error, flush=True)
        chunks.close()
    if not child:
        with Tailrace(settings=settings) as own:
            print(own.job(job.id).text(), flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    told = "this client was opened before a fork, in the parent process: open one in each process"
    assert (ran.stdout.splitlines(), ran.stderr) == ([told, " token0 token1 token2", "0", "2"], "")


def test_ctrl_c_ends_a_blocking_stream_at_once(settings: Settings) -> None:
    code = f"""
from tailrace import Settings, Tailrace
settings = Settings.model_validate_json({settings.model_dump_json()!r})
try:
    with Tailrace(settings=settings) as tailrace:
        job = tailrace.submit("x", model="rehearsal", params={{"rehearsal": {{"tokens": 100000, "pace": 0.05}}}})
        for chunk in job.stream():
            print(chunk, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == " token0\n"
        process.send_signal(signal.SIGINT)
        assert "interrupted" in process.stdout.read()
        assert process.wait(10) == 0


@pytest.mark.timeout(20)
def test_an_interrupt_while_it_opens_leaves_no_thread(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Future[Any]):
        interrupted = False

        def result(self, timeout: float | None = None) -> Any:
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            return super().result(timeout)

    monkeypatch.setattr(blocking, "Future", Interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), Tailrace(settings=settings):
        pass
    assert set(threading.enumerate()) == before


def test_an_interrupt_between_two_steps_of_a_lock_is_still_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tailrace(settings=settings) as tailrace:
        job = tailrace.job("nobody")

        def wait(*_: object) -> None:
            try:
                raise KeyboardInterrupt
            finally:
                raise RuntimeError("cannot release un-acquired lock")

        with monkeypatch.context() as patched:
            patched.setattr(Future, "result", wait)
            with pytest.raises(KeyboardInterrupt):
                job.status()
        with pytest.raises(JobNotFound):
            job.status()
