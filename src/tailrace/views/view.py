"""What all views have in common."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from tailrace.schemas import EndRecord, Entry, Position

T = TypeVar("T")


class View(Protocol[T]):
    """A fold over the entries of one log, in log order, from its first.

    A reader that resumes feeds what stands up to its position with `show=False`, calls `resume` with that position and
    feeds the rest. What it gets then is what a reader who never left would have got.
    """

    @property
    def end(self) -> EndRecord | None:
        """The end record, once it was fed."""
        ...

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[T]:
        """Fold the next entries of the log; the items that they give. With `show=False`: none, only the state moves."""
        ...

    def resume(self, position: Position) -> None:
        """From here on the reader is at `position`. If that is not the entry fed last, the server has lost what the
        reader was shown since: the next attempt (or the end) says what stands."""
        ...
