"""Events of a stream that are alike but for their text, read without a JSON parser. Pure.

An upstream says the same JSON again and again with another text in it. `TextPattern` learns from an event that was
parsed which of its bytes are the text, and proves it: the parser must read a word that is put there as the text. An
event that has the same bytes around its text then means the same, but for the text.
"""

from typing import Any, Final

from pydantic_core import from_json

#: Where in an event's JSON: names and indices.
Path = tuple[str | int, ...]

#: Stands in an event for the text while its place is proved. Nothing that an upstream says.
_PROBE: Final = b"\x7f<tailrace>\x7f"
_WORD: Final = _PROBE.decode()
#: OpenAI fills its events up with characters of no meaning, so that their length does not tell the text's.
_FILLER: Final = "obfuscation"
#: Places that are tried for one text: an event says the same word twice now and then.
_PLACES: Final = 4
#: Of events that are never alike, so many are parsed between two attempts at learning.
_LONGEST_PAUSE: Final = 64


class TextPattern:
    """What the events of one stream have in common. `text` first; if it knows nothing, parse, and let it `learn`."""

    __slots__ = ("_filled", "_head", "_pause", "_skip", "_tail", "_tail_end")

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._tail_end = b""
        self._filled = False
        self._pause = self._skip = 0

    def text(self, event: bytes) -> str | None:
        """The text of an event that is like the one learned, None of any other.

        The rest of the event is what it was, but for filler.
        """
        head = self._head
        if not head or not event.startswith(head):
            return None
        start = len(head)
        end = event.find(b'"', start)
        if end < 0:
            return None
        if self._filled:
            tail_end = len(event) - len(self._tail_end)
            filler = end + len(self._tail)
            if (
                not event.startswith(self._tail, end)
                or not event.endswith(self._tail_end)
                or tail_end < filler
                or _decoded(event[filler:tail_end]) is None
            ):
                return None
        elif event[end:] != self._tail:
            return None
        text = _decoded(event[start:end])
        if text is not None:
            self._pause = self._skip = 0
        return text

    def forget(self) -> None:
        """Know nothing again."""
        self._head = b""

    def learn(self, event: bytes, body: dict[str, Any], path: Path, text: str) -> None:
        """Take this event for a pattern: `body` is what it says, `text` what stands in it at `path`."""
        if self._skip:
            self._skip -= 1
            return
        self._skip = self._pause = min(2 * self._pause + 1, _LONGEST_PAUSE)
        self._head = b""
        raw = text.encode(errors="replace")
        if _decoded(raw) != text:
            self._skip = 0  # the next one will do
            return
        quoted = b'"' + raw + b'"'
        place = event.find(quoted)
        for _ in range(_PLACES):
            if place < 0:
                return
            head, tail = event[: place + 1], event[place + 1 + len(raw) :]
            if _proved(head + _PROBE + tail, path):
                self._head = head
                self._know_tail(tail, body, path)
                return
            place = event.find(quoted, place + 1)

    def _know_tail(self, tail: bytes, body: dict[str, Any], path: Path) -> None:
        self._tail, self._tail_end, self._filled = tail, b"", False
        filler = body.get(_FILLER)
        if not isinstance(filler, str) or not filler or _decoded(filler.encode(errors="replace")) != filler:
            return
        place = tail.find(b'"' + filler.encode() + b'"')
        if place < 0:
            return
        before, after = tail[: place + 1], tail[place + 1 + len(filler) :]
        if _proved(self._head + _PROBE + before + _PROBE + after, path, (_FILLER,)):
            self._tail, self._tail_end, self._filled = before, after, True


def _decoded(raw: bytes) -> str | None:
    """The text that these bytes mean in a JSON string, None if a parser must tell."""
    if b"\\" in raw or b'"' in raw:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    # No control characters, which JSON does not allow; the rare others that are not printable are parsed too.
    return text if text.isprintable() else None


def _proved(event: bytes, *paths: Path) -> bool:
    """Whether the parser finds the probe in all these places: then a text that is put there changes nothing else."""
    try:
        found: Any = from_json(event)
        for path in paths:
            value = found
            for step in path:
                value = value[step]
            if value != _WORD:
                return False
    except (ValueError, LookupError, TypeError):
        return False
    return True
