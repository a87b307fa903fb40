"""What is known of one run: its start event, the part that is open, and the entries that it was folded from."""

import re
from typing import Final, NamedTuple

from pydantic import ValidationError

from tailrace.schemas import Entry, EventRecord, decode
from tailrace.views._fields import JsonObject, Point
from tailrace.views._output import Output, output_of
from tailrace.views._parts import Parts, Piece
from tailrace.views._standing import EVENT, drop_after, standing

CUSTOM_EVENT: Final = "on_custom_event"
_EVENT: Final = re.compile(r"on_(?P<kind>[a-z][a-z_]*)_(?P<phase>start|stream|end|error)", re.ASCII)


class Identity(NamedTuple):
    """What the events of a run have in common: the fields of its start event."""

    kind: str
    """What runs: llm, chat_model, chain, tool ... A custom event is of the kind that is its name."""
    name: str
    run_id: str
    parents: list[int]
    tags: list[str]
    metadata: JsonObject


class Run:
    """One run of a job, folded from its entries that stand."""

    __slots__ = ("_kept", "_parts", "ended", "identity", "number", "told")

    def __init__(self, number: int) -> None:
        self.number = number
        self.identity: Identity | None = None
        """None until a start event stands."""
        self.ended = False
        self.told = False
        """Whether any event of the run ever passed the filter."""
        self._parts = Parts(number)
        self._kept: list[Entry] = []

    def take(self, entry: Entry) -> Piece | EventRecord | None:
        """Keep and fold an entry of this run; what it says, if there is anything to show."""
        self._kept.append(entry)
        return self._fold(entry)

    def _fold(self, entry: Entry) -> Piece | EventRecord | None:
        return self._fold_event(entry) if entry.field == EVENT else self._parts.read(entry)

    def _fold_event(self, entry: Entry) -> EventRecord | None:
        event = _event_in(entry)
        if event is None or event.event == CUSTOM_EVENT:
            return event
        _, phase = split_event(event.event)
        if phase == "start":
            if self.identity is not None:
                return None
            self.identity = self.identify(event)
        elif phase in ("end", "error"):
            self.ended = True
        return event if phase else None

    def identify(self, event: EventRecord) -> Identity | None:
        """Whose event it is: what it does not say itself is as in the run's start event. None if nobody says."""
        start = self.identity
        kind, phase = split_event(event.event)
        name = event.name or (start.name if start and phase else kind)
        run_id = event.run_id or (start.run_id if start else None)
        if not name or not run_id:
            return None
        return Identity(
            kind=kind if phase else name,
            name=name,
            run_id=run_id,
            parents=event.parents if event.parents is not None else start.parents if start else [],
            tags=event.tags if event.tags is not None else start.tags if start else [],
            metadata=event.metadata if event.metadata is not None else start.metadata if start else {},
        )

    def rewind(self, entry: Entry) -> None:
        """Take a rewind of this run."""
        self._kept.append(entry)
        self._fold_again()

    def lose(self, top: Point) -> bool:
        """Forget what the server has lost, everything after `top`; whether there was anything."""
        lost = drop_after(self._kept, top)
        if lost:
            self._fold_again()
        return lost

    def _fold_again(self) -> None:
        self.identity, self.ended, self._parts = None, False, Parts(self.number)
        for entry in standing(self._kept, self.number):
            self._fold(entry)

    def output(self) -> Output:
        return output_of(standing(self._kept, self.number), self.number)


def split_event(event: str) -> tuple[str, str]:
    """Kind of runnable and phase of an event's name; empty if it is none that this version knows the form of."""
    match = _EVENT.fullmatch(event)
    return (match["kind"], match["phase"]) if match is not None else ("", "")


def _event_in(entry: Entry) -> EventRecord | None:
    try:
        event = decode(entry)
    except ValidationError:
        return None
    return event if isinstance(event, EventRecord) else None
