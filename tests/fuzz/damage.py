"""Ways to damage bytes, lines and JSON. All chance comes from the generator that is passed in."""

import copy
import json
from random import Random
from typing import Any, Final, cast

_DEEP: Final = 240
_DEEPER: Final = 5000
_EMPTY: Final[tuple[Any, ...]] = ([], {}, [[]], [{}], {"error": {}}, {"type": []})
#: Where a number, a text or an object is expected, and no JSON reader agrees with the next one about it.
_ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**64, -(2**70), 0.5, -0.0, 1e300, float("nan"), float("inf"),
    "", "\x00", "a", "[DONE]", "\ud83c", "\udf88", "\ud83c\udf88", "\x1b]0;x\x07", "\r\n*1\r\n$4\r\nPING\r\n", "999999",
    *_EMPTY, {"": None}, {"error": "x"}, [1, "a", None],
    {"a": {"b": [1]}}, ["a", ["b"]], {"index": -1}, {"index": 1.5}, {"index": "0"},
)  # fmt: skip
_LINES: Final = (
    b"", b"data", b"data:", b"data: ", b"data: {}", b"data: []", b"data: null", b"data: [DONE]", b"data: [DONE] ",
    b"event: error", b"event:", b"id: 1", b"retry: x", b": comment", b"{", b"}", b"[", b"{}", b'"', b'"x"', b"error: {}",
    b'error: {"error": "x"}', b'{"error": {"message": "m"}}', b'{"detail": "m"}', b"\xef\xbb\xbfdata: {}", b"\xff\xfe",
    b'data: {"error": null}', b'data: {"choices": null}', b'data: {"type": "error"}', b"\x00", b"data\x00: {}",
)  # fmt: skip
_ENDS: Final = (b"\n", b"\r\n", b"\r")
_BYTES: Final = (
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b":",
    b" ",
    b"{",
    b"}",
    b'"',
    b"\\u",
    b"\xff",
    b"\x00",
    b"\xf0\x9f",
    b"9" * 20,
)


def in_bytes(random: Random, body: bytes) -> bytes:
    """A few bytes changed, added, taken away, or the rest cut off."""
    at = random.randrange(len(body) + 1)
    upto = min(len(body), at + random.choice((0, 0, 1, 2, 8, 64)))
    match random.randrange(4):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + random.choice(_BYTES) + body[upto:]
        case 2:
            return body[:at] + random.randbytes(random.randrange(1, 4)) + body[upto:]
        case _:
            return body[:at] + body[upto:]


def in_lines(random: Random, body: bytes, other: bytes) -> bytes:
    """Lines lost, doubled, exchanged, added, taken from another stream, ended in another way."""
    lines, others = body.splitlines(), other.splitlines() or [b""]
    at = random.randrange(len(lines) + 1)
    match random.randrange(6):
        case 0:
            del lines[at : at + random.randrange(1, 4)]
        case 1:
            lines[at:at] = lines[at : at + random.randrange(1, 4)] * random.randrange(1, 3)
        case 2:
            lines.insert(at, random.choice(_LINES))
        case 3:
            lines[at:at] = others[: random.randrange(len(others)) + 1]
        case 4:
            lines[at : at + 1] = [random.choice(_LINES), b"", random.choice(_LINES)]
        case _:
            return random.choice(_ENDS).join(lines) + random.choice(_ENDS)
    return b"\n".join(lines) + b"\n" * random.randrange(3)


def in_json_lines(random: Random, body: bytes) -> bytes:
    """The JSON of one `data:` line damaged."""
    lines = body.splitlines(keepends=True)
    with_json = [number for number, line in enumerate(lines) if line.startswith((b"data: {", b"{"))]
    if not with_json:
        return body
    number = random.choice(with_json)
    head, brace, text = lines[number].partition(b"{")
    lines[number] = head + in_json(random, (brace + text).decode(errors="replace")).encode(errors="replace") + b"\n"
    return b"".join(lines)


def in_json(random: Random, text: str) -> str:
    """One place in the JSON changed; once in a while the text itself."""
    if random.random() < 0.02 and text.startswith("{"):
        return _deep(random, text)
    try:
        value: Any = json.loads(text)
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            value = _changed(random, value)
        told = json.dumps(value, ensure_ascii=random.random() < 0.7)
    except (ValueError, RecursionError):
        return in_bytes(random, text.encode(errors="replace")).decode(errors="replace")
    if random.random() < 0.05:
        told = told.replace("1", "9" * random.choice((20, 400, 5000)), 1)
    return told


def _changed(random: Random, value: Any) -> Any:
    """The value with something else in one place in it."""
    places = list(_places(value, ()))
    path = random.choice(places)
    if not path:
        return _odd(random)
    inner: Any = value
    for step in path[:-1]:
        inner = inner[step]
    last = path[-1]
    match random.randrange(5):
        case 0:
            del inner[last]
        case 1 | 2:
            inner[last] = _odd(random)
        case 3:
            inner[last] = json.loads(json.dumps(_at(value, random.choice(places))))
        case _:
            wrapped = inner[last]
            inner[last] = [wrapped] if random.random() < 0.5 else {str(last): wrapped}
    return value


def _odd(random: Random) -> Any:
    # A copy: what is put into the value may be changed there.
    return copy.deepcopy(random.choice(_ODD))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def _places(value: object, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    found = [path]
    if len(path) > _DEEP:
        return found
    if isinstance(value, dict):
        for name, item in cast("dict[str, object]", value).items():
            found += _places(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(cast("list[object]", value)):
            found += _places(item, (*path, number))
    return found


def _deep(random: Random, text: str) -> str:
    """A field that goes deeper than any reader should; with an escape in it, that only the slow reader takes."""
    depth = random.choice((_DEEP, _DEEP, 900, _DEEPER))
    opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
    inner = random.choice(("1", '"\\ud83c"'))
    return '{"deep":' + opening * depth + inner + closing * depth + "," + text.strip()[1:]
