"""What the readers of a job are given: its text, events or records, each reader's own iterator over what all share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

from tailrace.consumer import Consumer, Kind, Stream
from tailrace.schemas import (
    Chunk,
    ChunkRecord,
    EndRecord,
    Entry,
    ErrorDetail,
    EventsVersion,
    JobCancelled,
    JobEnded,
    JobExpired,
    JobFailed,
    Position,
    Record,
    Result,
    Status,
    StreamEvent,
    StreamRewound,
    UnknownRecord,
    decode,
)
from tailrace.views import EventsView, Rewound, TextView

T = TypeVar("T")


def raise_unless_well(job_id: str, end: EndRecord | None, *, result: Result | None = None) -> None:
    """Raises: JobFailed, JobCancelled or JobExpired if the job ended so."""
    error = ill_end(job_id, end)
    if error is not None:
        error.result = result
        raise error


def ill_end(job_id: str, end: EndRecord | None) -> JobEnded | None:
    """What readers of a job that ended badly get; None if it ended well, or has not."""
    if end is None or end.status.well:
        return None
    match end.status:
        case Status.CANCELLED:
            return JobCancelled(job_id)
        case Status.EXPIRED:
            return JobExpired(job_id)
        case _:
            return JobFailed(job_id, end.error or ErrorDetail(type="unknown", message="the job failed"))


class JobStream(Stream[T]):
    """Ends with the job's own error, if it has one."""

    __slots__ = ()

    def finish(self, end: EndRecord | None) -> None:
        raise_unless_well(self._job_id, end)


class TextStream(JobStream[Chunk]):
    """Output text. Raises: StreamRewound, or hands it to `on_rewind`."""

    __slots__ = ("_on_rewind",)

    def __init__(
        self,
        consumer: Consumer,
        job_id: str,
        after: Position,
        on_rewind: Literal["raise"] | Callable[[StreamRewound], object],
    ) -> None:
        # Whatever else a view of text gives, `shown` takes out.
        super().__init__(consumer.tails, job_id, cast("Kind[Chunk]", _TEXT), after)
        self._on_rewind = on_rewind

    def shown(self, items: Iterable[Chunk | Rewound]) -> Iterator[Chunk]:
        for item in items:
            if not isinstance(item, Rewound):
                yield item
                continue
            rewound = StreamRewound(self._job_id, item.position, item.text_before)
            if isinstance(self._on_rewind, str):
                raise rewound
            self._on_rewind(rewound)


class EventStream(JobStream[StreamEvent]):
    """Events of all runs. Each reader gets its own: what it does to them shows nowhere else."""

    __slots__ = ()

    def __init__(
        self,
        consumer: Consumer,
        job_id: str,
        version: EventsVersion,
        after: Position,
        filters: Mapping[str, Sequence[str] | None],
    ) -> None:
        words = tuple((name, None if words is None else tuple(words)) for name, words in filters.items())
        given: dict[str, Any] = dict(words)
        kind = Kind[StreamEvent](("events", version, words), lambda: EventsView(job_id, version, **given), _never)
        super().__init__(consumer.tails, job_id, kind, after)

    def shown(self, items: Iterable[StreamEvent]) -> Iterator[StreamEvent]:
        return map(_copied, items)


class RecordStream(JobStream[Record | UnknownRecord]):
    """Records as they are."""

    __slots__ = ()

    def __init__(self, consumer: Consumer, job_id: str, after: Position) -> None:
        super().__init__(consumer.tails, job_id, _RECORDS, after)

    def shown(self, items: Iterable[Record | UnknownRecord]) -> Iterator[Record | UnknownRecord]:
        return (item if isinstance(item, ChunkRecord) else item.model_copy(deep=True) for item in items)


class _RecordsView:
    """A view that shows the records themselves."""

    def __init__(self) -> None:
        self.end: EndRecord | None = None

    def resume(self, position: Position) -> None:
        pass

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Record | UnknownRecord]:
        if not show:
            return []
        records = [decode(entry) for entry in entries]
        if isinstance(records[-1], EndRecord):
            self.end = records[-1]
        return records


def _only_chunks(items: list[Chunk | Rewound]) -> bool:
    return not any(isinstance(item, Rewound) for item in items)


def _only_text(items: list[Record | UnknownRecord]) -> bool:
    """Nothing else of what a record may hold keeps a reader from writing into it."""
    return all(isinstance(item, ChunkRecord) for item in items)


def _never(_: list[StreamEvent]) -> bool:
    return False


def _copied(value: Any) -> Any:
    """A copy of what JSON can hold: `copy.deepcopy` takes ten times as long."""
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_copied(part) for part in cast("list[object]", value)]
    return value


_TEXT: Final = Kind[Chunk | Rewound]("text", TextView, _only_chunks, acts=True)
_RECORDS: Final = Kind[Record | UnknownRecord]("records", _RecordsView, _only_text)
