"""Streams over HTTP: a job's records become events once, for all who read them, and go out to each at its own pace.

`frames` writes events as bytes, `ring` and `channels` share them, `event_stream` is the response that sends them.
"""

from tailrace.gateway.errors import StreamBroken
from tailrace.gateway.streams.channels import Channels, Reader, Source
from tailrace.gateway.streams.event_stream import LINE, EventStream, Line, Streams, generated
from tailrace.gateway.streams.frames import (
    Encoded,
    Encoder,
    Kind,
    StreamCut,
    Wire,
    json_payload,
    ndjson_line,
    sse_comment,
    sse_event,
)

__all__ = [
    "LINE",
    "Channels",
    "Encoded",
    "Encoder",
    "EventStream",
    "Kind",
    "Line",
    "Reader",
    "Source",
    "StreamBroken",
    "StreamCut",
    "Streams",
    "Wire",
    "generated",
    "json_payload",
    "ndjson_line",
    "sse_comment",
    "sse_event",
]
