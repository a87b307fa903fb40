"""What the words of a command say, and how answers spell it."""

from typing import Final

from .scripting import ServerError

MAX: Final = 18446744073709551615
_NOT_INTEGER: Final = "ERR value is not an integer or out of range"
_BAD_ID: Final = "ERR Invalid stream ID specified as stream command argument"


def integer_of(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise ServerError(_NOT_INTEGER) from None


def score_of(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        raise ServerError("ERR value is not a valid float") from None


def bound_of(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        raise ServerError("ERR min or max is not a float") from None


def show(score: float) -> bytes:
    return b"%d" % score if score.is_integer() else b"%.17g" % score


def position_of(text: bytes, missing: int) -> tuple[int, int]:
    head, dash, tail = text.partition(b"-")
    try:
        parsed = int(head), int(tail) if dash else missing
    except ValueError:
        raise ServerError(_BAD_ID) from None
    if not (0 <= parsed[0] <= MAX and 0 <= parsed[1] <= MAX):
        raise ServerError(_BAD_ID)
    return parsed


def edge_of(text: bytes, *, low: bool) -> tuple[int, int]:
    """An end of a range, as the first or last id in it."""
    if text == b"-":
        return 0, 0
    if text == b"+":
        return MAX, MAX
    if not text.startswith(b"("):
        return position_of(text, 0 if low else MAX)
    epoch, seq = position_of(text[1:], 0 if low else MAX)
    if low:
        if (epoch, seq) == (MAX, MAX):
            raise ServerError("ERR invalid start ID for the interval")
        return (epoch, seq + 1) if seq < MAX else (epoch + 1, 0)
    if (epoch, seq) == (0, 0):
        raise ServerError("ERR invalid end ID for the interval")
    return (epoch, seq - 1) if seq else (epoch - 1, MAX)


def named(position: tuple[int, int]) -> bytes:
    return b"%d-%d" % position
