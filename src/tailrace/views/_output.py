"""The output of one run: its pieces folded into choices."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import JsonValue

from tailrace.schemas import (
    ROOT,
    Choice,
    Entry,
    Extra,
    Finish,
    Logprobs,
    Native,
    OpenPart,
    ToolCall,
)
from tailrace.views._fields import JsonObject
from tailrace.views._parts import Parts, Piece, Text

_LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})


@dataclass(slots=True)
class _Call:
    id: str | None = None
    name: str | None = None
    arguments: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _Draft:
    text: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    refusal: list[str] = field(default_factory=list[str])
    calls: dict[int, _Call] = field(default_factory=dict[int, _Call])
    finish_reason: str | None = None
    logprobs: list[JsonValue] = field(default_factory=list[JsonValue])
    extra: list[JsonObject] = field(default_factory=list[JsonObject])

    def call(self, index: int) -> _Call:
        return self.calls.setdefault(index, _Call())

    def take_text(self, piece: Text) -> None:
        match piece.part:
            case "text":
                self.text.append(piece.text)
            case "reasoning":
                self.reasoning.append(piece.text)
            case "refusal":
                self.refusal.append(piece.text)
            case _:
                self.call(piece.call).arguments.append(piece.text)
        if piece.logprobs is not None:
            self.logprobs.append(piece.logprobs)

    def choice(self, index: int) -> Choice:
        return Choice(
            index=index,
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            refusal="".join(self.refusal),
            tool_calls=[
                ToolCall(id=call.id, name=call.name, arguments="".join(call.arguments))
                for _, call in sorted(self.calls.items())
            ],
            finish_reason=self.finish_reason,
            logprobs=self.logprobs,
            extra=self.extra,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """What a run has put out."""

    choices: list[Choice]
    """Those of which there is anything, by index."""
    native: JsonObject | None = None
    """The final response object of a Responses upstream."""

    @property
    def first(self) -> Choice:
        """Choice 0, which may be empty."""
        return self.choices[0] if self.choices and self.choices[0].index == 0 else Choice()


class OutputFold:
    """Folds pieces into an `Output`."""

    def __init__(self) -> None:
        self._drafts: dict[int, _Draft] = {}
        self._native: JsonObject | None = None

    def take(self, piece: Piece) -> None:
        match piece:
            case Text(part="text" | "reasoning" | "refusal" | "tool_call"):
                self._draft(piece.choice).take_text(piece)
            case OpenPart(part="tool_call"):
                call = self._draft(piece.choice).call(piece.index)
                # Fragments of parallel calls take turns: a call that is opened again carries no name any more.
                call.id, call.name = piece.id or call.id, piece.name or call.name
            case Finish():
                self._draft(piece.choice).finish_reason = piece.reason
            case Logprobs():
                self._draft(piece.choice).logprobs.append(piece.logprobs)
            case Extra():
                self._draft(piece.choice).extra.append(piece.fields)
            case Native():
                response = piece.event.get("response")
                if piece.event.get("type") in _LAST_EVENTS and isinstance(response, dict):
                    self._native = response
            case _:
                pass

    def _draft(self, choice: int) -> _Draft:
        return self._drafts.setdefault(choice, _Draft())

    def output(self) -> Output:
        return Output([draft.choice(index) for index, draft in sorted(self._drafts.items())], self._native)


def output_of(entries: Iterable[Entry], run: int = ROOT) -> Output:
    """The output of a run, folded from entries that stand."""
    parts, fold = Parts(run), OutputFold()
    for entry in entries:
        piece = parts.read(entry)
        if piece is not None:
            fold.take(piece)
    return fold.output()
