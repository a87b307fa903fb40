"""Clocks and random numbers of a simulated world, in the places where the code under test asks for the machine's."""

import itertools
import random
import secrets
import time
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from .loop import SimulatedLoop, current_process
from .server import EPOCH_US


class Clock:
    """Stands in for the module `time`: the process's own clock, which may be ahead of the server's."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        return EPOCH_US / 1_000_000 + self._loop.now + current_process().clock_ahead_s

    def monotonic(self) -> float:
        return self._loop.now

    perf_counter = monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Secrets:
    """Stands in for the module `secrets`."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def token_hex(self, size: int) -> str:
        return self._chance.randbytes(size).hex()

    def randbelow(self, top: int) -> int:
        return self._chance.randrange(top)

    def __getattr__(self, name: str) -> Any:
        return getattr(secrets, name)


class Counted:
    """Makes a class's instances hash by the order of their making, so that sets of them have one order in every run."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def hash_of(self, instance: Any) -> int:
        number: int | None = instance.__dict__.get("_simulated_number")
        if number is None:
            number = instance.__dict__["_simulated_number"] = next(self._numbers)
        return number


@contextmanager
def in_place(loop: SimulatedLoop, chance: random.Random) -> Generator[None]:
    """Everything that would differ between two runs of a seed is the seed's while the block runs."""
    clock, hidden, counted = Clock(loop), Secrets(chance), Counted()
    before = random.getstate()
    random.seed(chance.random())

    def uuid4() -> uuid.UUID:
        return uuid.UUID(int=chance.getrandbits(128), version=4)

    def hash_of(feed: object) -> int:
        return counted.hash_of(feed)

    with ExitStack() as stack:
        for place, stand_in in (
            ("tailrace.worker.run.time", clock),
            ("tailrace.worker.answer.time", clock),
            ("tailrace.worker.quarantine.time", clock),
            ("tailrace.worker.recorder.time", clock),
            ("tailrace.queue.enqueue.time", clock),
            ("tailrace.joblog.writing.secrets", hidden),
            ("tailrace.producer.submitting.secrets", hidden),
            ("tailrace.worker.scrub.secrets", hidden),
            ("tailrace.queue.leased.uuid4", uuid4),
            ("tailrace.worker.app.os", SimpleNamespace(getpid=lambda: 1)),
            ("tailrace.worker.app.socket", SimpleNamespace(gethostname=lambda: "simulated")),
        ):
            stack.enter_context(patch(place, stand_in))
        stack.enter_context(patch("tailrace.consumer.channels.LiveFeed.__hash__", hash_of))
        try:
            yield
        finally:
            random.setstate(before)


@contextmanager
def hurried(haste: int) -> Generator[None]:
    """What the protocol waits for long, where log and queue are on two servers, divided; and the scrub takes small steps."""
    with ExitStack() as stack:
        for place, usual in (
            ("tailrace.joblog.writing.STANDS_MS", 60_000),
            ("tailrace.worker.settle.STANDS_MS", 60_000),
            ("tailrace.producer.storing._FIRST_CHECK_MS", 10_000),
            ("tailrace.worker.sweep._AFTER_DUE_MS", 10_000),
            ("tailrace.worker.sweep.NEXT_CHECK_MS", 30_000),
            ("tailrace.worker.scrub._AGAIN_MS", 60_000),
            ("tailrace.worker.scrub._MARGIN_MS", 60_000),
            ("tailrace.worker.scrub._WALKER_MS", 30_000),
        ):
            stack.enter_context(patch(place, usual // haste))
        stack.enter_context(patch("tailrace.worker.scrub._STEP", 2))
        stack.enter_context(patch("tailrace.worker.scrub._A_ROUND", 2))
        yield
