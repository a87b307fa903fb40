"""Upstreams: ask a named one for a stream, read it as items of the log, fall back to another one.

```python
async with Upstreams(settings) as upstreams, upstreams.open(request) as stream:
    async for items in stream:  # once per network read
        ...
    stream.outcome
```
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

import httpx2
from openai import APIStatusError, AsyncOpenAI
from pydantic_core import from_json

from tailrace.schemas import ErrorDetail, JobRequest, Settings, UpstreamSettings
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import OTHER, Counts, Labels
from tailrace.telemetry.tracing_models import ModelCall, calling
from tailrace.worker.sources import ChatDecoder, CompletionsDecoder, ResponsesDecoder, UpstreamError
from tailrace.worker.sources.bodies import Body, build_body
from tailrace.worker.sources.errors import reported
from tailrace.worker.upstream_http import (
    REQUEST_ERRORS,
    STREAMED,
    build_client,
    origin,
    read_some,
    request_error,
    retries_of,
)
from tailrace.worker.upstream_stream import UpstreamStream

__all__ = ["Check", "UpstreamError", "UpstreamStream", "Upstreams"]

_DECODERS: Final[dict[str, type[ChatDecoder | CompletionsDecoder | ResponsesDecoder]]] = {
    "chat": ChatDecoder,
    "completions": CompletionsDecoder,
    "responses": ResponsesDecoder,
}
#: Some servers call an event stream plain text, or nothing.
_STREAM_TYPES: Final = frozenset({"", "text/event-stream", "text/plain", "application/octet-stream"})
#: Compression would hold tokens back until a block is full.
_HEADERS: Final = {**STREAMED, "Accept-Encoding": "identity"}
_MODELS_LIMIT: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Check:
    """What a probe of an upstream found."""

    upstream: str
    base_url: str | None
    """Scheme, host and port only; None if there was no telling."""
    error: ErrorDetail | None
    """None: it is there and takes the key."""
    models: tuple[str, ...]
    """What it offers; empty also if it keeps no list."""
    elapsed_ms: float


class _Upstream:
    """One named upstream: its client, built at first use, and its free places."""

    def __init__(self, name: str, settings: UpstreamSettings, counts: Counts) -> None:
        self.name = name
        self.settings = settings
        self.open = self.waiting = 0
        """Requests and answers under way, and who waits for a place."""
        self._counts = counts
        self._client: AsyncOpenAI | None = None
        self._secret = ""
        self._places: AbstractAsyncContextManager[object] = (
            nullcontext() if settings.concurrency is None else asyncio.Semaphore(settings.concurrency)
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @asynccontextmanager
    async def ask(
        self, request: JobRequest, *, continue_from: str | None, max_retries: int
    ) -> AsyncGenerator[UpstreamStream]:
        """Raises: UpstreamError in the phase "request"."""
        self._counts.add(told.UPSTREAM_REQUESTS, self.name)
        try:
            body = self._body(request, continue_from)
            model = request.model or self.settings.default_model
            # Its time begins when there is a place for it.
            async with self._place():
                with calling(request, model=model, upstream=self.name) as call:
                    client = self.client()
                    call.asks(client.base_url.scheme, client.base_url.host, client.base_url.port)
                    response = await self._post(client, body, max_retries, call)
                    decoder = _DECODERS[request.api](self._secret)
                    stream = UpstreamStream(
                        response, decoder, self.settings, upstream=self.name, continued=body.continued, call=call
                    )
                    try:
                        await self._check_type(response)
                        self._counts.add(told.UPSTREAM_RETRIES, self.name, by=stream.retries_taken)
                        yield stream
                    finally:
                        await stream.aclose()
        except UpstreamError as error:
            self._counts.add(told.UPSTREAM_ERRORS, self.name, error.detail.type)
            if error.phase == "request":
                self._counts.add(told.UPSTREAM_RETRIES, self.name, by=error.retries_taken)
            raise

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        """One of the streams that there may be at a time."""
        began = time.monotonic()
        self.waiting += 1
        try:
            await self._places.__aenter__()
        finally:
            self.waiting -= 1
        self.open += 1
        try:
            if self.settings.concurrency is not None:
                self._counts.distribution(told.UPSTREAM_WAIT, self.name).observe(time.monotonic() - began)
            yield
        finally:
            self.open -= 1
            await self._places.__aexit__(None, None, None)

    def client(self) -> AsyncOpenAI:
        """Raises: UpstreamError if there is no key, or no sense in the URLs."""
        if self._client is None:
            self._client, self._secret = build_client(self.name, self.settings)
        return self._client

    async def check(self) -> Check:
        """Ask for the list of models, once and without retries."""
        start = time.perf_counter()
        error: ErrorDetail | None = None
        models: tuple[str, ...] = ()
        client: AsyncOpenAI | None = None
        try:
            client = self.client()
            models = await self._models(client)
        except UpstreamError as failure:
            error = failure.detail
        elapsed_ms = (time.perf_counter() - start) * 1000
        return Check(self.name, None if client is None else origin(str(client.base_url)), error, models, elapsed_ms)

    async def _models(self, client: AsyncOpenAI) -> tuple[str, ...]:
        try:
            response = await client.get(
                "/models", cast_to=httpx2.Response, options={"headers": _HEADERS, "max_retries": 0}
            )
            async with asyncio.timeout(self.settings.first_byte_timeout_s):
                body = await read_some(response, _MODELS_LIMIT)
        except APIStatusError as error:
            if error.status_code == 404:  # it is there, and keeps no list
                return ()
            raise self._request_error(error, client) from error
        except (TimeoutError, *REQUEST_ERRORS) as error:
            raise self._request_error(error, client) from error
        try:
            listed: Any = from_json(body)["data"]
            return tuple(str(model["id"]) for model in listed)
        except (ValueError, TypeError, LookupError):
            return ()

    def _body(self, request: JobRequest, continue_from: str | None) -> Body:
        # Without one the upstream decides: a server of one model answers, another says what it wants.
        model = request.model or self.settings.default_model
        try:
            return build_body(request, model, continue_from=continue_from, prefill=self.settings.prefill)
        except ValueError as error:
            raise UpstreamError("upstream_malformed", "the request is no JSON", phase="request") from error

    async def _post(self, client: AsyncOpenAI, body: Body, max_retries: int, call: ModelCall) -> httpx2.Response:
        headers = {**_HEADERS, **call.traceparent()} if self.settings.traceparent else _HEADERS
        try:
            return await client.post(
                body.path,
                cast_to=httpx2.Response,
                content=body.content,
                options={"headers": headers, "max_retries": max_retries},
            )
        except REQUEST_ERRORS as error:
            raise self._request_error(error, client) from error

    def _request_error(self, error: Exception, client: AsyncOpenAI) -> UpstreamError:
        where = origin(str(client.base_url))
        return request_error(error, name=self.name, where=where, settings=self.settings, secret=self._secret)

    async def _check_type(self, response: httpx2.Response) -> None:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in _STREAM_TYPES:
            return
        body = b""
        try:
            async with asyncio.timeout(self.settings.stall_timeout_s):
                body = await read_some(response)
        except TimeoutError:
            pass  # only the type of the body is certain
        retries = retries_of(response)
        try:
            parsed: Any = from_json(body)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict) and "error" in parsed:
            error = reported(cast("object", parsed), secret=self._secret, phase="request")
            error.retries_taken = retries
            raise error
        raise UpstreamError(
            "upstream_not_stream",
            f"upstream {self.name!r} answered with {kind[:100]!r} instead of an event stream: is base_url right (it "
            "usually ends in /v1), and does the service stream?",
            phase="request",
            retries_taken=retries,
        )


class Upstreams:
    """The upstreams that a worker may ask. Enter it; one client each is built at first use and closed at the end."""

    def __init__(self, settings: Settings, *, counts: Counts | None = None) -> None:
        self._settings = settings
        self._upstreams: dict[str, _Upstream] = {}
        self.counts = counts or Counts(told.WORKER)
        self.pieces = 0
        """Pieces of output that all of them gave."""
        self._watched(self.counts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        async with AsyncExitStack() as stack:
            for upstream in self._upstreams.values():
                stack.push_async_callback(upstream.close)
            self._upstreams = {}

    @asynccontextmanager
    async def open(
        self, request: JobRequest, *, continue_from: str | None = None, max_retries: int | None = None
    ) -> AsyncGenerator[UpstreamStream]:
        """The stream of an upstream that took the request: the one it names, else that one's fallback.

        `max_retries` (default: the upstream's setting) is one budget for all of them. `continue_from`: text to go on
        from, where the upstream has a way to. Leaving the context closes the connection at once.

        Raises: UpstreamError in the phase "request"; its `retries_taken` is what all of them used.
        """
        async with AsyncExitStack() as stack:
            yield await self._first_taker(stack, request, continue_from, max_retries)

    def retries(self, name: str) -> int:
        """How often the request of one answer may be sent again; what `open` takes as `max_retries`."""
        settings = self._settings.upstream(name)
        return 0 if settings is None else settings.max_retries

    async def check(self, name: str) -> Check:
        """Whether an upstream is there and takes its key; costs no tokens. Never raises for what the upstream does."""
        try:
            upstream = self._upstream(name)
        except UpstreamError as error:
            return Check(name, None, error.detail, (), 0.0)
        return await upstream.check()

    async def _first_taker(
        self, stack: AsyncExitStack, request: JobRequest, continue_from: str | None, max_retries: int | None
    ) -> UpstreamStream:
        upstream = self._upstream(request.upstream)
        budget = upstream.settings.max_retries if max_retries is None else max_retries
        tried: set[str] = set()
        used = 0
        failure: UpstreamError | None = None
        while True:
            tried.add(upstream.name)
            left = max(budget - used, 0)
            try:
                asked = upstream.ask(request, continue_from=continue_from, max_retries=left)
                stream = await stack.enter_async_context(asked)
            except UpstreamError as error:
                used += error.retries_taken
                error.retries_taken = used
                fallback = upstream.settings.fallback
                if fallback is None or fallback in tried or not _may_fall_back(error):
                    raise error from (failure or error.__cause__)
                failure = error
                self.counts.add(told.UPSTREAM_FALLBACKS, upstream.name)
                upstream = self._upstream(fallback)
            else:
                stream.retries_taken += used
                return stream

    def _upstream(self, name: str) -> _Upstream:
        upstream = self._upstreams.get(name)
        if upstream is None:
            settings = self._settings.upstream(name)
            if settings is None:
                # Not by the name that was asked for: that is the job's word, not the configuration's.
                self.counts.add(told.UPSTREAM_ERRORS, OTHER, "unknown_upstream")
                known = ", ".join(sorted({"default", *self._settings.upstreams}))
                raise UpstreamError(
                    "unknown_upstream",
                    f"no upstream {name[:100]!r} is configured here: there is {known}",
                    phase="request",
                )
            upstream = self._upstreams[name] = _Upstream(name, settings, self.counts)
        return upstream

    def _watched(self, counts: Counts) -> None:
        def read(figure: Callable[[_Upstream], int]) -> Callable[[], Mapping[Labels, float]]:
            return lambda: {(name,): figure(upstream) for name, upstream in self._upstreams.items()}

        configured = {**self._settings.upstreams}
        limits: dict[Labels, float] = {
            (name,): each.concurrency for name, each in configured.items() if each.concurrency is not None
        }
        counts.watch(told.OUTPUT_CHUNKS, lambda: self.pieces)
        counts.watch(told.UPSTREAM_STREAMS, read(lambda upstream: upstream.open))
        counts.watch(told.UPSTREAM_WAITING, read(lambda upstream: upstream.waiting))
        counts.watch(told.UPSTREAM_LIMIT, lambda: limits)


def _may_fall_back(error: UpstreamError) -> bool:
    return error.detail.retryable or error.detail.type in {"upstream_unreachable", "upstream_timeout"}
