"""The chain of what a job's readers are given: each reader holds the link that it has read last."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from tailrace.schemas import Position
from tailrace.views import View

T = TypeVar("T")

#: Why a link has no next: it has not come yet; the tail waits for a reader; who is here is too far behind; it is the last.
OPEN: Final = 0
PAUSED: Final = 1
CUT: Final = 2
OVER: Final = 3


class Kind(NamedTuple, Generic[T]):
    """What readers see of a job: those with the same key share it."""

    key: Hashable
    view: Callable[[], View[T]]
    plain: Callable[[list[T]], bool]
    """Whether readers may be given these very items, without looking at them."""
    acts: bool = False
    """Whether items that are not plain take back others: who comes late is not bothered with either."""


class Link(Generic[T]):
    """What a batch of records gave, and the way to what comes next."""

    __slots__ = ("__weakref__", "items", "next", "plain", "position", "state", "waiting")

    def __init__(self, items: list[T], position: Position, *, plain: bool) -> None:
        self.items, self.position, self.plain = items, position, plain
        self.next: Link[T] | None = None
        self.state = OPEN
        self.waiting: list[asyncio.Future[None]] | None = None

    def wait(self, future: "asyncio.Future[None]") -> None:
        """Wake this one when there is a next link, or another state."""
        # Most links of most jobs are gone before anybody waits at them: no list for each.
        if self.waiting is None:
            self.waiting = [future]
        else:
            self.waiting.append(future)

    def wake(self) -> bool:
        """Wake who waits here; whether anybody did."""
        waiting = self.waiting
        if not waiting:
            return False
        self.waiting = None
        for future in waiting:
            if not future.done():
                future.set_result(None)
        return True
