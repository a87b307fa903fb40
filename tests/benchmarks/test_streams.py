"""What the streaming rows stand on: the fast upstream, other processes' clocks, cores."""

import asyncio
import os
import sys

import pytest
from benchmarks.cpu import Cores, cpu_ns, pinned, rss_bytes
from benchmarks.figures import Curve, Measured
from benchmarks.machine import Machine
from benchmarks.report import Report
from benchmarks.rows import ROWS
from benchmarks.upstream import FastUpstream, fast_upstream
from openai import AsyncOpenAI

from benchmarks import upstream

TIMEOUT_S = 20.0

BURN = "import sys, time\nprint(flush=True)\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"


async def answer(client: AsyncOpenAI, model: str) -> tuple[list[str], str | None]:
    """The texts that came, and why they ended."""
    texts: list[str] = []
    reason: str | None = None
    stream = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}], stream=True)
    async for chunk in stream:
        if text := chunk.choices[0].delta.content:
            texts.append(text)
        reason = chunk.choices[0].finish_reason
    return texts, reason


def asking(fast: FastUpstream) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=fast.base_url, api_key="none", max_retries=0)


async def test_the_fast_upstream_answers_the_openai_package_with_stamped_tokens() -> None:
    async with asyncio.timeout(TIMEOUT_S), fast_upstream() as fast, asking(fast) as client:
        began = upstream.now_us()
        answers = await asyncio.gather(*(answer(client, upstream.model(1000, tokens=4)) for _ in range(5)))
        took_us = upstream.now_us() - began
        for texts, reason in answers:
            assert [len(text) for text in texts] == [upstream.WIDTH] * 4
            assert reason == "stop"
            ages = [upstream.age_us(text, upstream.now_us()) for text in texts]
            assert ages == sorted(ages, reverse=True)
            assert 0 <= ages[-1] <= ages[0] <= took_us + 1_000_000
        assert await fast.count() == (0, 20)


async def test_streams_of_the_fast_upstream_without_a_number_of_tokens_flow_until_they_are_finished() -> None:
    async with (
        asyncio.timeout(TIMEOUT_S),
        fast_upstream() as fast,
        asking(fast) as client,
        asyncio.TaskGroup() as tasks,
    ):
        answers = [tasks.create_task(answer(client, upstream.model(100))) for _ in range(3)]
        while (await fast.count())[1] < 9:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
        assert (await fast.count())[0] == 3
        await fast.finish()
        found = [await given for given in answers]
        assert await fast.count() == (0, sum(len(texts) for texts, _ in found))
        assert {reason for _, reason in found} == {"stop"}


def test_a_token_s_age_is_right_across_the_end_of_its_digits() -> None:
    for sent_us in (0, 12_345, 10**10 - 1, 10**12 + 5):
        assert upstream.age_us("earlier" + upstream.token(sent_us), sent_us + 700) == 700


async def test_the_cpu_time_of_another_process_is_what_that_process_used() -> None:
    pipe = asyncio.subprocess.PIPE
    burning = await asyncio.create_subprocess_exec(sys.executable, "-c", BURN, stdin=pipe, stdout=pipe)
    assert burning.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await burning.stdout.readline()
            before_ns = cpu_ns(burning.pid)
            await burning.stdout.readline()
            after_ns = cpu_ns(burning.pid)
        assert before_ns < 300_000_000 <= after_ns
        assert 1_000_000 < rss_bytes(burning.pid) < 1_000_000_000
    finally:
        burning.kill()
        await burning.communicate()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process to a core")
def test_who_is_pinned_for_a_block_has_all_cores_again_after_it() -> None:
    before = os.sched_getaffinity(0)
    wanted = {min(before)}
    with pinned(os.getpid(), wanted):
        assert os.sched_getaffinity(0) == wanted
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("cores", "worker", "others"),
    [({0, 1}, {1}, {0}), ({0, 1, 2, 3, 4}, {4}, {0, 1, 2, 3}), ({3}, set[int](), set[int]())],
)
def test_the_worker_shares_its_core_with_nobody(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], worker: set[int], others: set[int]
) -> None:
    def allowed(_: int) -> set[int]:
        return cores

    monkeypatch.setattr(os, "sched_getaffinity", allowed, raising=False)
    layout = Cores.here()
    assert layout.worker == worker
    assert layout.upstream | layout.redis | layout.consumer == others


def test_curves_are_among_the_json() -> None:
    curve = Curve("tailrace", "CPU per token", "us", "streams", ((1, 70.0), (10, 40.0)))
    machine = Machine("", 2, "", "", "", "", {})
    row = next(row for row in ROWS if row.key == "relay")
    told = Report(machine, quick=True, rows=[(row, Measured((), curves=(curve,)))]).json()
    assert told["rows"]["relay"]["curves"] == [
        {
            "subject": "tailrace",
            "what": "CPU per token",
            "unit": "us",
            "over": "streams",
            "points": ((1, 70.0), (10, 40.0)),
        }
    ]
