"""Sources: from an upstream's stream to items of the log. Pure: bytes and events in, text and deltas out.

One decoder for each API. Imports tailrace.schemas and tailrace.worker.sse only; the network is in
tailrace.worker.upstreams.
"""

from tailrace.worker.sources.choices import ChatDecoder, CompletionsDecoder
from tailrace.worker.sources.decoding import Decoder, Item, Outcome
from tailrace.worker.sources.errors import Fault, Phase, UpstreamError
from tailrace.worker.sources.responses import ResponsesDecoder

__all__ = [
    "ChatDecoder",
    "CompletionsDecoder",
    "Decoder",
    "Fault",
    "Item",
    "Outcome",
    "Phase",
    "ResponsesDecoder",
    "UpstreamError",
]
