"""Positions: the address of a record in its job's log, and where a reader resumes.

A position is the entry id of a Redis Stream, `<epoch>-<seq>`, and opaque to clients: store it, send it, compare it
for equality, no more. (`MAX` does not fit a JavaScript number.) Source: redis.io/docs/latest/develop/data-types/streams.
"""

import re
from typing import Final, NewType, cast

from tailrace.schemas.errors import InvalidRequest

Position = NewType("Position", str)

#: Before the first record: a reader that starts here gets everything.
START: Final = Position("0-0")
#: The `job` record, the first of every log.
FIRST: Final = Position("0-1")
MAX: Final = 18446744073709551615
#: The `end` record. Redis refuses any later entry: the log is sealed.
END: Final = Position(f"{MAX}-{MAX}")

_SHAPE = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)


def parse_position(text: str) -> tuple[int, int]:
    """Epoch and sequence of a position; tuples compare as Redis orders the entries.

    Raises: InvalidRequest if the text is no position.
    """
    match = _SHAPE.fullmatch(text) if isinstance(cast("object", text), str) else None
    if match is not None:
        epoch, seq = int(match[1]), int(match[2])
        if epoch <= MAX and seq <= MAX:
            return epoch, seq
    raise InvalidRequest(f"{text!r} is no position: pass one that a record, chunk or event carried, or START")


def position(epoch: int, seq: int) -> Position:
    """The position at `seq` within `epoch`."""
    return Position(f"{epoch}-{seq}")
