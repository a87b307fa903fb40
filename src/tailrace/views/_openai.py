"""What the streams of the OpenAI API have in common: frames with positions, made of what stands."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from tailrace.schemas import EndRecord, Entry, JsonObject, Logprobs, Position
from tailrace.views._fields import number, string
from tailrace.views._forward import Forward
from tailrace.views._parts import Parts, Piece, Text
from tailrace.views.text import Rewound


class Frame(NamedTuple):
    """One event of an OpenAI stream, and the record that it came in."""

    position: Position
    body: JsonObject


class OpenAIView(ABC):
    """A stream of the OpenAI API, folded from a job's records: `Frame`s, or one `Rewound` after which nothing follows,
    because such a stream cannot take back what it said.

    A job that ended badly gives no last frame: read `end`, and say it in the way of the channel.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._forward = Forward()
        self._rewound = False
        self._restart()

    @property
    def end(self) -> EndRecord | None:
        return self._forward.end

    @property
    def job(self) -> JsonObject:
        """What the job record says; empty until it was fed."""
        return self._forward.job

    def resume(self, position: Position) -> None:
        self._forward.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Frame | Rewound]:
        if self._rewound:
            return []
        ended = self._forward.end
        fresh = self._forward.feed(entries, show=show)
        if not show:
            # What was void before the reader's position may have left its mark in the fold.
            self._restart()
            self._folded(self._forward.standing())
            return []
        if self._forward.void_at is not None:
            self._rewound = True
            return [Rewound(self._forward.void_at, "")]
        frames = self._folded(fresh)
        end = self._forward.end
        if end is not None and ended is None and end.status.well:
            frames += [Frame(end.position, body) for body in self._close(end)]
        return [*frames]

    def _restart(self) -> None:
        self._parts = Parts()
        self._begin()

    def _folded(self, entries: Iterable[Entry]) -> list[Frame]:
        frames: list[Frame] = []
        for position, piece in _with_logprobs(self._parts, entries):
            frames += [Frame(position, body) for body in self._fold(piece)]
        return frames

    @property
    def created(self) -> int:
        """When the job was submitted, in seconds."""
        return number(self.job.get("ts"), 0) // 1000

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return string(self.job.get("model")) or ""

    @abstractmethod
    def _begin(self) -> None:
        """Forget what was folded."""

    @abstractmethod
    def _fold(self, piece: Piece) -> Iterable[JsonObject]:
        """The bodies that a piece of the output gives."""

    @abstractmethod
    def _close(self, end: EndRecord) -> Iterable[JsonObject]:
        """The bodies that a good end gives."""


class ChoicesView(OpenAIView):
    """A stream of chunks with choices, as both completions APIs have it; `include_usage` as in their `stream_options`."""

    def __init__(self, job_id: str, *, include_usage: bool = False) -> None:
        self._include_usage = include_usage
        super().__init__(job_id)

    def _begin(self) -> None:
        self._finished = False
        """Whether any choice has its finish reason."""

    def _close(self, end: EndRecord) -> Iterator[JsonObject]:
        if not self._finished:
            yield from self._finish(0, end.finish_reason or "stop")
        if self._include_usage:
            usage = self._body([])
            usage["usage"] = end.usage
            yield usage

    def _body(self, choices: list[JsonValue]) -> JsonObject:
        body: JsonObject = {**self._head(), "created": self.created, "model": self.model, "choices": choices}
        return body | {"usage": None} if self._include_usage else body

    @abstractmethod
    def _head(self) -> JsonObject:
        """`id` and `object` of every chunk."""

    @abstractmethod
    def _finish(self, choice: int, reason: str) -> Iterable[JsonObject]:
        """The bodies that say why a choice is over."""


def _with_logprobs(parts: Parts, entries: Iterable[Entry]) -> Iterator[tuple[Position, Piece]]:
    """The pieces with their positions. Log probabilities that come with the text that they are of are put into it again,
    as upstreams send them: where they come later, they stay a piece of their own."""
    held: tuple[Position, Text] | None = None
    for entry in entries:
        piece = parts.read(entry)
        if isinstance(piece, Logprobs) and held is not None and held[1].choice == piece.choice:
            yield entry.position, held[1]._replace(logprobs=piece.logprobs)
            held = None
            continue
        if held is not None:
            yield held
            held = None
        if isinstance(piece, Text) and piece.logprobs is None:
            held = entry.position, piece
        elif piece is not None:
            yield entry.position, piece
    if held is not None:
        yield held
