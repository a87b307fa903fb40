"""A call run as a job, and its answer: on the event loop of an AsyncTailrace."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import httpx2

from tailrace.client import AsyncTailrace
from tailrace.client.reading import ill_end
from tailrace.joblog import Batch
from tailrace.openai.calls import JOB_ID_HEADER, Call
from tailrace.openai.refusals import Refusal, refusal
from tailrace.schemas import (
    END,
    BrokerUnavailable,
    InvalidRequest,
    JsonObject,
    Result,
    TailraceError,
)
from tailrace.views import (
    ChatChunksView,
    CompletionsView,
    Frame,
    NativeResponsesView,
    OpenAIView,
    Rewound,
    chat_completion,
)
from tailrace.views import completion as completion_of

#: Calls that broke off before they had an answer, for the openai package's next try of each.
_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response: a body, or a stream to be read and closed."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    stream: "EventStream | None" = None


class Unanswered:
    """Which job a call that got no answer (a timeout, a lost connection) had: its next try goes on with the same one.

    Without this each try of the openai package would be one more job.
    """

    def __init__(self) -> None:
        self._jobs: OrderedDict[bytes, str] = OrderedDict()

    def job_of(self, call: Call) -> str | None:
        known = self._jobs.pop(call.fingerprint, None) if call.again else None
        return call.job_id or known

    def remember(self, call: Call, job_id: str) -> None:
        self._jobs[call.fingerprint] = job_id
        if len(self._jobs) > _REMEMBERED:
            self._jobs.popitem(last=False)


async def answer(tailrace: AsyncTailrace, call: Call, unanswered: Unanswered, patience_s: float | None) -> Answer:
    """Submit the call's jobs and begin to answer: a stream as soon as it has something to say, anything else whole.

    Raises: httpx2.ConnectError, httpx2.ReadTimeout if nothing came for `patience_s`; the jobs go on.
    """
    job_id = call.resume or unanswered.job_of(call) or tailrace.producer.new_id()
    job_ids = [job_id] if len(call.requests) < 2 else [f"{job_id}-{at}" for at in range(len(call.requests))]
    try:
        if call.resume is None:
            requests = [{**request, "job_id": each} for request, each in zip(call.requests, job_ids, strict=True)]
            await tailrace.submit_many(requests)
        return await _begun(tailrace, call, job_ids, patience_s)
    except BrokerUnavailable as error:
        unanswered.remember(call, job_id)
        raise httpx2.ConnectError(str(error)) from error
    except TimeoutError:
        unanswered.remember(call, job_id)
        raise httpx2.ReadTimeout(f"no answer in {patience_s} s; job {job_id!r} goes on") from None
    except asyncio.CancelledError:
        if call.options.cancel_on_close and call.resume is None:
            await asyncio.shield(_cancel(tailrace, job_ids))
        raise
    except TailraceError as error:
        return _refused(refusal(error, job_id=job_id), job_ids)


async def _begun(tailrace: AsyncTailrace, call: Call, job_ids: list[str], patience_s: float | None) -> Answer:
    if call.resume is not None:
        await _check_api(tailrace, call)
    if call.stream:
        stream = EventStream(tailrace, call, job_ids[0], patience_s)
        try:
            refused = await stream.begin()
        except BaseException:
            await stream.aclose(cancel=False)
            raise
        if refused is not None:
            await stream.aclose(cancel=False)
            return _refused(refused, job_ids)
        return Answer(200, _headers(job_ids, "text/event-stream; charset=utf-8"), stream=stream)
    async with asyncio.timeout(patience_s):
        results = await asyncio.gather(*(tailrace.job(job_id).result() for job_id in job_ids))
    return Answer(200, _headers(job_ids, "application/json"), body=_json(_whole(call, results)))


def _whole(call: Call, results: list[Result]) -> JsonObject:
    match call.api:
        case "chat":
            return chat_completion(results[0])
        case "completions":
            return completion_of(results)
        case "responses":
            if results[0].native is None:
                raise TailraceError(f"job {results[0].job_id!r} has no response object in its log")
            return results[0].native


async def _check_api(tailrace: AsyncTailrace, call: Call) -> None:
    """Raises: JobNotFound, InvalidRequest if the job is of another API."""
    assert call.resume is not None  # noqa: S101  # asked for by the caller
    api = (await tailrace.consumer.look(call.resume)).job.get("api")
    if api != call.api:
        raise InvalidRequest(f"job {call.resume!r} is a {api} job, it cannot be resumed as {call.api}")


class EventStream:
    """A job's log as server-sent events of the API that was asked. `read` until None, then `aclose`."""

    def __init__(self, tailrace: AsyncTailrace, call: Call, job_id: str, patience_s: float | None) -> None:
        self._tailrace, self._call, self._job_id, self._patience_s = tailrace, call, job_id, patience_s
        self._view = _view(call, job_id)
        self._batches: AsyncGenerator[Batch] = tailrace.consumer.follow(job_id, after=call.after)
        self._ready: list[Frame | Rewound] = []
        self._resumed = False
        self._over = False
        self._broken = self._done = False
        # A reader that was interrupted may close while its last step is still being cancelled.
        self._turn = asyncio.Lock()

    async def begin(self) -> Refusal | None:
        """Wait for the first event. The refusal to answer with, if the job ended badly before there was one."""
        async with self._turn:
            while not self._ready and not self._over:
                await self._take()
            return None if self._ready else self._refusal()

    async def read(self) -> bytes | None:
        """The next events; None after the last. Raises: httpx2.ReadError after the error event of a stream that broke."""
        async with self._turn:
            if self._broken:
                raise httpx2.ReadError(f"the stream of job {self._job_id!r} broke")
            try:
                while not self._ready and not self._over:
                    await self._take()
            except TimeoutError:
                raise httpx2.ReadTimeout(f"job {self._job_id!r} said nothing for {self._patience_s} s") from None
            except TailraceError as error:
                self._broken = True
                return _sse(refusal(error, job_id=self._job_id).body)
            if self._ready:
                ready, self._ready = self._ready, []
                return b"".join([self._rendered(item) for item in ready])
            return self._last()

    async def aclose(self, *, cancel: bool | None = None) -> None:
        """Stop reading. The job goes on, unless its options say otherwise."""
        async with self._turn:
            wanted = self._call.options.cancel_on_close and self._call.resume is None if cancel is None else cancel
            unfinished = self._view.end is None
            self._over, self._ready = True, []
            await self._batches.aclose()
            if wanted and unfinished:
                await _cancel(self._tailrace, [self._job_id])

    async def _take(self) -> None:
        async with asyncio.timeout(self._patience_s):
            batch = await anext(self._batches, None)
        if batch is None:
            self._over = True
            return
        if batch.fresh and not self._resumed:
            self._resumed = True
            self._view.resume(self._call.after)
        self._ready = self._view.feed(batch.entries, show=batch.fresh)

    def _rendered(self, item: Frame | Rewound) -> bytes:
        if isinstance(item, Frame):
            kind = item.body.get("type")
            # Clients of the chat APIs have no other place to learn the position from: their parsers drop SSE ids.
            body = item.body if self._call.api == "responses" else {**item.body, "position": item.position}
            return _sse(body, event=kind if isinstance(kind, str) else None, position=item.position)
        self._broken = True
        message = (
            f"the stream of job {self._job_id!r} was rewound: a restarted attempt went another way, and what came "
            "before is void; resume the job from its beginning"
        )
        error: JsonObject = {
            "message": message,
            "type": "tailrace_error",
            "param": None,
            "code": "stream_rewound",
            "job_id": self._job_id,
        }
        return _sse({"error": error})

    def _last(self) -> bytes | None:
        """What follows the last frame. None once it was said."""
        refused = self._refusal()
        if refused is not None:
            self._broken = True
            frames = b""
            if isinstance(self._view, NativeResponsesView):
                failed = self._view.failed({"code": "server_error", "message": refused.error["message"]})
                frames = _sse(failed, event="response.failed", position=END)
            return frames + _sse(refused.body)
        if self._call.api == "responses" or self._view.end is None or self._done:
            return None
        self._done = True
        return b"data: [DONE]\n\n"

    def _refusal(self) -> Refusal | None:
        """What to say of a job that ended badly."""
        ill = ill_end(self._job_id, self._view.end)
        return None if ill is None else refusal(ill, job_id=self._job_id)


def _view(call: Call, job_id: str) -> OpenAIView:
    match call.api:
        case "chat":
            return ChatChunksView(job_id, include_usage=call.include_usage)
        case "completions":
            return CompletionsView(job_id, include_usage=call.include_usage)
        case "responses":
            return NativeResponsesView(job_id)


async def _cancel(tailrace: AsyncTailrace, job_ids: list[str]) -> None:
    with suppress(TailraceError):  # gone, or out of reach: its deadline ends it
        for job_id in job_ids:
            await tailrace.job(job_id).cancel()


def _refused(found: Refusal, job_ids: list[str]) -> Answer:
    headers = _headers(job_ids, "application/json") | found.headers
    return Answer(found.status, headers, body=_json(found.body))


def _headers(job_ids: list[str], content_type: str) -> dict[str, str]:
    return {"content-type": content_type, JOB_ID_HEADER: ",".join(job_ids)}


def _json(body: JsonObject) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _sse(body: JsonObject, *, event: str | None = None, position: str | None = None) -> bytes:
    named = f"event: {event}\n" if event else ""
    numbered = f"id: {position}\n" if position else ""
    return f"{named}{numbered}data: ".encode() + _json(body) + b"\n\n"
