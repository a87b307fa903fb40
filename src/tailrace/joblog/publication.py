"""What an append puts on a job's live channel: the position before it, then its records.

`<after>\\n` and for each record `<position> <field> <length>\\n<value>\\n`; the length counts bytes of UTF-8. The script
that appends builds it, so a publication cannot differ from what is stored.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from tailrace.schemas import END, Entry, Position, parse_position


class Publication(NamedTuple):
    """Records as they were appended, and the top of the log before them."""

    after: Position
    entries: list[Entry]


def parse_publication(payload: bytes) -> Publication | None:
    """The publication in a message, or None if it is none that our scripts make (anyone may publish anything).

    A cursor that stands at `after` can take what this returns without looking: its records follow one another.
    """
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
        return Publication(Position(after), entries) if _follow_one_another(after, entries) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def _follow_one_another(after: str, entries: Sequence[Entry]) -> bool:
    """One claim, one end, or one append. Raises ValueError, TypeError or LookupError for what is none of these."""
    epoch, seq = parse_position(after)
    first = entries[0]
    if first.position == END or first.field in ("attempt", "end"):
        if len(entries) > 1 or (first.position == END) != (first.field == "end"):
            return False
        return bool(json.loads(first.value)["last" if first.field == "end" else "after"] == after) and (
            parse_position(first.position) > (epoch, seq)
        )
    return all(entry.position == f"{epoch}-{number}" for number, entry in enumerate(entries, seq + 1))
