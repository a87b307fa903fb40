"""What is tried with damaged input, and what must hold. A case is a number; the same number is the same case."""

import json
import re
import signal
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final, NoReturn

from pydantic import ValidationError

from tailrace.joblog import decode_snapshot, encode_snapshot, parse_publication
from tailrace.schemas import Entry, HistoryLost, Position, UnknownRecord, decode, parse_position
from tailrace.worker.sources import ChatDecoder, CompletionsDecoder, Decoder, Item, ResponsesDecoder, UpstreamError
from tailrace.worker.sse import Event, EventTooLarge, Splitter

from . import damage
from .corpus import Api, Stream, log, streams

HANG_S: Final = 5.0
"""A case takes a fraction of a millisecond, the odd deep one some."""

_DECODERS: Final[dict[Api, Callable[[], Decoder]]] = {
    "chat": ChatDecoder, "completions": CompletionsDecoder, "responses": ResponsesDecoder,
}  # fmt: skip
_LINE_ENDS: Final = re.compile(rb"\r\n|\n\n|\r\r")
_POSITION: Final = Position("1700000000000000-1")


class Fuzz:
    """All targets over one corpus. `counted` tells how often each target was tried and what came of it."""

    def __init__(self) -> None:
        self.streams: list[Stream] = streams()
        self.log: list[Entry] = log()
        self.counted: Counter[str] = Counter()

    def case(self, number: int) -> None:
        """Try one. Raises whatever should not come out; AssertionError for what does not hold."""
        random = Random(number)
        target = random.choice((self._stream, self._stream, self._stream, self._record, self._snapshot, self._live))
        with bounded(HANG_S):
            self.counted[f"{target.__name__.strip('_')} {target(random)}"] += 1

    def _stream(self, random: Random) -> str:
        stream = random.choice(self.streams)
        body = stream.body
        for _ in range(random.choice((0, 1, 1, 2, 3, 6))):
            match random.randrange(4):
                case 0:
                    body = damage.in_bytes(random, body)
                case 1:
                    body = damage.in_lines(random, body, random.choice(self.streams).body)
                case _:
                    body = damage.in_json_lines(random, body)
        limit = random.choice((2**23, 2**23, 2**23, 200))
        whole = _split(Splitter(limit), [body])
        assert _split(Splitter(limit), _cut(random, body)) == whole, "the events depend on how the stream was cut"
        events = whole[0]
        # As it may be configured: the same stream in another API's words.
        api = stream.api if random.random() < 0.9 else random.choice(tuple(_DECODERS))
        came = _decoded(_DECODERS[api](), events)
        return f"{api} {came}"

    def _record(self, random: Random) -> str:
        position, field, value = random.choice(self.log)
        if random.random() < 0.1:
            field = random.choice(
                ("chunk:0", "chunk:1", "chunk:x", "chunk:99999999999", "", "end", "job", "a b", "\x00")
            )
        for _ in range(random.choice((0, 1, 1, 2))):
            value = damage.in_json(random, value)
        return _read_back(Entry(position, field, value))

    def _snapshot(self, random: Random) -> str:
        blob = encode_snapshot(self.log)
        assert decode_snapshot("j", blob) == self.log
        match random.randrange(3):
            case 0:
                blob = damage.in_bytes(random, blob)
            case 1:
                text = zlib.decompress(blob[1:]).decode()
                blob = blob[:1] + zlib.compress(damage.in_json(random, text).encode(errors="surrogatepass"), 1)
            case _:
                blob = blob[:1] + zlib.compress(damage.in_bytes(random, zlib.decompress(blob[1:])), 1)
        try:
            entries = decode_snapshot("j", blob)
        except HistoryLost:
            return "refused"
        for entry in entries:
            parse_position(entry.position)
            assert isinstance(entry.value, str)
        return "taken"

    def _live(self, random: Random) -> str:
        start = random.randrange(1, len(self.log))
        entries = self.log[start : start + random.choice((1, 1, 2, 5))]
        after = self.log[start - 1].position
        lines = [f"{entry.position} {entry.field} {len(entry.value.encode())}\n{entry.value}\n" for entry in entries]
        payload = f"{after}\n{''.join(lines)}".encode()
        for _ in range(random.choice((0, 1, 1, 2))):
            payload = damage.in_bytes(random, payload)
        found = parse_publication(payload)
        if found is None:
            return "refused"
        last = parse_position(found.after)
        for entry in found.entries:
            assert parse_position(entry.position) > last
            last = parse_position(entry.position)
        return "taken"


def _cut(random: Random, body: bytes) -> list[bytes]:
    places = sorted(random.randrange(len(body) + 1) for _ in range(random.choice((1, 2, 5, 40))))
    if random.random() < 0.3:
        places = sorted(random.choice((1, 2)) + found.start() for found in _LINE_ENDS.finditer(body))
    elif random.random() < 0.05:
        places = list(range(len(body)))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


def _split(splitter: Splitter, pieces: Sequence[bytes]) -> tuple[list[Event], bool, bool]:
    """The events, whether one was too large, and whether something was left over."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += splitter.feed(piece)
        events += splitter.close()
    except EventTooLarge as error:
        return [*events, *error.before], True, False
    return events, False, splitter.pending


def _decoded(decoder: Decoder, events: Sequence[Event]) -> str:
    try:
        for event in events:
            for item in decoder.feed(event):
                _stored(item)
        ended = decoder.close()
    except UpstreamError as error:
        json.dumps(error.detail.model_dump(mode="json"), allow_nan=False).encode()
        str(error).encode()
        return error.detail.type
    ended.status.value.encode()
    json.dumps(ended.usage, allow_nan=False)
    return ended.status.value


def _stored(item: Item) -> None:
    """As a worker writes it, and a reader in any language reads it."""
    if isinstance(item, str):
        assert item
        item.encode()
        return
    text = json.dumps({"run": 0, "delta": item.model_dump(mode="json", exclude_none=True)}, allow_nan=False)
    record = decode(Entry(_POSITION, "delta", text))
    assert not isinstance(record, UnknownRecord)


def _read_back(entry: Entry) -> str:
    try:
        record = decode(entry)
    except ValidationError:
        return "refused"
    if isinstance(record, UnknownRecord):
        return "passed over"
    # Twice: an infinite number, which no tailrace writes, becomes null, and null is left out.
    once = decode(Entry(entry.position, entry.field, record.value()))
    assert not isinstance(once, UnknownRecord)
    twice = decode(Entry(entry.position, entry.field, once.value()))
    assert not isinstance(twice, UnknownRecord)
    assert decode(Entry(entry.position, entry.field, twice.value())) == twice
    return "taken"


class Hangs(AssertionError):
    """A case takes too long."""


@contextmanager
def bounded(seconds: float) -> Generator[None]:
    """Raises: Hangs, also out of a loop that never waits. In the main thread only."""

    def too_long(*_: object) -> NoReturn:
        raise Hangs(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
