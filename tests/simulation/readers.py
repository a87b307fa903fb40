"""Readers who are cut off and resume, some from the beginning late, each with what it has been shown."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import aclosing

from tailrace.client.reading import TextStream
from tailrace.consumer import Consumer
from tailrace.joblog import connected
from tailrace.schemas import (
    END,
    START,
    BrokerUnavailable,
    Entry,
    HistoryLost,
    JobEnded,
    JobNotFound,
    Keys,
    Position,
    PositionLost,
    StreamRewound,
)


class Reader:
    """Follows one job until its end. `outcome`: how it ended for this reader, None while it reads."""

    def __init__(
        self,
        name: str,
        job_id: str,
        keys: Keys,
        chance: random.Random,
        *,
        urls: tuple[str, str | None],
        begins_at: float,
        cuts: bool,
        may_lose: Callable[[], int],
        is_missing: Callable[[], bool],
    ) -> None:
        self.name, self.job_id, self._keys, self._chance = name, job_id, keys, chance
        self._urls, self._begins_at, self._cuts = urls, begins_at, cuts
        self._may_lose, self._is_missing = may_lose, is_missing
        self._lost_until = 0
        self.after: Position = START
        self.outcome: str | None = None
        self.problems: list[str] = []

    async def run(self) -> None:
        await asyncio.sleep(self._begins_at)
        while self.outcome is None:
            try:
                async with connected(*self._urls) as broker, Consumer(broker, self._keys) as consumer:
                    async with asyncio.timeout(self._until_cut()):
                        await self._read(consumer)
                        self.outcome = "ended"
            except TimeoutError:
                pass
            except JobEnded as error:
                self.outcome = type(error).__name__
            except BrokerUnavailable:
                pass
            except (HistoryLost, PositionLost) as error:
                if self._may_lose() <= self._lost_until:
                    raise AssertionError(f"{self.name}: {error!r}, but nothing was lost since") from error
                self._lost_until = self._may_lose()
                self.start_again()
            except JobNotFound:
                if self._is_missing():
                    self.outcome = "missing"
                elif self.after != START and not self._may_lose():
                    raise
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))

    def _until_cut(self) -> float | None:
        return self._chance.uniform(0.01, 2.0) if self._cuts and self._chance.random() < 0.7 else None

    async def _read(self, consumer: Consumer) -> None:
        raise NotImplementedError

    def start_again(self) -> None:
        self.after = START


class TextReader(Reader):
    """Shows text, as `Job.stream` does."""

    shown = ""

    def start_again(self) -> None:
        super().start_again()
        self.shown = ""

    async def _read(self, consumer: Consumer) -> None:
        async with aclosing(TextStream(consumer, self.job_id, self.after, self._rewound).batches()) as batches:
            async for batch in batches:
                for chunk in batch:
                    self.shown += chunk
                    self.after = chunk.position
                    if self._cuts and self._chance.random() < 0.02:
                        raise TimeoutError

    def _rewound(self, error: StreamRewound) -> None:
        self.shown, self.after = error.text_before, error.position


class RecordReader(Reader):
    """Keeps records, and knows from attempts what of them is void."""

    def start_again(self) -> None:
        super().start_again()
        self.entries = []

    entries: list[Entry]

    async def run(self) -> None:
        self.entries = []
        await super().run()

    async def _read(self, consumer: Consumer) -> None:
        async with aclosing(consumer.follow(self.job_id, after=self.after)) as batches:
            async for batch in batches:
                if batch.fresh:
                    for entry in batch.entries:
                        self._take(entry)
                    self.after = batch.entries[-1].position
                if self._cuts and self._chance.random() < 0.05:
                    raise TimeoutError

    def _take(self, entry: Entry) -> None:
        entries = self.entries
        if entry.field == "attempt":
            after = json.loads(entry.value)["after"]
            number = next((n for n, known in enumerate(entries) if known.position == after), None)
            assert number is not None, f"{self.name}: {entry} stands on what it was never given"
            assert number == len(entries) - 1 or self._may_lose(), f"{self.name}: records lost by no fault"
            del entries[number + 1 :]
        elif entry.position == END:
            assert json.loads(entry.value)["last"] == entries[-1].position, f"{self.name}: {entry} ends another log"
        assert not any(known.position == entry.position for known in entries), f"{self.name}: {entry} twice"
        entries.append(entry)
