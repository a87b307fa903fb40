"""Spans, where somebody traces: over OpenTelemetry's API, which is used only if the process has loaded it already.

An application that traces has imported it, and has set its own tracer provider, which is the one that is used; the commands
do so in `tracing_sdk`. Anywhere else a span is `NOTHING`, which takes every call and does nothing: loading the API alone
would cost a producer 150 ms.

What is carried from process to process is the W3C trace context and nothing beside it. Baggage is not: whatever
an application keeps there would reach third parties.
"""

import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from tailrace.telemetry.current import job_fields

if TYPE_CHECKING:
    from opentelemetry import trace as api
    from opentelemetry.trace import Tracer

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value | None]
Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]

JOB_ID: Final = "tailrace.job.id"

_API: Final = "opentelemetry.trace"
_SCOPE: Final = "tailrace"
#: Version 00 of the W3C's Trace Context, and later ones as far as that one reads them.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
#: What the standard has everybody carry of it, at the least.
_TRACESTATE_CHARACTERS: Final = 512
#: Sampled, and random (level 2 of the standard): others may come to mean something.
_FLAGS: Final = 0x03
_MEMBER: Final = r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_TRACESTATE: Final = re.compile(rf"{_MEMBER}(?:,{_MEMBER}){{0,31}}", re.ASCII)
_ENTERED_NOTHING: Final = nullcontext()


class Span:
    """A span of ours; without one of OpenTelemetry's it does nothing. Never takes an exception's own text: it may quote."""

    __slots__ = ("_span",)

    def __init__(self, span: "api.Span | None" = None) -> None:
        self._span = span

    @property
    def recording(self) -> bool:
        """Whether anybody will see what is set: ask before working out what is costly."""
        return self._span is not None and self._span.is_recording()

    def set(self, attributes: Attributes) -> None:
        """Attributes that are None are left out."""
        if self._span is not None:
            self._span.set_attributes(_known(attributes))

    def rename(self, name: str) -> None:
        if self._span is not None:
            self._span.update_name(name)

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        if self._span is not None:
            self._span.add_event(name, _known(attributes or {}))

    def fail(self, error_type: str) -> None:
        """It ends in an error: a word for its kind, of few."""
        if self._span is not None:
            loaded = _loaded()
            self._span.set_attribute("error.type", error_type)
            if loaded is not None:
                self._span.set_status(loaded.Status(loaded.StatusCode.ERROR))

    def end(self) -> None:
        """Once."""
        if self._span is not None:
            self._span.end()

    def entered(self) -> AbstractContextManager[None]:
        """What is started in the block is below it. Not around a `yield`: whoever iterates would be in the block too."""
        return _ENTERED_NOTHING if self._span is None else _entered(self._span)

    def carrier(self) -> dict[str, str]:
        """Its context as W3C header fields; empty if there is none."""
        return {} if self._span is None else _carrier_of(self._span)


#: The span where nobody traces.
NOTHING: Final = Span()


class Received:
    """A context that came with a request or a job."""

    __slots__ = ("context",)

    def __init__(self, context: "api.SpanContext") -> None:
        self.context = context


def tracing() -> bool:
    """Whether spans are made in this process."""
    return _tracer() is not None


def start(
    name: str,
    kind: Kind = "INTERNAL",
    attributes: Attributes | None = None,
    *,
    parent: Received | None = None,
    linked: bool = False,
) -> Span:
    """A span below `parent`, else below the one that is entered; `linked` to its parent too. It must be ended.

    It carries the id of the job at hand.
    """
    tracer, loaded = _tracer(), _loaded()
    if tracer is None or loaded is None:
        return NOTHING
    job_id = job_fields().get("job_id")
    given = _known({**({} if job_id is None else {JOB_ID: job_id}), **(attributes or {})})
    above = None if parent is None else loaded.set_span_in_context(loaded.NonRecordingSpan(parent.context))
    links = [loaded.Link(parent.context)] if parent is not None and linked else None
    return Span(tracer.start_span(name, above, loaded.SpanKind[kind], given, links, set_status_on_exception=False))


@contextmanager
def spanning(span: Span) -> Generator[Span]:
    """The block is this span: entered, failed by what is raised in it, ended with it."""
    try:
        with span.entered():
            yield span
    except BaseException as error:
        span.fail(word_for(error))
        raise
    finally:
        span.end()


def word_for(error: BaseException) -> str:
    """The class of an error, without what it says."""
    return type(error).__qualname__


def carrier() -> dict[str, str]:
    """The context at hand, ours or the application's, as W3C header fields; empty if there is none."""
    loaded = _loaded()
    return {} if loaded is None else _carrier_of(loaded.get_current_span())


def ids() -> tuple[str, str] | None:
    """Trace and span id of the context at hand, in hex."""
    loaded = _loaded()
    if loaded is None:
        return None
    context = loaded.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


def received(carried: object) -> Received | None:
    """What `carrier` gave, read where it comes in: anybody may have written it. None if it is not as the standard has it."""
    loaded = _loaded()
    if loaded is None or not isinstance(carried, Mapping):
        return None
    fields = cast("Mapping[object, object]", carried)
    parent = fields.get("traceparent")
    if not isinstance(parent, str) or not _TRACEPARENT.fullmatch(parent):
        return None
    _, trace_id, span_id, flags = parent.split("-")
    state = fields.get("tracestate")
    return Received(
        loaded.SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=loaded.TraceFlags(int(flags, 16) & _FLAGS),
            trace_state=_state(loaded, state),
        )
    )


def _state(loaded: Any, state: object) -> "api.TraceState":
    kept: api.TraceState
    if not isinstance(state, str) or len(state) > _TRACESTATE_CHARACTERS or not _TRACESTATE.fullmatch(state):
        kept = loaded.TraceState()
    else:
        kept = loaded.TraceState.from_header([state])
    return kept


def _carrier_of(span: "api.Span") -> dict[str, str]:
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    fields = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    state = context.trace_state.to_header() if context.trace_state else ""
    if state and len(state) <= _TRACESTATE_CHARACTERS:
        fields["tracestate"] = state
    return fields


@contextmanager
def _entered(span: "api.Span") -> Generator[None]:
    loaded = _loaded()
    if loaded is None:
        yield
        return
    with loaded.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        yield


def _known(attributes: Attributes) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}


def _loaded() -> Any:
    """OpenTelemetry's API, if the process has it. Any: its type is a module's."""
    loaded = sys.modules.get(_API)
    # While another thread imports it, it is there in part.
    return loaded if hasattr(loaded, "use_span") else None


_kept: tuple[object, "Tracer"] | None = None


def _tracer() -> "Tracer | None":
    """Of the provider that the process has set; None if it has set none."""
    global _kept  # a process has one provider, and making a tracer of it is slow
    loaded = _loaded()
    if loaded is None:
        return None
    provider = loaded.get_tracer_provider()
    if isinstance(provider, loaded.ProxyTracerProvider):
        return None
    if _kept is None or _kept[0] is not provider:
        _kept = (provider, provider.get_tracer(_SCOPE, version("tailrace")))
    return _kept[1]
