"""The streams of the OpenAI API as server-sent events. Pure."""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from tailrace.gateway.errors import ApiError
from tailrace.gateway.openai.refusals import end_refusal
from tailrace.gateway.streams import Encoded, Kind, StreamCut, json_payload, sse_event
from tailrace.schemas import END, EndRecord, Entry, JsonObject, Position
from tailrace.views import ChatChunksView, CompletionsView, OpenAIView, Rewound
from tailrace.views.responses import ResponsesView

#: How the event begins after which a stream of chunks breaks off.
ERROR_EVENT: Final = b'data: {"error":'
_DONE: Final = Encoded(END, b"data: [DONE]\n\n")


class Refused(StreamCut):
    """The job ended badly, or what was shown of it is void. Whoever has been told nothing yet can be answered with the refusal
    instead."""

    def __init__(self, refusal: ApiError, position: Position) -> None:
        super().__init__(refusal.detail, [_error(refusal.body, position)])
        self.refusal = refusal


class ChunksEncoder:
    """Chunks of a chat or a legacy completion, then `[DONE]`. They cannot be taken back: on a rewind and on a bad end comes
    an error, and the connection is dropped."""

    def __init__(self, view: OpenAIView) -> None:
        self._view = view

    @property
    def end(self) -> EndRecord | None:
        return self._view.end

    def resume(self, position: Position) -> None:
        self._view.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Encoded]:
        events: list[Encoded] = []
        for item in self._view.feed(entries, show=show):
            if isinstance(item, Rewound):
                rewound = Refused(_rewound(self._view.job_id), item.position)
                rewound.events = [*events, *rewound.events]
                raise rewound
            # The packages of OpenAI drop the ids of events: from them, the position can be learned here only.
            payload = json_payload({**item.body, "position": item.position})
            events.append(Encoded(item.position, sse_event(payload)))
        if not show or self._view.end is None:
            return events
        refusal = end_refusal(self._view.job_id, self._view.end)
        if refusal is None:
            return [*events, _DONE]
        refused = Refused(refusal, END)
        refused.events = [*events, *refused.events]
        raise refused


def chat_kind(*, include_usage: bool) -> Kind:
    """The chunks of a chat completion."""
    return Kind(
        ("openai.chat", include_usage),
        lambda job_id: ChunksEncoder(ChatChunksView(job_id, include_usage=include_usage)),
    )


def completions_kind(*, include_usage: bool) -> Kind:
    """The chunks of a legacy completion."""
    return Kind(
        ("openai.completions", include_usage),
        lambda job_id: ChunksEncoder(CompletionsView(job_id, include_usage=include_usage)),
    )


class ResponseEncoder:
    """The events of a response, then `[DONE]`, which Open Responses wants and OpenAI's packages know. How it ended is an
    event too, so the stream of any job that ended ends well."""

    def __init__(self, view: ResponsesView, *, lines: bool) -> None:
        """`lines`: of JSON, instead of server-sent events."""
        self._view, self._lines = view, lines

    @property
    def end(self) -> EndRecord | None:
        return self._view.end

    def resume(self, position: Position) -> None:
        self._view.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Encoded]:
        events: list[Encoded] = []
        for item in self._view.feed(entries, show=show):
            if isinstance(item, Rewound):
                error = [] if self._lines else [_error(_rewound(self._view.job_id).body, item.position)]
                raise StreamCut("the server lost what was shown", [*events, *error])
            payload = json_payload(item.body)
            event = b"%b\n" % payload if self._lines else sse_event(payload, event=str(item.body["type"]))
            events.append(Encoded(item.position, event))
        return [*events, _DONE] if show and self._view.end is not None and not self._lines else events


def response_kind(fields: JsonObject, *, lines: bool = False) -> Kind:
    """A response's events. `fields`: what it says of its request; the same for all readers of one job."""
    return Kind(("openai.responses", lines), lambda job_id: ResponseEncoder(ResponsesView(job_id, fields), lines=lines))


CHUNKS: Final[dict[Literal["chat", "completions"], Callable[..., Kind]]] = {
    "chat": chat_kind,
    "completions": completions_kind,
}


def _error(body: JsonObject, position: Position) -> Encoded:
    return Encoded(position, sse_event(json_payload(body)))


def _rewound(job_id: str) -> ApiError:
    message = (
        f"the stream of job {job_id!r} was rewound: a restarted attempt went another way, and what came before is void; "
        "resume the job from its beginning"
    )
    return ApiError(410, message, type="tailrace_error", code="stream_rewound")
