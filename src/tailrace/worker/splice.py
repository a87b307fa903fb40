"""Going on with an output that an earlier attempt has begun, without a word twice.

The new attempt generates everything again. While it says what stands, nothing is written; where it goes on from there,
only that; at the first difference a rewind to the last record boundary inside the common prefix, then the rest of the
cut record, then all that follows. One rule for every kind of record. Pure: no I/O.
"""

import json
from collections.abc import Sequence

from tailrace.schemas import ROOT, chunk_field
from tailrace.worker.memory import Line, chunk, rewind


class Splice:
    """Compares what a run generates with what stands of it, and says what to write."""

    def __init__(self, stands: Sequence[Line], *, base: Line, run: int = ROOT) -> None:
        """`stands`: the output that stands, in order. `base`: the line before it, to rewind to if its first differs."""
        self._stands, self._base, self._run = stands, base, run
        self._text = chunk_field(run)
        self._at = 0
        #: How many characters of the chunk at `_at` have been generated again.
        self._offset = 0
        self._parted = False

    @property
    def silent(self) -> bool:
        """Whether there is still something standing that was not generated again."""
        return not self._parted and self._at < len(self._stands)

    def feed(self, line: Line) -> list[Line]:
        """What to write for this piece of the new output."""
        if not self.silent:
            return [line]
        if line.field != self._text:
            stands = self._stands[self._at]
            if not self._offset and stands.field == line.field and json.loads(stands.text) == json.loads(line.text):
                self._at += 1
                return []
            return [*self._part(), line]
        text = line.text
        while text and self._at < len(self._stands):
            stands = self._stands[self._at]
            if stands.field != self._text:
                return [*self._part(), chunk(text, self._run)]
            rest = stands.text[self._offset :]
            common = _common(rest, text)
            self._offset += common
            text = text[common:]
            if common == len(rest):
                self._at, self._offset = self._at + 1, 0
            elif text:
                return [*self._part(), chunk(text, self._run)]
        return [chunk(text, self._run)] if text else []

    def close(self) -> list[Line]:
        """What to write when the new output is over: a rewind if it is shorter than what stands."""
        return self._part() if self.silent else []

    def _part(self) -> list[Line]:
        """Void what stands beyond the common prefix, and say again what of a cut record lies inside it."""
        self._parted = True
        cut = self._stands[self._at].text[: self._offset] if self._offset else ""
        boundary = self._stands[self._at - 1] if self._at else self._base
        return [rewind(boundary, self._run), *([chunk(cut, self._run)] if cut else [])]


def _common(one: str, other: str) -> int:
    """The length of the common prefix."""
    if one.startswith(other) or other.startswith(one):
        return min(len(one), len(other))
    return next(number for number, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
