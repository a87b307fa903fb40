"""From a job's batches of records to what its reader asked for: the views, driven."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeVar

from tailrace.consumer import Consumer
from tailrace.schemas import (
    Chunk,
    EndRecord,
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
from tailrace.views import EventsView, Rewound, TextView, View

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


async def _viewed(consumer: Consumer, job_id: str, after: Position, view: View[T]) -> AsyncGenerator[list[T]]:
    """What the view makes of each batch, from just after a position; then the end's error."""
    resumed = False
    async with aclosing(consumer.follow(job_id, after=after)) as batches:
        async for batch in batches:
            if batch.fresh and not resumed:
                resumed = True
                view.resume(after)
            items = view.feed(batch.entries, show=batch.fresh)
            if items:
                yield items
    raise_unless_well(job_id, view.end)


async def batches_of_chunks(
    consumer: Consumer,
    job_id: str,
    after: Position,
    on_rewind: Literal["raise"] | Callable[[StreamRewound], object],
) -> AsyncGenerator[list[Chunk]]:
    """Output text. Raises: StreamRewound, or hands it to `on_rewind`."""
    async with aclosing(_viewed(consumer, job_id, after, TextView())) as batches:
        async for items in batches:
            chunks: list[Chunk] = []
            for item in items:
                if isinstance(item, Rewound):
                    if chunks:
                        yield chunks
                        chunks = []
                    rewound = StreamRewound(job_id, item.position, item.text_before)
                    if on_rewind == "raise":
                        raise rewound
                    on_rewind(rewound)
                else:
                    chunks.append(item)
            if chunks:
                yield chunks


async def batches_of_events(
    consumer: Consumer,
    job_id: str,
    version: EventsVersion,
    after: Position,
    filters: Mapping[str, Sequence[str] | None],
) -> AsyncGenerator[list[StreamEvent]]:
    """Events of all runs."""
    given: dict[str, Any] = dict(filters)
    async with aclosing(_viewed(consumer, job_id, after, EventsView(job_id, version, **given))) as batches:
        async for events in batches:
            yield events


async def batches_of_records(
    consumer: Consumer, job_id: str, after: Position
) -> AsyncGenerator[list[Record | UnknownRecord]]:
    """Records as they are; then the end's error."""
    end: EndRecord | None = None
    async with aclosing(consumer.follow(job_id, after=after)) as batches:
        async for batch in batches:
            if batch.fresh:
                records = [decode(entry) for entry in batch.entries]
                yield records
                end = records[-1] if isinstance(records[-1], EndRecord) else None
    raise_unless_well(job_id, end)
