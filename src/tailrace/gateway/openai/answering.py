"""From a job to the answer of a call: whole, at its end, or as a stream."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar, cast

from starlette.requests import Request

from tailrace.client.reading import ill_end
from tailrace.gateway.errors import RETRY_AFTER_S, ApiError, StreamBroken
from tailrace.gateway.gateway import Gateway
from tailrace.gateway.openai.encoders import ERROR_EVENT, Refused
from tailrace.gateway.openai.refusals import refusal_of
from tailrace.gateway.streams import Reader, Source
from tailrace.joblog.tasks import end as end_tasks
from tailrace.schemas import (
    CHUNK,
    EndRecord,
    Entry,
    JobEnded,
    Status,
    TailraceError,
    decode,
)

T = TypeVar("T")

JOB_HEADER: Final = "X-Tailrace-Job-Id"
#: Records that are part of an answer, or its end: from here on a stream has something to say.
_SAYING: Final = frozenset({CHUNK, "delta", "end"})


def job_headers(job_id: str) -> dict[str, str]:
    """What tells the client which job its answer is."""
    return {JOB_HEADER: job_id, "X-Request-Id": job_id}


async def read_to_end(gateway: Gateway, job_id: str) -> list[Entry]:
    """Wait for the job's end; its whole log. Raises: JobNotFound, HistoryLost, BrokerUnavailable."""
    entries: list[Entry] = []
    async with aclosing(gateway.tailrace.consumer.follow(job_id)) as batches:
        async for batch in batches:
            entries += batch.entries
    return entries


async def while_connected(
    request: Request,
    gateway: Gateway,
    answer: Coroutine[Any, Any, T],
    headers: Mapping[str, str],
    on_leave: Callable[[], Awaitable[object]] | None,
) -> T:
    """The answer, unless the client leaves before: then nobody waits for it. `headers` name the job: when the gateway closes
    before its end, they say what to come back for. Raises: ApiError, and what the answer raises."""
    answering = asyncio.create_task(answer, name="tailrace-answer")
    leaving = asyncio.create_task(_left(request), name="tailrace-leaving")
    try:
        with unless_closing(gateway, headers):
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        if on_leave is not None:
            await on_leave()
        raise ApiError(499, "the client went away", code="client_left")
    finally:
        await end_tasks({cast("asyncio.Task[None]", answering), leaving})


@contextmanager
def unless_closing(gateway: Gateway, headers: Mapping[str, str]) -> Generator[None]:
    """Wait for a job in here. A server that closes lets requests go on for a moment and then cancels them: `headers` tell
    those clients which job to come back for. Raises: ApiError (503)."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not gateway.streams.closing:
            raise
        task.uncancel()  # what it has to say now is its end
        message = f"the gateway is closing: job {headers[JOB_HEADER]!r} goes on, and can be followed by its id"
        raise ApiError(503, message, code="closing", headers={**headers, "Retry-After": str(RETRY_AFTER_S)}) from None


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def canceller(gateway: Gateway, job_ids: list[str], *, wanted: bool) -> Callable[[], Awaitable[object]] | None:
    """What cancels the jobs when their client leaves, if it wants that."""

    async def cancel() -> None:
        with suppress(TailraceError):  # gone, or out of reach: its deadline ends it
            for job_id in job_ids:
                await gateway.tailrace.producer.cancel(job_id)

    return cancel if wanted else None


class _Begun:
    """A source whose first events were read already."""

    def __init__(self, first: bytes | None, source: Source) -> None:
        self._first, self._source = first, source

    async def next(self) -> bytes | None:
        first, self._first = self._first, None
        return first if first is not None else await self._source.next()


@asynccontextmanager
async def answered_chunks(
    gateway: Gateway, job_id: str, reader: AbstractAsyncContextManager[Reader]
) -> AsyncGenerator[Source]:
    """A stream of chunks that has begun: a job that ends badly before it has said anything is an error answer.

    When it has said nothing for a while the stream begins all the same, so that heartbeats keep the connection alive.
    Raises: ApiError.
    """
    try:
        async with reader as opened:
            with unless_closing(gateway, job_headers(job_id)):
                first = await _first_chunks(opened, gateway.settings.heartbeat_s)
            yield _Begun(first, opened)
    except Refused as refused:
        raise refused.refusal from refused


async def _first_chunks(reader: Reader, patience_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(patience_s):
            first = await reader.next()
            if first is not None and first.startswith(ERROR_EVENT):
                await reader.next()
            return first
    except TimeoutError:
        return None
    except StreamBroken as broken:
        if isinstance(broken.__cause__, Refused):
            raise broken.__cause__ from None
        raise


@asynccontextmanager
async def answered_events(
    gateway: Gateway, job_id: str, reader: AbstractAsyncContextManager[Reader]
) -> AsyncGenerator[Source]:
    """As `answered_chunks`, of a response's events, which begin before anything is said."""
    async with reader as opened:
        with unless_closing(gateway, job_headers(job_id)):
            end = await _first_word(gateway, job_id)
        ill = ill_end(job_id, end)
        if ill is not None and end is not None and end.status is not Status.CANCELLED:
            raise refusal_of(ill)
        yield opened


async def _first_word(gateway: Gateway, job_id: str) -> EndRecord | None:
    """Wait until the job says something; its end, if that comes first."""
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(gateway.settings.heartbeat_s),
            aclosing(gateway.tailrace.consumer.follow(job_id)) as batches,
        ):
            async for batch in batches:
                for entry in batch.entries:
                    if entry.field in _SAYING:
                        record = decode(entry) if entry.field == "end" else None
                        return record if isinstance(record, EndRecord) else None
    return None


def raise_if_failed(job_id: str, end: EndRecord | None) -> None:
    """Raises: ApiError, JobEnded for a job that failed or expired; one that was called off has an answer, its own."""
    ill: JobEnded | None = ill_end(job_id, end)
    if ill is not None and end is not None and end.status is not Status.CANCELLED:
        raise ill
