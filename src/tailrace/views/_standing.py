"""Which records stand: the two ways in which records become void.

A `rewind` voids the records of one run after a position. A loss (the server came back without its last records) shows
in the next `attempt`, whose `after` is below what was seen, or in the end's `last`: it voids what came after, of every
run, rewinds included: what a lost rewind had voided stands again. So views keep the entries that they may have to fold
again (references to what the follower holds anyway) and fold what stands anew when something became void.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

from pydantic import JsonValue

from tailrace.schemas import START, Entry, Position, parse_position
from tailrace.views._fields import JsonObject, Point, json_object, point, run_of

JOB: Final = "job"
DELTA: Final = "delta"
EVENT: Final = "event"
REWIND: Final = "rewind"
ATTEMPT: Final = "attempt"
END_RECORD: Final = "end"
#: An entry, or its parts.
E = TypeVar("E", bound=tuple[Position, str, str])

#: Records that tell where the log stood when they were written, and the field that does.
STANDS_AT: Final = {ATTEMPT: "after", END_RECORD: "last"}


def rewound_to(fields: JsonObject, run: int) -> Point | None:
    """Where a rewind record takes `run` back to. None if it speaks of another run."""
    return point(fields.get("to")) if run_of(fields) == run else None


def drop_after(entries: list[E], top: Point) -> bool:
    """Drop the entries after `top` from the end of the list; whether there were any."""
    size = len(entries)
    while entries and parse_position(entries[-1][0]) > top:
        entries.pop()
    return len(entries) < size


def standing(entries: Iterable[Entry], run: int) -> list[Entry]:
    """The entries of `run` that no rewind of it voids, without the rewinds. Those of other runs may be among the given
    ones: they come out or not, and mean nothing."""
    stand: list[Entry] = []
    for entry in entries:
        if entry.field != REWIND:
            stand.append(entry)
        elif (to := rewound_to(json_object(entry.value), run)) is not None:
            drop_after(stand, to)
    return stand


class Cursor:
    """Where the reader stands, and whether the log still has what it was shown."""

    __slots__ = ("at", "unseen")

    def __init__(self) -> None:
        self.at: Position = START
        self.unseen = False
        """The reader was shown records that the view was not fed: they are gone from the log."""

    def resume(self, position: Position) -> None:
        self.unseen = position != self.at
        self.at = position

    def lost(self, stands: JsonValue) -> Point | None:
        """The top of the log as an attempt or the end found it, if that is below where the reader stands."""
        if stands == self.at:
            return None
        top = point(stands)
        return top if top is not None and top < parse_position(self.at) else None
