"""A job's text, events and records as events of a stream. Pure.

Every stream ends with an event named `end`, at the position behind which there is nothing: a browser that comes back with
it is told to stay away.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from tailrace.gateway.streams import Encoded, Kind, Wire, json_payload, ndjson_line, sse_event
from tailrace.schemas import Chunk, EndRecord, Entry, EventsVersion, Position, StreamEvent, decode
from tailrace.views import EventsView, Rewound, TextView, View

T = TypeVar("T")

_LINES: Final[Mapping[Wire, Callable[..., bytes]]] = {"sse": sse_event, "ndjson": ndjson_line}

#: What an item is sent as: its position, the event's name (None: a message), its fields.
_Item = tuple[Position, str | None, Any]


class ViewEncoder:
    """Encodes the items of a view, and the job's end."""

    def __init__(self, view: View[Any], item: Callable[[Any], _Item], wire: Wire) -> None:
        self._view, self._item, self._line = view, item, _LINES[wire]

    @property
    def end(self) -> EndRecord | None:
        return self._view.end

    def resume(self, position: Position) -> None:
        self._view.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Encoded]:
        items = [self._item(item) for item in self._view.feed(entries, show=show)]
        if show and self._view.end is not None:
            items.append(_end(self._view.end))
        return _encoded(items, self._line)


class RecordsEncoder:
    """Encodes records as they are."""

    def __init__(self, wire: Wire) -> None:
        self.end: EndRecord | None = None
        self._line = _LINES[wire]

    def resume(self, position: Position) -> None:
        """Records do not depend on what stands before them."""

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Encoded]:
        if not show:
            return []
        items: list[_Item] = []
        for entry in entries:
            record = decode(entry)
            if isinstance(record, EndRecord):
                self.end = record
                items.append(_end(record))
            else:
                # Whose job it is concerns the gateway only.
                items.append(
                    (entry.position, None, record.model_dump(mode="json", exclude_none=True, exclude={"tenant"}))
                )
        return _encoded(items, self._line)


def text_kind(wire: Wire) -> Kind:
    """`{"text": ...}`; `rewind` with the text that stands instead of what was shown; `end`."""
    return Kind(("text", wire), lambda _: ViewEncoder(TextView(), _text, wire))


def events_kind(wire: Wire, version: EventsVersion, filters: Mapping[str, tuple[str, ...] | None]) -> Kind:
    """StreamEvents; `end`. Raises: InvalidRequest for a version or filters that there are not."""
    given: dict[str, Any] = dict(filters)
    EventsView("", version, **given)
    name = ("events", wire, version, *sorted(given.items()))
    return Kind(name, lambda job_id: ViewEncoder(EventsView(job_id, version, **given), _event, wire))


def records_kind(wire: Wire) -> Kind:
    """The records of the log; the last one is `end`."""
    return Kind(("records", wire), lambda _: RecordsEncoder(wire))


def _text(item: Chunk | Rewound) -> _Item:
    if isinstance(item, Rewound):
        return item.position, "rewind", {"text_before": item.text_before}
    return item.position, None, {"text": str(item)}  # a plain one: JSON of a subclass takes four times as long


def _event(event: StreamEvent) -> _Item:
    return event["position"], None, event


def _end(record: EndRecord) -> _Item:
    return record.position, "end", record.model_dump(mode="json", exclude_none=True, exclude={"position"})


def _encoded(items: Sequence[_Item], line: Callable[..., bytes]) -> list[Encoded]:
    """An event has an id only if it is the last of its record: who is cut off before that gets them all again, and misses
    none."""
    encoded: list[Encoded] = []
    for number, (position, event, fields) in enumerate(items):
        last = number + 1 == len(items) or items[number + 1][0] != position
        encoded.append(Encoded(position, line(json_payload(fields), id=position if last else None, event=event)))
    return encoded
