"""Server-sent events, split out of bytes as they come. Pure: no I/O, no JSON.

Exact for every cut of the input (in a line, in a character, between CR and LF). What differs from the specification
is said at `Event.bare` and `Splitter.pending`: a consumer of model output must not lose an error silently.

Source: html.spec.whatwg.org/multipage/server-sent-events.html, "Interpreting an event stream".
"""

from typing import Final, NamedTuple

#: The largest event that is taken. The largest seen in the field are final Responses objects with images in them.
EVENT_LIMIT: Final = 8 * 1024 * 1024

_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = frozenset({b"data", b"event", b"id", b"retry"})


class Event(NamedTuple):
    """One event: its data, and its name if it has one other than the default."""

    data: bytes
    name: str | None = None
    bare: bool = False
    """A line that is no SSE but looks like JSON: an error body that came without `data:`, one event a line. The
    specification drops such lines; upstreams report their failures in them."""


class EventTooLarge(Exception):
    """An event is larger than the limit. `.before` holds the events that were complete before it."""

    def __init__(self, limit: int, before: list[Event]) -> None:
        super().__init__(f"an event of the stream is larger than {limit} bytes")
        self.limit = limit
        self.before = before


class Splitter:
    """Splits one stream. `feed` what comes; `close` at the end."""

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._fragments: list[bytes] = []  # of the line that has no end yet; no CR or LF in it
        self._fragments_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""
        self._skip_lf = False
        self._start = True
        self._clean = False  # between two events, nothing held back: the fast path may look at the input
        self._closed_pending = False

    @property
    def pending(self) -> bool:
        """Whether data was read that belongs to no complete event. At the end: it is lost, the stream was cut."""
        return self._closed_pending or bool(self._data) or (bool(self._fragments) and self._fragments_are_data())

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this input completes. Raises: EventTooLarge; the splitter is of no use after that."""
        if self._clean and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            return self._whole(chunk)
        events: list[Event] = []
        self._pieces(chunk, events)
        return events

    def close(self) -> list[Event]:
        """The end of the stream: a bare line without a line end is still an event, everything else is not."""
        events: list[Event] = []
        rest = b"".join(self._fragments)
        self._closed_pending = self.pending
        self._fragments, self._data = [], []
        if rest and _is_bare(rest):
            self._closed_pending = self._closed_pending and bool(self._data)
            self._line(rest, events)
        return events

    def _whole(self, chunk: bytes) -> list[Event]:
        """Input made of whole events: what nearly every read of a token stream is."""
        events: list[Event] = []
        for block in chunk[:-2].split(b"\n\n"):
            if block.startswith(b"data: ") and block.find(b"\n") < 0 and len(block) <= self._limit:
                events.append(Event(block[6:]))
            else:
                for line in block.split(b"\n"):
                    self._line(line, events)
                self._line(b"", events)
        return events

    def _pieces(self, chunk: bytes, events: list[Event]) -> None:
        if self._start:
            chunk = self._after_bom(chunk)
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return
        if b"\n" not in chunk and b"\r" not in chunk:
            self._hold(chunk, events)
            return
        text = b"".join((*self._fragments, chunk))
        if b"\r" in text:
            self._skip_lf = text.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._fragments, self._fragments_size = [], 0
        for line in lines:
            self._line(line, events)
        self._hold(rest, events)

    def _after_bom(self, chunk: bytes) -> bytes:
        """The input without a byte order mark at its start, or nothing while that is not certain."""
        head = b"".join((*self._fragments, chunk))
        self._fragments = []
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._fragments = [head] if head else []
            return b""
        self._start = False
        return head.removeprefix(_BOM)

    def _hold(self, rest: bytes, events: list[Event]) -> None:
        if rest:
            self._fragments.append(rest)
            self._fragments_size += len(rest)
            if self._data_size + self._fragments_size > self._limit:
                raise EventTooLarge(self._limit, events)
        self._clean = not (self._fragments or self._data or self._name or self._skip_lf or self._start)

    def _line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(b"\n".join(self._data), self._name.decode(errors="replace") or None))
            self._data, self._data_size, self._name = [], 0, b""
            return
        if self._data_size + len(line) > self._limit:
            raise EventTooLarge(self._limit, events)
        name, colon, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_size += len(line)
        elif name == b"event":
            self._name = value.removeprefix(b" ")
        elif name == b"error" and colon and _is_bare(value):  # older llama.cpp servers: "error: {...}"
            events.append(Event(value.strip(), bare=True))
        elif name not in _FIELDS and _is_bare(line):
            events.append(Event(line.strip(), bare=True))

    def _fragments_are_data(self) -> bool:
        return b"".join(self._fragments)[:5] == b"data:"


def _is_bare(line: bytes) -> bool:
    return line.lstrip()[:1] in (b"{", b"}", b"[", b"]", b'"')
