"""Entries of one run, read as pieces of its output."""

from typing import Final, NamedTuple, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from tailrace.schemas import ROOT, Entry, Extra, Finish, Logprobs, Native, OpenPart, chunk_field
from tailrace.views._fields import JsonObject, json_object, run_of
from tailrace.views._standing import DELTA


class Text(NamedTuple):
    """A piece of text, and the part of the output that it belongs to."""

    part: str
    choice: int
    call: int
    """Which tool call of the choice; 0 for other parts."""
    text: str
    logprobs: JsonValue = None


_Model = TypeVar("_Model", bound=BaseModel)

Piece = Text | OpenPart | Logprobs | Finish | Extra | Native

#: The part of text whose opening this version cannot read: text of a part that it does not know, shown by no view.
UNKNOWN_PART: Final = "unknown"

_MODELS: Final[dict[str, type[OpenPart | Logprobs | Finish | Extra | Native]]] = {
    "open": OpenPart,
    "logprobs": Logprobs,
    "finish": Finish,
    "extra": Extra,
    "native": Native,
}


class Parts:
    """Knows the part that a run's chunks belong to."""

    __slots__ = ("_field", "_messages", "choice", "index", "part", "run")

    def __init__(self, run: int = ROOT) -> None:
        self.run = run
        self.part: str = "text"
        self.choice = 0
        self.index = 0
        self._field = chunk_field(run)
        self._messages: list[int] = []

    @property
    def answering(self) -> bool:
        """Whether chunks are text of the answer: the text of choice 0."""
        return self.part == "text" and self.choice == 0

    def read(self, entry: Entry) -> Piece | None:
        """What an entry says of this run's output. None if nothing, or nothing that this version knows."""
        if entry.field == self._field:
            return Text(self.part, self.choice, self.index, entry.value)
        if entry.field != DELTA:
            return None
        fields = json_object(entry.value)
        return self.read_delta(fields) if run_of(fields) == self.run else None

    def read_delta(self, fields: JsonObject) -> Piece | None:
        """As `read`, for the fields of a delta record of this run."""
        delta = fields.get("delta")
        kind = delta.get("type") if isinstance(delta, dict) else None
        model = _MODELS.get(kind) if isinstance(kind, str) else None
        if model is None:
            return None
        piece = _validated(model, delta)
        if model is OpenPart:
            # A part of a newer writer is opened too: its text must not be taken for the text of the part before.
            known = piece if isinstance(piece, OpenPart) else None
            self.part = known.part if known else UNKNOWN_PART
            self.choice, self.index = (known.choice, known.index) if known else (0, 0)
        return self._text_of(piece.event) or piece if isinstance(piece, Native) else piece

    def _text_of(self, event: JsonObject) -> Text | None:
        """The text in a Responses event that was stored whole. The n-th message of the output is choice n.

        Source: platform.openai.com/docs/api-reference/responses-streaming.
        """
        kind, output = event.get("type"), event.get("output_index", 0)
        if not isinstance(output, int):
            return None
        if kind == "response.output_item.added":
            item = event.get("item")
            if isinstance(item, dict) and item.get("type") == "message":
                self._message(output)
        elif kind == "response.output_text.delta":
            text = event.get("delta")
            if isinstance(text, str):
                return Text("text", self._message(output), 0, text, event.get("logprobs") or None)
        return None

    def _message(self, output: int) -> int:
        if output not in self._messages:
            self._messages.append(output)
        return self._messages.index(output)


def _validated(model: type[_Model], delta: JsonValue) -> _Model | None:
    try:
        return model.model_validate(delta)
    except ValidationError:
        return None
