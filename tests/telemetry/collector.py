"""A collector of traces: OTLP over HTTP on loopback, in this process."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Told:
    """A span as it came over the wire."""

    name: str
    kind: int
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


class Collector:
    """What was exported so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.raw = bytearray()
        self._spans: list[Told] = []
        self._lock = threading.Lock()

    @property
    def spans(self) -> list[Told]:
        with self._lock:
            return list(self._spans)

    def named(self, begin: str) -> list[Told]:
        return [span for span in self.spans if span.name.startswith(begin)]

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.raw += body
            for resource in request.resource_spans:
                service = next(
                    each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
                )
                for scope in resource.scope_spans:
                    self._spans += [_told(span, service) for span in scope.spans]


def _told(span: Any, service: str) -> Told:
    return Told(
        name=span.name,
        kind=span.kind,
        service=service,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        failed=span.status.code == 2,
        attributes={each.key: _value(each.value) for each in span.attributes},
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def collecting() -> Generator[Collector]:
    """A collector that listens while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        collector: ClassVar[Collector]

        def do_POST(self) -> None:  # http.server's name
            self.collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]  # nothing to say

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Handler.collector
        finally:
            server.shutdown()
            thread.join()
