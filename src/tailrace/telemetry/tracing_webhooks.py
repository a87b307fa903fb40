"""The span of one try to tell a receiver of an ended job, below the attempt that ended it. Of its URL only the host is told."""

from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tailrace.telemetry.tracing import Span, received, spanning, start

_PORTS = {"http": 80, "https": 443}


class Post:
    """A try under way."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.headers = {name: value for name, value in span.carrier().items() if name == "traceparent"}

    def answered(self, status: int | None, said: str, *, well: bool) -> None:
        """`said`: what kind of failure it was, where there is no status."""
        self._span.set({"http.response.status_code": status})
        if not well:
            self._span.fail(said.partition(":")[0] if status is None else str(status))


@contextmanager
def posting(name: str, url: str, *, trace: str | None, tries: int) -> Generator[Post]:
    """One try; `trace` is what the hand-off says, `tries` the how-manieth it is."""
    where = urlsplit(url)
    span = start(
        "POST",
        "CLIENT",
        {
            "http.request.method": "POST",
            "http.request.resend_count": tries - 1 or None,
            "server.address": where.hostname,
            "server.port": where.port or _PORTS.get(where.scheme),
            "tailrace.webhook.name": name,
        },
        parent=None if trace is None else received({"traceparent": trace}),
    )
    with spanning(span):
        yield Post(span)
