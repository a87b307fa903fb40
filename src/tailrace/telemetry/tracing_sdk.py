"""OpenTelemetry's SDK for a process of ours, if its environment asks for traces. A library never calls this.

The variables are the standard's (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables); the SDK reads
samplers, limits, batches, headers, time-outs and certificates itself. What the standard leaves to whoever sets the SDK up:

- traces are exported if `OTEL_TRACES_EXPORTER` says so, or if it is not set and there is an OTLP endpoint. (By the standard
  they are exported to localhost without either: a worker that nobody has told of a collector would knock for ever.)
- `otlp` is OTLP over HTTP with protobuf, unless `OTEL_EXPORTER_OTLP_PROTOCOL` says otherwise and such an exporter is installed.
- `console` writes to standard error: standard output is a command's own.
"""

import os
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any, Final

from tailrace.schemas import InvalidRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
#: What a protocol's exporter is registered as.
_EXPORTERS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc", "http/json": "otlp_json_http"}
#: How long what is left may take at the end.
_LAST_S: Final = 5.0
_GROUP: Final = "opentelemetry_traces_exporter"


def exporters_asked_for(environment: Mapping[str, str]) -> list[str]:
    """The exporters that the environment names; empty: nobody wants traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    given = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if not given:
        given = "otlp" if any(environment.get(name, "").strip() for name in _ENDPOINTS) else "none"
    return [name for each in given.split(",") if (name := each.strip()) not in ("", "none")]


@contextmanager
def traces(service: str) -> Generator[None]:
    """Spans of the block are exported as the environment says; at its end, what is left of them.

    `service` is the name where the environment gives none. A provider that is there already (as under
    `opentelemetry-instrument`) is left as it is. Raises: InvalidRequest if what is asked for is not there.
    """
    names = exporters_asked_for(os.environ)
    if not names:
        yield
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidRequest(
            f"the environment asks for traces, which need {error.name or 'packages'}: pip install 'tailrace[tracing]' "
            "(or set OTEL_SDK_DISABLED=true)"
        ) from error
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield
        return
    named = bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({"service.version": version("tailrace"), **({} if named else {"service.name": service})})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporters = [_exporter(name) for name in names]
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # A collector that is away is tried again for ten seconds with each batch: a process that was told to end cannot wait.
        impatience = threading.Timer(_LAST_S, _give_up, [exporters])
        impatience.daemon = True
        impatience.start()
        provider.shutdown()
        impatience.cancel()


def _give_up(exporters: Sequence["SpanExporter"]) -> None:
    for exporter in exporters:
        exporter.shutdown()


def _exporter(name: str) -> "SpanExporter":
    """Raises: InvalidRequest if it is not installed, or its variables make no sense."""
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    registered = name
    if name == "otlp":
        protocol = next((said for each in _PROTOCOLS if (said := os.environ.get(each, "").strip())), "http/protobuf")
        registered = _EXPORTERS.get(protocol, protocol)
    found = next(iter(entry_points(group=_GROUP, name=registered)), None)
    if found is None:
        known = ", ".join(sorted({each.name for each in entry_points(group=_GROUP)}))
        raise InvalidRequest(
            f"no exporter of traces {registered!r} is installed (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_PROTOCOL): "
            f"there is {known}, and otlp for OTLP over HTTP"
        )
    make: Any = found.load()
    try:
        exporter: SpanExporter = make()
    except ValueError as error:
        raise InvalidRequest(f"the exporter of traces {registered!r} cannot be set up: {error}") from error
    return exporter
