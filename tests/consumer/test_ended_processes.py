"""The hand-off with real processes: readers that are killed and started again, a server that is; blocking readers."""

import asyncio
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from handoffs import end_job, end_jobs, held, ids, reading

from engine import wait_until
from tailrace import AsyncTailrace, Ended, Settings, Status, Tailrace
from tailrace.joblog import connected
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import Keys

READER = Path(__file__).with_name("ended_process.py")
JOBS = 120


@pytest.fixture
def start(tmp_path: Path, server_url: str, namespace: str) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a reader; whoever is left at the end is killed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    environment |= {"TAILRACE_REDIS_URL": server_url, "TAILRACE_NAMESPACE": namespace}
    command = [sys.executable, "-W", "error", str(READER), str(tmp_path / "handled")]
    with ExitStack() as stack:

        def one() -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen(command, env=environment))
            stack.callback(process.kill)
            return process

        yield one


def handled(tmp_path: Path) -> Counter[str]:
    with suppress(FileNotFoundError):
        return Counter(line.split()[0] for line in (tmp_path / "handled").read_text().splitlines() if line)
    return Counter()


async def test_every_ended_job_is_handled_whoever_is_killed_and_started_again(
    start: Callable[[], subprocess.Popen[bytes]], tmp_path: Path, server_url: str, namespace: str
) -> None:
    expected = {f"job{number}" for number in range(JOBS)}
    async with connected(server_url) as broker:
        keys = Keys(namespace)
        await end_jobs(broker.redis, keys, sorted(expected)[: JOBS // 2])
        readers = [start(), start()]
        ending = asyncio.create_task(end_jobs(broker.redis, keys, sorted(expected)[JOBS // 2 :]))
        for kill in range(5):
            enough = handled(tmp_path).total() + 8

            def some_more(enough: int = enough) -> bool:
                return handled(tmp_path).total() >= enough

            await wait_until("some more are handled", some_more)
            readers.pop(random.randrange(2)).kill()
            readers.append(start())
            assert kill == 4 or set(handled(tmp_path)) < expected  # or nothing was killed in the middle
        await ending

        async def done() -> bool:
            return set(handled(tmp_path)) == expected and await held(broker.redis, keys, "killed") == 0

        await wait_until("all are handled", done, 20)
        counts = handled(tmp_path)
        assert set(counts) == expected
        # Twice is what a kill between the work and the ack makes of it: as often as somebody was killed, at most.
        assert counts.total() - JOBS <= 5, counts.most_common(6)


async def test_readers_survive_a_server_that_is_killed(namespace: str) -> None:
    with EmbeddedServer(private=True) as server:
        settings = Settings(redis_url=server.url, namespace=namespace)
        async with (
            AsyncTailrace(settings=settings) as tailrace,
            connected(server.url) as broker,
            reading(tailrace, takeover=0.5) as got,
        ):
            await end_job(broker.redis, settings.keys, "before")
            await wait_until("it came", lambda: got)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await end_job(broker.redis, settings.keys, "after")
            await wait_until("it came", lambda: "after" in ids(got))


def test_blocking_code_reads_the_same(server_url: str, namespace: str) -> None:
    threads: list[str] = []

    def wanted(ended: Ended) -> bool:
        threads.append(threading.current_thread().name)
        return ended.result().status is Status.FAILED  # it may ask: it is not called on the client's own loop

    async def make(keys: Keys) -> None:
        async with connected(server_url) as broker:
            await end_job(broker.redis, keys, "good", tags=["t"])
            await end_job(broker.redis, keys, "bad", Status.FAILED)

    with Tailrace(server_url, namespace=namespace) as tailrace:
        asyncio.run(make(tailrace.settings.keys))
        with closing(tailrace.ended("g")) as ends:
            good = next(ends)
            assert (good.job_id, good.status, good.tags, good.deliveries) == ("good", Status.COMPLETED, ("t",), 1)
            assert good.result().text == "some text"
            assert repr(good) == "Ended('good', 'completed', deliveries=1)"
            assert good.hold()
            good.ack()
            assert not good.hold()
            next(ends).park("not mine")
        (parked,) = tailrace.parked("g")
        assert (parked.job_id, parked.reason) == ("bad", "not mine")
        assert tailrace.unpark("g") == 1
        with closing(tailrace.ended("g")) as ends:
            next(ends).release()
        with closing(tailrace.ended("other", filter=wanted)) as ends:
            assert next(ends).job_id == "bad"
    assert threads == [threading.current_thread().name] * 2
