"""Events of all runs, in the shape of LangChain's StreamEvent."""

from collections.abc import Sequence
from typing import Final, get_args

from pydantic import JsonValue

from tailrace.schemas import (
    REWIND_EVENT,
    ROOT,
    Choice,
    EndRecord,
    Entry,
    ErrorDetail,
    EventRecord,
    EventsVersion,
    InvalidRequest,
    Native,
    Position,
    Status,
    StreamEvent,
    chunk_run,
)
from tailrace.views._fields import JsonObject, json_dict, json_object, number, point, read_end, run_of, string
from tailrace.views._filter import EventFilter, Words
from tailrace.views._messages import llm_result, message, message_chunk
from tailrace.views._output import Output
from tailrace.views._parts import Piece, Text
from tailrace.views._runs import CUSTOM_EVENT, Identity, Run
from tailrace.views._standing import ATTEMPT, DELTA, END_RECORD, EVENT, JOB, REWIND, STANDS_AT, Cursor

_ENDED: Final = {
    Status.CANCELLED: "the job was cancelled",
    Status.EXPIRED: "the job's deadline passed before it ended",
}


class EventsView:
    """The events of a job and all its runs, in log order.

    - A run's start event is shown once while it stands; later events of the run carry its name, tags and metadata.
    - Chunks are `on_{kind}_stream` events of their run. Text of another choice than 0 has `data["choice"]`.
    - The root's `on_{kind}_end` or `on_{kind}_error` is made from the job's end; a run that was still going then ends with
      `on_{kind}_error`. They carry no input: readers never get the prompt.
    - Void records are told by a custom event named REWIND_EVENT for the run: `data["position"]` is the last of it that
      stands, `data["text"]` its text. It passes the filter where the run's own events do, or where its own name does,
      so that nobody who was shown text misses that it is void.
    - What v1 does not have in LangChain (custom and error events) is shown there too; only `parent_ids` is empty.
    - A job that ends before any run started (cancelled while queued) has no events: there is no run to tell about.
      `end` is set as ever.

    What is shown depends on the log alone, not on how it was cut into calls. Raises: InvalidRequest.
    """

    def __init__(
        self,
        job_id: str,
        version: EventsVersion = "v2",
        *,
        include_names: Words = None,
        include_types: Words = None,
        include_tags: Words = None,
        exclude_names: Words = None,
        exclude_types: Words = None,
        exclude_tags: Words = None,
    ) -> None:
        if version not in get_args(EventsVersion):
            raise InvalidRequest(f"version must be 'v1' or 'v2', not {version!r}")
        self.job_id = job_id
        self.version: EventsVersion = version
        self.end: EndRecord | None = None
        self._filter = EventFilter(
            include_names=include_names,
            include_types=include_types,
            include_tags=include_tags,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
            exclude_tags=exclude_tags,
        )
        self._runs: dict[int, Run] = {}
        self._cursor = Cursor()
        self._model: str | None = None
        self._attempt = 0
        self._ts = 0

    def resume(self, position: Position) -> None:
        self._cursor.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for entry in entries:
            shown = self._fold(entry)
            if show:
                events.extend(event for event in shown if event is not None)
            self._cursor.at = entry.position
        return events

    def _fold(self, entry: Entry) -> Sequence[StreamEvent | None]:
        kind = entry.field
        run = chunk_run(kind)
        if run is not None:
            return (self._take(self._run(run), entry),)
        if kind in (DELTA, EVENT, REWIND):
            fields = json_object(entry.value)
            run = run_of(fields)
            if run is None:
                return ()
            take = self._rewind if kind == REWIND else self._take
            return (take(self._run(run), entry),)
        if kind in STANDS_AT:
            return self._stands(entry)
        if kind == JOB:
            fields = json_object(entry.value)
            self._model = string(fields.get("model"))
            self._ts = number(fields.get("ts"), self._ts)
        return ()

    def _run(self, number: int) -> Run:
        run = self._runs.get(number)
        if run is None:
            run = self._runs[number] = Run(number)
        return run

    def _take(self, run: Run, entry: Entry) -> StreamEvent | None:
        said = run.take(entry)
        if said is None:
            return None
        if isinstance(said, EventRecord):
            self._ts = said.ts
            identity = run.identify(said)
            if identity is None:
                return None
            return self._shown(run, identity, said.event, self._data(run, identity.kind, said), said.position)
        if run.identity is None:
            return None
        data = _stream_data(run.identity.kind, said)
        if data is None:
            return None
        return self._shown(run, run.identity, f"on_{run.identity.kind}_stream", data, entry.position)

    def _data(self, run: Run, kind: str, said: EventRecord) -> JsonObject:
        """What an event of a run carries; the end of a run whose output is its text carries that."""
        if said.event != f"on_{kind}_end" or "output" in said.data:
            return said.data
        finish_reason, usage = string(said.data.get("finish_reason")), json_dict(said.data.get("usage")) or None
        return {"output": self._output(kind, run.output(), finish_reason, usage)}

    def _shown(
        self, run: Run, identity: Identity, event: str, data: JsonObject, position: Position
    ) -> StreamEvent | None:
        if not self._filter.wants(identity.name, identity.kind, identity.tags):
            return None
        run.told = True
        return self._event(identity, event, data, position)

    def _event(self, identity: Identity, event: str, data: JsonObject, position: Position) -> StreamEvent:
        return {
            "event": event,
            "name": identity.name,
            "run_id": identity.run_id,
            "parent_ids": self._run_ids(identity.parents) if self.version == "v2" else [],
            # Copies: what a reader does to its event must not show in the next one.
            "tags": identity.tags.copy(),
            "metadata": identity.metadata.copy(),
            "data": data,
            "position": position,
            "job_id": self.job_id,
            "attempt": self._attempt,
            "ts": self._ts,
        }

    def _run_ids(self, parents: list[int]) -> list[str]:
        runs = [self._runs.get(number) for number in parents]
        return [run.identity.run_id for run in runs if run is not None and run.identity is not None]

    def _rewind(self, run: Run, entry: Entry) -> StreamEvent | None:
        to = json_object(entry.value).get("to")
        if point(to) is None:
            return None
        before = run.identity
        run.rewind(entry)
        return self._rewound(run, before, to, entry.position)

    def _rewound(self, run: Run, before: Identity | None, to: JsonValue, position: Position) -> StreamEvent | None:
        """The event that tells of void records; `before` is what the run was while they stood."""
        identity = run.identity or before
        if identity is None or not self._filter.wants_rewind(told=run.told):
            return None
        identity = identity._replace(kind=REWIND_EVENT, name=REWIND_EVENT)
        data: JsonObject = {"position": to, "text": run.output().first.text}
        return self._event(identity, CUSTOM_EVENT, data, position)

    def _stands(self, entry: Entry) -> list[StreamEvent | None]:
        """Take an attempt or the end: both tell whether the server has lost records."""
        fields = json_object(entry.value)
        self._ts = number(fields.get("ts"), self._ts)
        if entry.field == ATTEMPT:
            self._attempt = number(fields.get("attempt"), self._attempt)
        stands = fields.get(STANDS_AT[entry.field])
        top = self._cursor.lost(stands)
        unseen, self._cursor.unseen = self._cursor.unseen, False
        events: list[StreamEvent | None] = []
        if top is not None:
            for _, run in sorted(self._runs.items()):
                before, going = run.identity, not run.ended
                # Of a reader who saw what this view did not, any run that was still going may have shown more.
                if run.lose(top) or (unseen and going):
                    events.append(self._rewound(run, before, stands, entry.position))
        if entry.field == END_RECORD:
            self.end = read_end(entry)
            # The last to begin is the first to end: parents after their children.
            events.extend(self._run_end(run, self.end) for _, run in sorted(self._runs.items(), reverse=True))
        return events

    def _run_end(self, run: Run, end: EndRecord) -> StreamEvent | None:
        """The last event of a run whose job is over. None if it has not started, or its own last event stands in the log."""
        if run.identity is None or run.ended:
            return None
        kind, phase = run.identity.kind, "end"
        if run.number == ROOT and end.status.well:
            data: JsonObject = {"output": self._output(kind, run.output(), end.finish_reason, end.usage)}
        else:
            phase = "error"
            data = {"error": _error(end).model_dump(mode="json")}
        return self._shown(run, run.identity, f"on_{kind}_{phase}", data, end.position)

    def _output(self, kind: str, output: Output, finish_reason: str | None, usage: JsonObject | None) -> JsonValue:
        if kind == "chat_model":
            first = output.first
            if first.finish_reason is None:
                first = first.model_copy(update={"finish_reason": finish_reason})
            return message(first, model=self._model, usage=usage)
        if kind == "llm" and self.version == "v2":
            return llm_result(output.choices or [Choice(finish_reason=finish_reason)])
        return output.first.text


def _stream_data(kind: str, piece: Piece) -> JsonObject | None:
    """What a stream event carries. None if a run of this kind streams nothing of that sort: only chat models have more
    than text."""
    chunk: JsonValue
    if kind == "chat_model":
        chunk = message_chunk(piece)
    else:
        chunk = piece.text if isinstance(piece, Text) and piece.part == "text" else None
    if chunk is None:
        return None
    if isinstance(piece, Native) or piece.choice == 0:
        return {"chunk": chunk}
    return {"chunk": chunk, "choice": piece.choice}


def _error(end: EndRecord) -> ErrorDetail:
    if end.status.well:
        return ErrorDetail(type="abandoned", message="the job ended without it")
    if end.status is Status.FAILED:
        return end.error or ErrorDetail(type="failed", message="the job failed")
    reason = end.error.message if end.error else _ENDED.get(end.status, f"the job ended as {end.status.value}")
    return ErrorDetail(type=end.status.value, message=reason)
