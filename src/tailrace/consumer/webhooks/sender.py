"""One try: a POST, whose answer is a status and nothing else. No redirects, no proxies, no cookies."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Self

import httpcore2

from tailrace.consumer.webhooks.address import AddressRefused, PublicOnly
from tailrace.schemas import WebhookSettings

#: So much of an answer's body is read, that its connection may be used again.
_BODY_LIMIT: Final = 16 * 1024
_IDLE_S: Final = 15.0
_FAILURES: Final = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    OSError,
    TimeoutError,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a try."""

    status: int | None
    """None: there was no answer."""
    said: str
    """For people: a status, or the kind of failure. Nothing that the receiver wrote, nothing of its URL."""
    retry_after: str | None = None

    @property
    def well(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants nothing any more."""
        return self.status == 410


class Sender:
    """The connections to one receiver."""

    def __init__(self, settings: WebhookSettings, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._ssl_context = ssl_context

    async def __aenter__(self) -> Self:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._ssl_context or ssl.create_default_context(),
            max_connections=self._settings.concurrency,
            keepalive_expiry=_IDLE_S,
            network_backend=None if self._settings.allow_private else PublicOnly(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer; every failure is one."""
        everything = [
            ("content-type", "application/json"),
            ("user-agent", f"tailrace/{version('tailrace')}"),
            ("accept", "*/*"),
            *headers.items(),
        ]
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s),
                self._pool.stream("POST", self._settings.url, headers=everything, content=body) as response,
            ):
                retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
                answer = Answer(
                    response.status,
                    f"status {response.status}",
                    None if retry_after is None else retry_after.decode("latin-1"),
                )
                # The status counts, whatever becomes of the body.
                with suppress(*_FAILURES):
                    await _read_some(response)
                return answer
        except AddressRefused as error:
            return Answer(None, f"refused: {error}")
        except _FAILURES as error:
            return Answer(None, type(error).__name__)


async def _read_some(response: httpcore2.Response) -> None:
    size = 0
    async for piece in response.aiter_stream():
        size += len(piece)
        if size >= _BODY_LIMIT:
            return
