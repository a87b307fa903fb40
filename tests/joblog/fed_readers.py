"""A reader whose live channel is what a test feeds it."""

from collections.abc import Awaitable, Callable

from job_logs import Job, Pen
from tailrace.joblog import (
    Look,
    Publication,
    follow,
)
from tailrace.schemas import (
    START,
    Entry,
    Position,
    TailraceError,
)

A_LOOK = Look(top=None)


class Idle(Exception):
    """Nothing more is fed."""


class Fed:
    """A feed with what a test gives it; each item may do something first."""

    def __init__(self, *items: Publication | Look | Callable[[], Awaitable[Publication | Look]]) -> None:
        self._items = list(items)

    async def next(self) -> Publication | Look:
        if not self._items:
            raise Idle
        item = self._items.pop(0)
        return await item() if callable(item) else item


async def read(job: Job, feed: Fed | None = None, *, after: str = START) -> tuple[list[Entry], Exception | None]:
    """The fresh records, and what ended the reading."""
    fresh: list[Entry] = []
    try:
        async for batch in follow(job.broker, job.keys, job.job_id, feed or Fed(), after=Position(after)):
            if batch.fresh:
                fresh += batch.entries
    except (Idle, TailraceError) as error:
        return fresh, error
    return fresh, None


async def written(job: Job, *texts: str) -> Pen:
    pen = await job.claim()
    await pen.write(*texts)
    return pen
