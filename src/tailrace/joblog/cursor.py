"""Where a reader stands in a log, and what it may take next. Pure: no I/O.

A reader gets records twice (live and by reading back), late, not at all (a lost publication), and from a server that
went back in time. The cursor takes each record that stands once and in order, and says when to look at the log.
"""

import json
from collections.abc import Sequence

from tailrace.schemas import END, START, Entry, HistoryLost, Position, parse_position


class Cursor:
    """The position of one reader that has read its job's log from START."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.last: Position = START
        self.ended = False
        self.went_back = False
        """Whether records were taken that the server has lost since."""
        self.incarnation: str | None = None
        """Which job under its id this is, once its first record was taken."""
        #: The last sequence number seen of every epoch that stands.
        self._seen: dict[int, int] = {0: 0}

    def stood(self, position: Position) -> bool:
        """Whether the record at a position was taken and still stands, as far as this reader knows."""
        epoch, seq = parse_position(position)
        return self._seen.get(epoch, -1) >= seq

    def knows_epoch(self, position: Position) -> bool:
        """Whether a record of the position's attempt has been taken."""
        return parse_position(position)[0] in self._seen

    def take_live(self, after: Position, entries: Sequence[Entry]) -> Sequence[Entry] | None:
        """What to take of a publication; None: read the log, something is missing."""
        if after == self.last and not self.ended:
            return self._take(entries)
        if self.ended or (entries[-1].position != END and self.stood(entries[-1].position)):
            return []
        return None

    def take_read(self, entries: Sequence[Entry]) -> Sequence[Entry] | None:
        """What to take of records read from just after `last`; None: read the whole log (`take_whole`).

        Raises: HistoryLost if the log has a hole.
        """
        if entries and self._goes_on_elsewhere(entries[0]):
            return None
        return self._take(entries)

    def take_whole(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """What to take of the whole log when reading from `last` does not tell: all from the first record that is new.

        After the server went back in time that is an attempt; else (the log grew while we read) the one after `last`.

        Nothing, if it only went back and nobody has written since. Raises: HistoryLost if what stands cannot be told.
        """
        for number, entry in enumerate(entries):
            if entry.position != END and self.stood(entry.position):
                continue
            before = entries[number - 1].position if number else START
            if entry.field != "attempt" and before != self.last:
                raise HistoryLost(self.job_id, after=before, until=self.last)
            return self._take(entries[number:])
        return []

    def _goes_on_elsewhere(self, entry: Entry) -> bool:
        """Whether the record before this one is none that we have taken: there is a new attempt below the cursor."""
        if entry.position == END:
            return _last(entry) != self.last
        return entry.field == "attempt" and not self.stood(_after(entry))

    def _take(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        epoch, seq = parse_position(self.last)
        # The hot path: the next number of the same epoch, without taking its position apart.
        following = f"{epoch}-{seq + 1}"
        for entry in entries:
            if entry.position == following and epoch and entry.field != "attempt":
                self.last, seq = entry.position, seq + 1
                self._seen[epoch] = seq
            else:
                self._step(entry)
                epoch, seq = parse_position(self.last)
            following = f"{epoch}-{seq + 1}"
        return entries

    def _step(self, entry: Entry) -> None:
        if entry.position == END:
            last = _last(entry)
            if last != self.last:
                low, high = sorted((last, self.last), key=parse_position)
                raise HistoryLost(self.job_id, after=low, until=high)
            self.ended = True
        elif entry.field == "attempt":
            self._check_incarnation(entry)
            after = _after(entry)
            if after != self.last:
                self._go_back(after, entry.position)
            self._seen[parse_position(entry.position)[0]] = 0
        else:
            epoch, seq = parse_position(entry.position)
            if self.last != f"{epoch}-{seq - 1}":
                raise HistoryLost(self.job_id, after=self.last, until=entry.position)
            self._seen[epoch] = seq
            if entry.field == "job":
                incarnation = json.loads(entry.value).get("incarnation")
                self.incarnation = incarnation if isinstance(incarnation, str) else None
        self.last = entry.position

    def _check_incarnation(self, attempt: Entry) -> None:
        """The server may have lost the whole job, and somebody submitted another one under its id."""
        theirs = json.loads(attempt.value).get("incarnation")
        if theirs is not None and self.incarnation is not None and theirs != self.incarnation:
            raise HistoryLost(self.job_id, after=START, until=self.last)

    def _go_back(self, after: Position, until: Position) -> None:
        """The server lost everything behind `after`: those epochs may be written anew, under other positions."""
        if not self.stood(after):
            raise HistoryLost(self.job_id, after=self.last, until=until)
        self.went_back = True
        epoch, seq = parse_position(after)
        # Claims grow: every epoch above the one that stands came after it, and is lost with its tail.
        self._seen = {known: top for known, top in self._seen.items() if known < epoch}
        self._seen[epoch] = seq


def _after(entry: Entry) -> Position:
    return Position(json.loads(entry.value)["after"])


def _last(entry: Entry) -> Position:
    return Position(json.loads(entry.value)["last"])
