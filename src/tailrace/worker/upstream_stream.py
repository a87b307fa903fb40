"""One answer of an upstream, read off its connection as items of the log."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Self

import httpx2

from tailrace.schemas import UpstreamSettings
from tailrace.telemetry.tracing_models import UNTRACED, ModelCall
from tailrace.worker.patience import Patience
from tailrace.worker.push import body_of
from tailrace.worker.sources import Decoder, Item, Outcome, UpstreamError
from tailrace.worker.sources.errors import broken, malformed
from tailrace.worker.sse import Event, EventTooLarge, Splitter
from tailrace.worker.upstream_http import BODY_ERRORS, body_error, retries_of
from tailrace.worker.upstream_pump import Pump
from tailrace.worker.upstream_transport import content_of

#: How long to wait, after the stream's own end, for the end of the body, so that the connection can be used again.
_DRAIN_S: Final = 0.1


class UpstreamStream:
    """One answer as it comes. Iterate once: a list of items for each network read that brought some.

    Raises from the iteration: UpstreamError, after every item that came before.
    """

    def __init__(
        self,
        response: httpx2.Response,
        decoder: Decoder,
        settings: UpstreamSettings,
        *,
        upstream: str,
        continued: bool,
        call: ModelCall = UNTRACED,
    ) -> None:
        self.upstream = upstream
        """The upstream that took the request: the one named, or a fallback."""
        self.continued = continued
        """Whether it goes on from the text given; else it begins anew, and the caller splices."""
        self.retries_taken = retries_of(response)
        """Retries used up until this stream began, over all upstreams asked."""
        self.call = call
        """The call as operators see it."""
        self._response = response
        self._content = content_of(response)
        self._pieces = response.aiter_bytes()
        self._decoder = decoder
        self._splitter = Splitter()
        self._patience = Patience()
        self._first_wait_s, self._stall_s = settings.first_byte_timeout_s, settings.stall_timeout_s
        self._begun = False
        self._ended = False
        self._error: UpstreamError | None = None
        self._outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """How the stream ended. Raises: RuntimeError before the iteration has ended well."""
        if self._outcome is None:
            raise RuntimeError("the outcome is known when the iteration has ended without an error")
        return self._outcome

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Item]:
        while not self._ended:
            if self._error is not None:
                self._ended = True
                raise self._error
            if self._decoder.complete:
                await self._drain()
                return self._finish([])
            piece = await self._read()
            items = self._finish(self._splitter.close()) if piece is None else self._items(piece)
            if items:
                return items
        raise StopAsyncIteration

    async def pour(self, take: Callable[[list[Item]], bool], ready: Callable[[], Awaitable[None]]) -> None:
        """As the iteration, for a caller that needs no turn of its own: all items to `take`, which says whether there is
        room for more; if there is none, `ready` waits for it.

        Raises: UpstreamError after every item that came before; what the two raise.
        """
        body = body_of(self._response)
        if body is None:
            async for items in self:
                if not take(items):
                    await ready()
            return

        def feed(piece: bytes) -> bool:
            items = self._items(piece)
            room = not items or take(items)
            return room and self._error is None and not self._decoder.complete

        with Pump(body, feed) as pump:
            while await self._pumped(pump, self._first_wait_s, self._stall_s):
                if self._error is not None:
                    raise self._error
                if self._decoder.complete:
                    with suppress(UpstreamError):  # everything that matters has come
                        await self._pumped(pump, _DRAIN_S, _DRAIN_S)
                    break
                await ready()
            with suppress(StopAsyncIteration):
                take(self._finish([] if self._decoder.complete else self._splitter.close()))
            if self._error is not None:
                raise self._error

    async def _pumped(self, pump: Pump, first_wait_s: float, stall_s: float) -> bool:
        try:
            return await pump.run(first_wait_s=first_wait_s, stall_s=stall_s)
        except TimeoutError:
            self._begun = pump.begun
            raise self._too_late() from None
        except BODY_ERRORS as error:
            raise body_error(error) from error

    async def aclose(self) -> None:
        """Close the connection, at once unless the answer was read to its end. Safe to call twice."""
        self._ended = True
        self._patience.close()
        try:
            # aiohttp lets go of the connection before it first suspends: a cancellation in here leaves nothing open.
            await self._response.aclose()
        finally:
            await self._pieces.aclose()

    def _items(self, piece: bytes) -> list[Item]:
        try:
            events = self._splitter.feed(piece)
        except EventTooLarge as error:
            items = self._decoded(error.before)
            self._error = self._error or malformed(f"the upstream sent an event larger than {error.limit} bytes")
            return items
        return self._decoded(events)

    def _decoded(self, events: list[Event]) -> list[Item]:
        items: list[Item] = []
        try:
            for event in events:
                items += self._decoder.feed(event)
        except UpstreamError as error:
            self._error = error  # raised by the next call: what came before it stands
        return items

    def _finish(self, events: list[Event]) -> list[Item]:
        """The end of the body. Raises: UpstreamError, StopAsyncIteration if there is nothing left to give."""
        items = self._decoded(events)
        if self._error is None:
            try:
                self._outcome = self._decoder.close()
            except UpstreamError as error:
                self._error = broken("the stream ended in the middle of an event") if self._cut_event(error) else error
            else:
                self._ended = True
        if self._ended and not items:
            raise StopAsyncIteration
        return items

    def _cut_event(self, error: UpstreamError) -> bool:
        return error.detail.type == "upstream_broken" and self._splitter.pending

    async def _read(self) -> bytes | None:
        try:
            with self._patience.at_most(self._stall_s if self._begun else self._first_wait_s):
                piece = await self._piece()
        except TimeoutError:
            raise self._too_late() from None
        except BODY_ERRORS as error:
            raise body_error(error) from error
        self._begun = True
        return piece

    async def _piece(self) -> bytes | None:
        """The next bytes of the body; None at its end."""
        if self._content is None:
            return await anext(self._pieces, None)
        return await self._content.readany() or None

    def _too_late(self) -> UpstreamError:
        if self._begun:
            told = f"upstream {self.upstream!r} sent nothing for {self._stall_s:g} s (stall_timeout_s)"
            return UpstreamError("upstream_stalled", told, retryable=True)
        told = f"upstream {self.upstream!r} sent no byte of its answer in {self._first_wait_s:g} s"
        return UpstreamError("upstream_timeout", f"{told} (first_byte_timeout_s)", retryable=True)

    async def _drain(self) -> None:
        try:
            with self._patience.at_most(_DRAIN_S):
                while await self._piece() is not None:
                    pass
        except (TimeoutError, *BODY_ERRORS):
            pass  # everything that matters has come
