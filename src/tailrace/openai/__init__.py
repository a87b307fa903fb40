"""The openai package over tailrace: every call a background job, every answer read off its log.

`OpenAI` and `AsyncOpenAI` are the package's own clients with another transport below; `TailraceTransport` and
`AsyncTailraceTransport` put it below anything else that takes an httpx2 transport. May import schemas, views, producer,
consumer and client. Needs the extra `openai`.
"""

from tailrace.openai import _extra as _extra
from tailrace.openai.calls import JobOptions
from tailrace.openai.clients import BASE_URL, AsyncOpenAI, OpenAI
from tailrace.openai.opened import close_shared, shared
from tailrace.openai.transport import AsyncTailraceTransport, TailraceTransport

__all__ = [
    "BASE_URL",
    "AsyncOpenAI",
    "AsyncTailraceTransport",
    "JobOptions",
    "OpenAI",
    "TailraceTransport",
    "close_shared",
    "shared",
]
