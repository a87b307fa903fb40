"""The last part of a stream of events, with the places at which readers may join. Pure."""

from collections.abc import Sequence
from typing import Final

from tailrace.gateway.streams.frames import Encoded
from tailrace.schemas import Position

#: About the most that one write carries: a reader that is behind gets its backlog in such pieces.
WRITE_BYTES: Final = 64 * 1024


class Ring:
    """Events in order, numbered from 0; the oldest are forgotten.

    A reader that was shown everything up to a position goes on with the event that is noted for it. Noted are the positions
    of events, and of the last record of each batch: in between, the fold may still have changed its mind.
    """

    def __init__(self, kept_bytes: int, begin: Position) -> None:
        """`begin`: the position that the first event follows."""
        self._kept_bytes = kept_bytes
        self._events: list[Encoded] = []
        self._bytes = 0
        self._joints: dict[Position, int] = {begin: 0}
        self._joined: tuple[int, int, int, bytes] = (-1, -1, -1, b"")
        self.first = 0
        """The number of the oldest event that is kept."""
        self.next = 0
        """The number that the next event will have."""

    @property
    def full(self) -> bool:
        return self._bytes > self._kept_bytes

    def extend(self, events: Sequence[Encoded], at: Position | None = None) -> None:
        """Take the events of a batch, whose last record is `at`."""
        number = self.next
        for position, encoded in events:
            number += 1
            self._bytes += len(encoded)
            self._joints[position] = number
        self._events += events
        self.next = number
        if at is not None:
            self._joints[at] = number

    def trim(self) -> None:
        """If there is too much, forget the older half."""
        if self.full:
            size, count = self._bytes, 0
            while size > self._kept_bytes // 2:
                size -= len(self._events[count].data)
                count += 1
            self.forget(self.first + count)

    def forget(self, before: int) -> None:
        """Forget the events below a number."""
        count = before - self.first
        self._bytes -= sum(len(event.data) for event in self._events[:count])
        del self._events[:count]
        self.first = before
        # Their numbers only grow: the stale ones are in front.
        stale: list[Position] = []
        for position, number in self._joints.items():
            if number >= before:
                break
            stale.append(position)
        for position in stale:
            del self._joints[position]

    def joint(self, position: Position) -> int | None:
        """The number of the event that follows a position; None if a reader cannot join there."""
        number = self._joints.get(position)
        return number if number is not None and number >= self.first else None

    def read(self, number: int) -> tuple[bytes, int]:
        """Events from a number on in one piece, and the number that follows. The first must be kept, and there.

        Ends behind the last event of a record: a reader that is dropped there can come back.
        """
        if self._joined[0] == number and self._joined[1] == self.next:
            return self._joined[3], self._joined[2]  # readers that keep up all ask for the same
        size, until, events = 0, number, self._events
        pieces: list[bytes] = []
        before: Position | None = None
        for index in range(number - self.first, len(events)):
            position, encoded = events[index]
            if size > WRITE_BYTES and position != before:
                break
            pieces.append(encoded)
            size += len(encoded)
            before = position
            until += 1
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._joined = (number, self.next, until, joined)
        return joined, until

    def position_before(self, number: int) -> Position | None:
        """The position of the event below a number, if it is kept."""
        index = number - 1 - self.first
        return self._events[index].position if 0 <= index < len(self._events) else None
