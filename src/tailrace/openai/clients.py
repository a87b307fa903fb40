"""The openai package's clients, with tailrace below."""

from typing import Any, Final

import httpx2
import openai

from tailrace.client import AsyncTailrace, Tailrace
from tailrace.openai.calls import JobOptions
from tailrace.openai.transport import AsyncTailraceTransport, TailraceTransport

#: Goes nowhere: the transport looks at the path only.
BASE_URL: Final = "http://tailrace/v1"
#: The openai package refuses to work without one. The real one is the worker's.
NO_KEY: Final = "none"

_DEFAULTS: Final = JobOptions()


class OpenAI(openai.OpenAI):
    """`openai.OpenAI` whose calls run as jobs: `from tailrace.openai import OpenAI`, and the rest stays as it was.

    Needs no key. `tailrace`: an open client; None: the environment's server.
    """

    def __init__(self, *, tailrace: Tailrace | None = None, jobs: JobOptions = _DEFAULTS, **options: Any) -> None:
        """`options` are the openai package's own."""
        super().__init__(**_completed(options, lambda: httpx2.Client(transport=TailraceTransport(tailrace, jobs=jobs))))


class AsyncOpenAI(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI` whose calls run as jobs. With a `Tailrace` (or none) it works in any event loop."""

    def __init__(
        self, *, tailrace: Tailrace | AsyncTailrace | None = None, jobs: JobOptions = _DEFAULTS, **options: Any
    ) -> None:
        """`options` are the openai package's own."""
        super().__init__(
            **_completed(options, lambda: httpx2.AsyncClient(transport=AsyncTailraceTransport(tailrace, jobs=jobs)))
        )


def _completed(options: dict[str, Any], http_client: Any) -> dict[str, Any]:
    completed = {"base_url": BASE_URL, "api_key": NO_KEY, **options}
    if completed.get("http_client") is None:
        completed["http_client"] = http_client()
    return completed
