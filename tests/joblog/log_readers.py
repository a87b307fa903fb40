"""The two readers of a random schedule: one lives all the time, one is cut off and resumes again and again."""

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, cast

from tailrace.joblog import (
    Look,
    Publication,
    follow,
)
from tailrace.schemas import (
    END,
    START,
    Entry,
    HistoryLost,
    JobNotFound,
    PositionLost,
    TailraceError,
)

if TYPE_CHECKING:
    from log_model import Model

JOB = "job"


class Folded:
    """What a reader has, folded: an attempt voids what does not stand before it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.field == "attempt":
                after = json.loads(entry.value)["after"]
                stands = [number for number, known in enumerate(self.entries) if known.position == after]
                assert stands, f"{entry} stands on what this reader does not have"
                del self.entries[stands[-1] + 1 :]
            assert entry.position not in {known.position for known in self.entries}, f"{entry} twice"
            self.entries.append(entry)


class Idle(Exception):
    """The reader has everything."""


class CutOff:
    """Reads what there is, is cut off, and resumes from its position."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._anew()

    def _anew(self) -> None:
        self._folded = Folded()
        self._after = START
        self._incarnation = self._model.incarnation
        self._rolled_back = self._model.rolled_back

    async def next(self) -> Publication | Look:
        raise Idle

    async def reads_on(self) -> None:
        model = self._model
        if self._incarnation != model.incarnation or self._after == END:
            self._anew()
        try:
            async for batch in follow(model.broker, model.keys, JOB, self, after=self._after):
                if batch.fresh:
                    self._folded.take(batch.entries)
                    self._after = batch.entries[-1].position
        except Idle:
            pass
        except (PositionLost, HistoryLost):
            assert model.rolled_back > self._rolled_back, "lost, but the server did not go back"
            self._anew()
            return
        except JobNotFound:
            assert model.erased
            return
        entries = await model.shown()
        if model.rolled_back == self._rolled_back:
            assert self._folded.entries == entries
        elif self._folded.entries != entries:
            # The server went back and nobody has written since: what it lost is still shown, and not yet void.
            assert self._folded.entries[: len(entries)] == entries
            return
        self._rolled_back = model.rolled_back


class Live:
    """Reads all the time."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._folded = Folded()
        self._news: asyncio.Queue[Publication | Look] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._rolled_back = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        await self._until_idle()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def next(self) -> Publication | Look:
        if self._news.empty():
            self._idle.set()
        return await self._news.get()

    async def hears(self, publications: list[Publication]) -> None:
        chance = self._model.chance
        for publication in publications:
            for _ in range(chance.choice([0, 1, 1, 1, 2])):
                self._news.put_nowait(publication)
        if chance.random() < 0.2:
            waiting = [self._news.get_nowait() for _ in range(self._news.qsize())]
            chance.shuffle(waiting)
            for item in waiting:
                self._news.put_nowait(item)
        if chance.random() < 0.1:
            await self.looks()
        elif publications:
            await self._until_idle()

    async def looks(self) -> None:
        """Compare notes with the log: after this, what was read is what stands."""
        model = self._model
        if model.reused:
            return  # a reader outlives its job's time and sees the next one's: `CutOff` tells what happens then
        self._news.put_nowait(Look(top=None))
        await self._until_idle()
        if self._task is not None and self._task.done() and isinstance(self._task.exception(), TailraceError):
            return
        if not model.erased and not model.rolled_back:
            assert self._folded.entries == await model.shown()

    async def _until_idle(self) -> None:
        self._idle.clear()
        task = cast("asyncio.Task[None]", self._task)
        if self._news.empty() and not task.done():
            self._news.put_nowait(Look(top=None))
        waiting = asyncio.create_task(self._idle.wait())
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if task.done():
            error = task.exception()
            if isinstance(error, JobNotFound):
                assert self._model.erased or self._model.reused
            elif isinstance(error, HistoryLost | PositionLost):
                assert self._model.rolled_back or self._model.reused, "lost, but the server did not go back"
            elif error is not None:
                raise error

    async def _read(self) -> None:
        model = self._model
        async for batch in follow(model.broker, model.keys, JOB, self):
            self._folded.take(batch.entries)
