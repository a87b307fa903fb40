"""A job's channel in this process, and the buffers of who hears it."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from tailrace.joblog import Look, Publication
from tailrace.schemas import TailraceError

if TYPE_CHECKING:
    from tailrace.consumer.ear import Ear

#: What one reader may have waiting before it is sent to the log instead.
BUFFERED_PUBLICATIONS: Final = 2000
BUFFERED_CHARACTERS: Final = 4 * 1024 * 1024

News = Publication | Look | TailraceError
"""What a job's channel brings: records, a reason to look at the log, or why there will be nothing more."""


class Listener(Protocol):
    """Who hears a job's channel."""

    def push(self, item: News) -> None:
        """Take the next; must not wait, and not raise."""
        ...


class LiveFeed:
    """A buffer of what a job's channel brought."""

    def __init__(self) -> None:
        self._items: deque[tuple[News, int]] = deque()
        self._characters = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: News) -> None:
        size = 0
        if isinstance(item, Publication):
            for entry in item.entries:
                size += len(entry.value)
            self._characters += size
            if len(self._items) >= BUFFERED_PUBLICATIONS or self._characters > BUFFERED_CHARACTERS:
                self.clear()
                item, size = Look(top=None), 0
        self._items.append((item, size))
        self._wake.set()

    def clear(self) -> None:
        self._items.clear()
        self._characters = 0

    async def next(self) -> Publication | Look:
        """The next publication, or a reason to look at the log. Raises: BrokerUnavailable."""
        while not self._items:
            self._wake.clear()
            await self._wake.wait()
        return self.take()

    def take(self) -> Publication | Look:
        """As `next`, of what is there. Raises: IndexError, BrokerUnavailable."""
        item, size = self._items.popleft()
        self._characters -= size
        if isinstance(item, TailraceError):
            raise item
        return item


class Channel:
    """A job's channel and who hears it in this process."""

    def __init__(self, job_id: str, ear: "Ear") -> None:
        self.job_id = job_id
        self.ear = ear
        """What hears it: the connection to the server that has the job's log."""
        # In the order in which they came: a dict, for a set's order is another in every run.
        self.listeners: dict[Listener, None] = {}
        self.confirmed = asyncio.Event()
        self.heard_at = 0.0

    def tell(self, item: News) -> None:
        for listener in tuple(self.listeners):
            listener.push(item)
