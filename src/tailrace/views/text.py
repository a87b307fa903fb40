"""Text as it comes: the answer of one run."""

from collections.abc import Sequence
from dataclasses import dataclass

from tailrace.schemas import ROOT, Chunk, EndRecord, Entry, Position, chunk_field
from tailrace.views._fields import json_object, read_end
from tailrace.views._parts import Parts, Text
from tailrace.views._standing import DELTA, END_RECORD, REWIND, STANDS_AT, Cursor, drop_after, rewound_to, standing


@dataclass(frozen=True, slots=True)
class Rewound:
    """Text that was shown is void: show `text_before` instead, and go on from `position`."""

    position: Position
    """The record that says so: a rewind; after a loss the attempt, or the end."""
    text_before: str
    """The text that stands, from the beginning."""


#: A piece of the answer, with the entry that it came in.
_Piece = tuple[Entry, str]
#: The parts of an entry. A view keeps all of them, and the garbage collector looks at plain tuples of strings only once.
_Kept = tuple[Position, str, str]


class TextView:
    """The answer of a run (its text of choice 0) as `Chunk`s; `Rewound` when text that was shown is void.

    Text that becomes void within the call that brings it is not shown: who comes late gets only what stands.
    """

    __slots__ = ("_cursor", "_field", "_kept", "_parts", "end", "run")

    def __init__(self, run: int = ROOT) -> None:
        self.run = run
        self.end: EndRecord | None = None
        self._field = chunk_field(run)
        self._parts = Parts(run)
        self._cursor = Cursor()
        self._kept: list[_Kept] = []
        """What may bear on the answer, void entries included."""

    def resume(self, position: Position) -> None:
        self._cursor.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Chunk | Rewound]:
        items: list[Chunk | Rewound] = []
        field, keep = self._field, self._kept.append
        answering = self._parts.answering and show
        at = self._cursor.at
        call: _Call | None = None
        old = len(self._kept)
        # The loop that every chunk of every reader goes through: no models, no positions parsed, no calls but Chunk's.
        for entry in entries:
            position, kind, value = entry
            if kind == field:
                keep((position, kind, value))
                if answering:
                    items.append(Chunk(value, position))
            elif kind == DELTA:
                keep((position, kind, value))
                text = self._text_in(entry)
                if text is not None and show:
                    items.append(Chunk(text, position))
                answering = self._parts.answering and show
            elif kind == REWIND or kind in STANDS_AT:
                self._cursor.at = at
                if call is None:
                    call = _Call(old)
                if self._voids(entry, call):
                    self._parts, stands = _answer(self._kept, self.run)
                    answering = self._parts.answering and show
                    if show:
                        items = call.items(position, stands, self._kept)
            at = position
        self._cursor.at = at
        return items

    def _text_in(self, delta: Entry) -> str | None:
        piece = self._parts.read(delta)
        return piece.text if isinstance(piece, Text) and _answers(piece) else None

    def _voids(self, entry: Entry, call: "_Call") -> bool:
        """Take a rewind, an attempt or the end; whether what stands may differ now."""
        fields = json_object(entry.value)
        if entry.field == REWIND:
            if rewound_to(fields, self.run) is None:
                return False
            call.remember(self._kept, self.run)
            self._kept.append((entry.position, entry.field, entry.value))
            return True
        if entry.field == END_RECORD:
            self.end = read_end(entry)
        top = self._cursor.lost(fields.get(STANDS_AT[entry.field]))
        unseen, self._cursor.unseen = self._cursor.unseen, False
        if top is None:
            return False
        call.remember(self._kept, self.run)
        call.unseen = call.unseen or unseen
        drop_after(self._kept, top)
        call.old = min(call.old, len(self._kept))
        return True


class _Call:
    """What the reader held when a call of `feed` began, once something in that call is void."""

    __slots__ = ("held", "old", "unseen")

    def __init__(self, old: int) -> None:
        self.old = old
        """How many of the entries kept are from earlier calls."""
        self.held: list[_Piece] | None = None
        self.unseen = False
        """The reader held text that no view knows, and it is lost."""

    def remember(self, kept: list[_Kept], run: int) -> None:
        if self.held is None:
            self.held = _answer(kept[: self.old], run)[1]

    def items(self, position: Position, stands: list[_Piece], kept: list[_Kept]) -> list[Chunk | Rewound]:
        """What to show instead of what this call was about to."""
        new = {position for position, _, _ in kept[self.old :]}
        if not self.unseen and [piece for piece in stands if piece[0].position not in new] == self.held:
            return [Chunk(text, entry.position) for entry, text in stands if entry.position in new]
        return [Rewound(position, "".join(text for _, text in stands))]


def _answers(piece: Text) -> bool:
    return piece.part == "text" and piece.choice == 0


def _answer(kept: list[_Kept], run: int) -> tuple[Parts, list[_Piece]]:
    """The pieces of the answer that stand, and the part that is open after them."""
    parts = Parts(run)
    pieces = [(entry, parts.read(entry)) for entry in standing(map(Entry._make, kept), run)]
    return parts, [(entry, piece.text) for entry, piece in pieces if isinstance(piece, Text) and _answers(piece)]
