"""For streams that only go forward: which entries to render next, or that what was rendered is void."""

from collections.abc import Sequence

from tailrace.schemas import ROOT, EndRecord, Entry, JsonObject, Position, chunk_field
from tailrace.views._fields import json_object, read_end
from tailrace.views._standing import DELTA, END_RECORD, JOB, REWIND, STANDS_AT, Cursor, drop_after, rewound_to, standing


class Forward:
    """The entries of a run that stand, in the order to render them.

    What becomes void within the call that brings it is never given out: who comes late renders only what stands.
    """

    __slots__ = ("_cursor", "_field", "_kept", "end", "job", "run", "void_at")

    def __init__(self, run: int = ROOT) -> None:
        self.run = run
        self.job: JsonObject = {}
        """The fields of the job record, once it was fed."""
        self.end: EndRecord | None = None
        self.void_at: Position | None = None
        """The record that voids what was rendered: the stream cannot go on."""
        self._field = chunk_field(run)
        self._cursor = Cursor()
        self._kept: list[Entry] = []

    def resume(self, position: Position) -> None:
        self._cursor.resume(position)

    def standing(self) -> list[Entry]:
        """All that stands."""
        return standing(self._kept, self.run)

    def feed(self, entries: Sequence[Entry], *, show: bool) -> list[Entry]:
        """The entries to render next. With `show=False` whatever is void was never this reader's: none are."""
        before = len(self._kept)
        held: list[Entry] | None = None
        unseen = False
        void_at: Position | None = None
        for entry in entries:
            kind = entry.field
            if kind in (self._field, DELTA):
                self._kept.append(entry)
            elif kind == REWIND:
                if rewound_to(json_object(entry.value), self.run) is not None:
                    held = standing(self._kept[:before], self.run) if held is None else held
                    self._kept.append(entry)
                    void_at = entry.position
            elif kind in STANDS_AT:
                if kind == END_RECORD:
                    self.end = read_end(entry)
                top = self._cursor.lost(json_object(entry.value).get(STANDS_AT[kind]))
                if top is not None:
                    held = standing(self._kept[:before], self.run) if held is None else held
                    unseen = unseen or self._cursor.unseen
                    drop_after(self._kept, top)
                    void_at = entry.position
                self._cursor.unseen = False
            elif kind == JOB:
                self.job = json_object(entry.value)
            self._cursor.at = entry.position
        if held is None:
            return self._kept[before:]
        stands = self.standing()
        if unseen or not _begins_with(stands, held):
            self.void_at = void_at if show else None
            return []
        return stands[len(held) :]


def _begins_with(stands: list[Entry], held: list[Entry]) -> bool:
    return len(stands) >= len(held) and all(mine is other for mine, other in zip(held, stands, strict=False))
