"""httpx2 transports below the openai package: calls run as jobs, answers are read off their logs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import httpx2

from tailrace.client import AsyncTailrace, Tailrace
from tailrace.openai.answers import Answer, EventStream, Unanswered, answer
from tailrace.openai.calls import Call, CallApi, JobOptions, api_of, read_call
from tailrace.openai.opened import shared
from tailrace.openai.refusals import Refusal, refusal
from tailrace.schemas import BrokerUnavailable, InvalidRequest, TailraceError

T = TypeVar("T")

#: An open client, or what gives one when the first call comes.
Source = Tailrace | Callable[[], Tailrace]

_DEFAULTS: Final = JobOptions()


class TailraceTransport(httpx2.BaseTransport):
    """Runs POST .../chat/completions, .../completions and .../responses as jobs:

        OpenAI(http_client=httpx2.Client(transport=TailraceTransport(tailrace)), base_url=BASE_URL, api_key="none")

    The job's id is in the response header `x-tailrace-job-id`. Host and key of a request mean nothing: a job names its
    upstream (`JobOptions.upstream`), and the worker has the key. May be shared by threads.
    """

    def __init__(
        self,
        tailrace: Source | None = None,
        *,
        jobs: JobOptions = _DEFAULTS,
        others: httpx2.BaseTransport | None = None,
    ) -> None:
        """`tailrace`: left open; None: a client of this process's own for the environment's server, opened at the first
        call. `others` gets the requests that make no job (embeddings, files ...); without it they are answered with 404.
        """
        self._tailrace, self._jobs, self._others = tailrace, jobs, others
        self._unanswered = Unanswered()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises: httpx2.ConnectError, httpx2.ReadTimeout."""
        api = api_of(request.method, request.url.path)
        if api is None:
            return self._others.handle_request(request) if self._others else _no_job(request)
        call = _call_of(api, request.read(), request, self._jobs)
        if isinstance(call, httpx2.Response):
            return call
        client = _opened(self._tailrace)
        if isinstance(client, httpx2.Response):
            return client
        given = client.call(answer, client.unblocked, call, self._unanswered, _patience(request))
        return _response(given, _Blocking(client, given.stream) if given.stream is not None else None)

    def close(self) -> None:
        if self._others is not None:
            self._others.close()


class AsyncTailraceTransport(httpx2.AsyncBaseTransport):
    """As `TailraceTransport`, for `AsyncOpenAI`.

    With a `Tailrace`, calls may come from any event loop, or from several; with an `AsyncTailrace`, from its own.
    """

    def __init__(
        self,
        tailrace: Source | AsyncTailrace | None = None,
        *,
        jobs: JobOptions = _DEFAULTS,
        others: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As of `TailraceTransport`."""
        self._tailrace, self._jobs, self._others = tailrace, jobs, others
        self._unanswered = Unanswered()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises: httpx2.ConnectError, httpx2.ReadTimeout."""
        api = api_of(request.method, request.url.path)
        if api is None:
            return await self._others.handle_async_request(request) if self._others else _no_job(request)
        call = _call_of(api, await request.aread(), request, self._jobs)
        if isinstance(call, httpx2.Response):
            return call
        client: Tailrace | AsyncTailrace
        if isinstance(self._tailrace, AsyncTailrace):
            client, unblocked = self._tailrace, self._tailrace
        else:
            opened = await _opened_aside(self._tailrace)
            if isinstance(opened, httpx2.Response):
                return opened
            client, unblocked = opened, opened.unblocked
        given = await _run(client, answer, unblocked, call, self._unanswered, _patience(request))
        return _response(given, _Async(client, given.stream) if given.stream is not None else None)

    async def aclose(self) -> None:
        if self._others is not None:
            await self._others.aclose()


class _Blocking(httpx2.SyncByteStream):
    def __init__(self, tailrace: Tailrace, stream: EventStream) -> None:
        self._tailrace, self._stream = tailrace, stream

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._tailrace.call(self._stream.read)) is not None:
            yield piece

    def close(self) -> None:
        # The client may be closed before a response is: then its loop and all that ran there are gone already.
        if self._tailrace.is_open:
            self._tailrace.call(self._stream.aclose)


class _Async(httpx2.AsyncByteStream):
    def __init__(self, tailrace: Tailrace | AsyncTailrace, stream: EventStream) -> None:
        self._tailrace, self._stream = tailrace, stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await _run(self._tailrace, self._stream.read)) is not None:
            yield piece

    async def aclose(self) -> None:
        if not isinstance(self._tailrace, Tailrace) or self._tailrace.is_open:
            await _run(self._tailrace, self._stream.aclose)


async def _run(tailrace: Tailrace | AsyncTailrace, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    """On the loop where the client lives. A cancellation here cancels there."""
    if isinstance(tailrace, AsyncTailrace):
        return await function(*args)
    return await asyncio.wrap_future(tailrace.start(function, *args))


def _opened(source: Source | None) -> Tailrace | httpx2.Response:
    """Raises: httpx2.ConnectError."""
    if isinstance(source, Tailrace):
        return source
    try:
        return shared() if source is None else source()
    except BrokerUnavailable as error:
        raise httpx2.ConnectError(str(error)) from error
    except TailraceError as error:
        return _refused(error)


async def _opened_aside(source: Source | None) -> Tailrace | httpx2.Response:
    """As `_opened`; opening may take a moment, in which the loop goes on."""
    if isinstance(source, Tailrace):
        return source
    return await asyncio.to_thread(_opened, source)


def _call_of(api: CallApi, body: bytes, request: httpx2.Request, jobs: JobOptions) -> Call | httpx2.Response:
    try:
        return read_call(api, body, request.headers, jobs)
    except InvalidRequest as error:
        return _refused(error)


def _refused(error: TailraceError) -> httpx2.Response:
    return _said(refusal(error))


def _said(found: Refusal) -> httpx2.Response:
    return httpx2.Response(found.status, headers=found.headers, json=found.body)


def _response(given: Answer, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream | None) -> httpx2.Response:
    if stream is None:
        return httpx2.Response(given.status, headers=given.headers, content=given.body)
    return httpx2.Response(given.status, headers=given.headers, stream=stream)


def _no_job(request: httpx2.Request) -> httpx2.Response:
    message = (
        f"{request.method} {request.url.path} makes no job: this transport runs chat/completions, completions and "
        "responses (others= of the transport takes the rest)"
    )
    return _said(Refusal(404, {"message": message, "type": "invalid_request_error", "param": None, "code": "no_job"}))


def _patience(request: httpx2.Request) -> float | None:
    """The request's read timeout in seconds: how long to wait for the next word of the answer."""
    timeout: Any = request.extensions.get("timeout")
    return timeout.get("read") if isinstance(timeout, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # httpx2's own dict of str to float or None
