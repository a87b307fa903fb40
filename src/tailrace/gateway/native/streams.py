"""A job's streams over HTTP: text, events of all steps, records."""

from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import StreamingResponse

from tailrace.gateway.access import Asking, Principal
from tailrace.gateway.errors import ALWAYS, refusals
from tailrace.gateway.gateway import Gateway, Here
from tailrace.gateway.jobs import found_job, reader_of
from tailrace.gateway.native.encoders import events_kind, records_kind, text_kind
from tailrace.gateway.streams import EventStream, Kind, Wire
from tailrace.schemas import END, START, EventsVersion, Position, TailraceError, parse_position

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["streams"], responses=ALWAYS)

_STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events as they come, each `id` a position to resume from, `event: end` the last one.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}, "application/x-ndjson": {}},
    },
    204: {"description": "The position is the end: nothing follows. An EventSource stops at this."},
    **refusals(404, 410),
}

After = Annotated[str | None, Query(description="Resume just after this position: the `id` of an event.")]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="What an EventSource comes back with; stronger than `after`."),
]
Accept = Annotated[
    str | None,
    Header(description="`application/x-ndjson`: lines of JSON (id, event, data) instead of server-sent events."),
]
CancelOnDisconnect = Annotated[bool, Query(description="Cancel the job when this client goes away before its end.")]
Words = Annotated[list[str] | None, Query()]


class Asked:
    """Where a reader resumes, and how it wants what it reads."""

    def __init__(
        self,
        after: After = None,
        last_event_id: LastEventId = None,
        accept: Accept = None,
        cancel_on_disconnect: CancelOnDisconnect = False,  # a query parameter
    ) -> None:
        # An EventSource that comes back asks for the URL that it was opened with, `after` and all.
        self.after = Position(last_event_id or after or START)
        self.wire: Wire = "ndjson" if "application/x-ndjson" in (accept or "") else "sse"
        self.cancel_on_disconnect = cancel_on_disconnect


How = Annotated[Asked, Depends()]


@router.get("/stream", summary="The output text as it comes", response_class=StreamingResponse, responses=_STREAMED)
async def stream(job_id: str, gateway: Here, principal: Asking, how: How) -> Response:
    """Messages `{"text": ...}`; `event: rewind` with `{"text_before": ...}`: show that instead of all text so far, and go
    on; `event: end` with the job's status, finish reason, usage and error."""
    return await _streamed(gateway, principal, job_id, how, text_kind(how.wire))


@router.get("/events", summary="The events of all steps", response_class=StreamingResponse, responses=_STREAMED)
async def events(
    job_id: str,
    gateway: Here,
    principal: Asking,
    how: How,
    version: EventsVersion = "v2",
    include_names: Words = None,
    include_types: Words = None,
    include_tags: Words = None,
    exclude_names: Words = None,
    exclude_types: Words = None,
    exclude_tags: Words = None,
) -> Response:
    """Messages in the shape of LangChain's StreamEvent, with position, job_id, attempt and ts; `event: end` as in `/stream`."""
    filters = {
        "include_names": include_names,
        "include_types": include_types,
        "include_tags": include_tags,
        "exclude_names": exclude_names,
        "exclude_types": exclude_types,
        "exclude_tags": exclude_tags,
    }
    chosen = {name: None if words is None else tuple(sorted(words)) for name, words in filters.items()}
    return await _streamed(gateway, principal, job_id, how, events_kind(how.wire, version, chosen))


@router.get("/records", summary="The records of the log", response_class=StreamingResponse, responses=_STREAMED)
async def records(job_id: str, gateway: Here, principal: Asking, how: How) -> Response:
    """Messages are the records as they are, void ones and the rewinds that void them included; `event: end` is the last."""
    return await _streamed(gateway, principal, job_id, how, records_kind(how.wire))


async def _streamed(gateway: Gateway, principal: Principal, job_id: str, how: Asked, kind: Kind) -> Response:
    parse_position(how.after)
    job, overview = await found_job(gateway, job_id, principal)
    if how.after == END:
        return Response(status_code=204)

    async def cancel() -> None:
        with suppress(TailraceError):
            await job.cancel()

    return EventStream(
        reader_of(gateway, job_id, overview.job, kind, after=how.after),
        gateway.streams,
        wire=how.wire,
        headers={"X-Tailrace-Job-Id": job_id},
        on_leave=cancel if how.cancel_on_disconnect else None,
    )
