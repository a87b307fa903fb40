"""What an append puts on a job's live channel: the position before it, then its records.

`<after>\\n` and for each record `<position> <field> <length>\\n<value>\\n`; the length counts bytes of UTF-8. The script
that appends builds it, so a publication cannot differ from what is stored.
"""

from typing import NamedTuple

from tailrace.schemas import Entry, Position


class Publication(NamedTuple):
    """Records as they were appended, and the top of the log before them."""

    after: Position
    entries: list[Entry]


def parse_publication(payload: bytes) -> Publication | None:
    """The publication in a message, or None if it is none of ours (anyone may publish anything)."""
    try:
        head = payload.index(b"\n")
        after = payload[:head].decode("ascii")
        at, entries = head + 1, list[Entry]()
        while at < len(payload):
            head = payload.index(b"\n", at)
            position, field, length = payload[at:head].decode("utf-8").split(" ")
            start = head + 1
            at = start + int(length)
            if int(length) < 0 or at >= len(payload) or payload[at] != 0x0A:
                return None
            entries.append(Entry(Position(position), field, payload[start:at].decode("utf-8", "replace")))
            at += 1
    except (ValueError, UnicodeDecodeError):
        return None
    return Publication(Position(after), entries) if entries else None
