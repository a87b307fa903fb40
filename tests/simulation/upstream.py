"""The simulated upstream: an answer by prompt, that may differ when it is asked again, stall, be cut or be refused."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from tailrace.schemas import JobRequest, OpenPart, Settings, Status
from tailrace.telemetry.metrics_counts import Counts
from tailrace.telemetry.tracing_models import UNTRACED
from tailrace.worker.sources import Item, Outcome, UpstreamError


@dataclass
class Call:
    """One upstream call, as the upstream saw it."""

    prompt: str
    began: float
    worker: str
    text: str = ""
    """What it has said, what it was to go on from included."""
    planned: str = ""
    complete: bool = False
    open: bool = True


@dataclass
class Temper:
    """How the upstream behaves. Chances are per call."""

    words: tuple[int, int] = (3, 18)
    gap_s: tuple[float, float] = (0.0, 0.25)
    differs: float = 0.3
    """Says something else from some word on than it said before."""
    cut: float = 0.0
    refused: float = 0.0
    stall: float = 0.0
    burst: float = 0.1
    """Everything at once."""
    deltas: float = 0.3
    calls: list[Call] = field(default_factory=list[Call])

    def calm(self) -> None:
        self.cut = self.refused = self.stall = 0.0


class SimulatedUpstreams:
    """Stands in for tailrace.worker.upstreams.Upstreams."""

    chance: random.Random
    temper: Temper
    """Set by the world."""

    pieces = 0

    def __init__(self, settings: Settings, *, counts: Counts) -> None:  # noqa: ARG002 - as the real one
        self.counts = counts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def retries(self, name: str) -> int:  # noqa: ARG002 - the worker's own word
        return 2

    @asynccontextmanager
    async def open(
        self,
        request: JobRequest,
        *,
        continue_from: str | None = None,
        max_retries: int = 2,  # noqa: ARG002  # as the real one
    ) -> AsyncGenerator["SimulatedStream"]:
        loop, chance, temper = asyncio.get_running_loop(), self.chance, self.temper
        prompt = str(request.prompt)
        call = Call(prompt, loop.time(), asyncio.current_task().get_name() if asyncio.current_task() else "")  # type: ignore[union-attr]  # just asked
        temper.calls.append(call)
        try:
            await asyncio.sleep(chance.uniform(*temper.gap_s))
            if chance.random() < temper.refused:
                raise UpstreamError("upstream_status", "refused", phase="request", retryable=True)
            words = answer(prompt, temper, chance)
            call.planned = "".join(words)
            if continue_from:
                call.text = continue_from
                words = continuation(words, continue_from)
            yield SimulatedStream(self, call, words, continued=bool(continue_from))
        finally:
            call.open = False


def answer(prompt: str, temper: Temper, chance: random.Random) -> list[str]:
    """Mostly the same for the same prompt; words are cut differently each time, as a network does."""
    own = random.Random(prompt)
    words = [f"{prompt}.{number}{own.choice(['', ' ', 'é', chr(10)])} " for number in range(own.randint(*temper.words))]
    if chance.random() < temper.differs:
        edge = chance.randrange(len(words) + 1)
        other = chance.randrange(1000)
        words = words[:edge] + [f"{prompt}~{other}.{number} " for number in range(chance.randint(0, 8))]
        words = words or [f"{prompt}~{other} "]
    if chance.random() < 0.4:
        text = "".join(words)
        words = list[str]()
        while text:
            size = chance.randint(1, 12)
            words.append(text[:size])
            text = text[size:]
    return words


def continuation(words: list[str], said: str) -> list[str]:
    """What comes after `said`."""
    text = "".join(words)
    rest = text[len(said) :] if text.startswith(said) else text[-20:]
    return [rest] if rest else []


class SimulatedStream:
    """Stands in for UpstreamStream."""

    call = UNTRACED
    upstream = "default"

    def __init__(self, upstreams: SimulatedUpstreams, call: Call, words: list[str], *, continued: bool) -> None:
        self._temper, self._chance = upstreams.temper, upstreams.chance
        self._call, self._words = call, words
        self.continued = continued
        self.retries_taken = 0
        temper, chance = self._temper, self._chance
        self._ends_early = chance.random() < temper.cut
        self._cut_at = chance.randint(0, len(words))
        self._stall_at = chance.randint(0, len(words)) if chance.random() < temper.stall else -1
        self._burst = chance.random() < temper.burst
        self._opens = not continued and chance.random() < temper.deltas
        self._at = 0

    @property
    def outcome(self) -> Outcome:
        assert self._call.complete
        return Outcome(finish_reason="stop", usage=None, model="m", status=Status.COMPLETED)

    async def pour(self, take: Callable[[list[Item]], bool], ready: Callable[[], Awaitable[None]]) -> None:
        async for items in self:
            if not take(items):
                await ready()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Item]:
        if self._opens:
            self._opens = False
            return [OpenPart()]
        if not self._burst:
            await asyncio.sleep(self._chance.uniform(*self._temper.gap_s))
        if self._at == self._stall_at:
            self._stall_at = -1
            await asyncio.sleep(self._chance.uniform(1, 20))
        if self._ends_early and self._at >= self._cut_at:
            raise UpstreamError("upstream_broken", "cut", retryable=True)
        if self._at >= len(self._words):
            self._call.complete = True
            raise StopAsyncIteration
        count = self._chance.randint(1, 3)
        if self._ends_early:
            count = min(count, self._cut_at - self._at) or 1
        words = self._words[self._at : self._at + count]
        self._at += len(words)
        self._call.text += "".join(words)
        return list(words)
