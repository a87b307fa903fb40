"""Chat completions and legacy completions: each call a job, which goes on when its client goes away."""

import asyncio
from typing import Any, Final, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tailrace.client.reading import ill_end
from tailrace.gateway.access import Asking, Principal
from tailrace.gateway.access.submitting import store_for
from tailrace.gateway.errors import ApiError, refusals
from tailrace.gateway.gateway import Gateway, Here
from tailrace.gateway.jobs import found_job, reader_of
from tailrace.gateway.openai.answering import (
    answered_chunks,
    canceller,
    job_headers,
    read_to_end,
    while_connected,
)
from tailrace.gateway.openai.bodies import ChatBody, CompletionBody
from tailrace.gateway.openai.encoders import CHUNKS
from tailrace.gateway.openai.options import Options, options_of
from tailrace.gateway.openai.route import ALWAYS, OpenAIRoute
from tailrace.gateway.openai.upstreams import upstream_of
from tailrace.gateway.streams import EventStream
from tailrace.schemas import JobRequest, JsonObject, Result
from tailrace.views import ResultView, chat_completion, completion

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute, responses=ALWAYS)

_Api = Literal["chat", "completions"]

#: As many prompts may one legacy call have: each is a job.
_MOST_PROMPTS: Final = 1000
_ANSWERED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The answer, or its chunks as server-sent events; the header X-Tailrace-Job-Id names the job.",
        "content": {"application/json": {}, "text/event-stream": {"schema": {"type": "string"}}},
    },
    **refusals(404, 409, 413, 429, 502, 504),
}


@router.post("/chat/completions", summary="Chat completion", response_class=Response, responses=_ANSWERED)
async def chat_completions(body: ChatBody, request: Request, gateway: Here, principal: Asking) -> Response:
    """The headers x-tailrace-... say what `submit` takes beside the request: job-id, upstream, deadline ..."""
    return await _answered("chat", body.sent(), request, gateway, principal)


@router.post("/completions", summary="Legacy completion", response_class=Response, responses=_ANSWERED)
async def completions(body: CompletionBody, request: Request, gateway: Here, principal: Asking) -> Response:
    """Headers as for chat completions."""
    return await _answered("completions", body.sent(), request, gateway, principal)


async def _answered(
    api: _Api, fields: dict[str, Any], request: Request, gateway: Gateway, principal: Principal
) -> Response:
    options = options_of(request.headers, principal)
    stream = bool(fields.pop("stream", False))
    include_usage = _wants_usage(fields)
    job_ids = await _job_ids(api, fields, options, gateway, principal, stream=stream)
    headers = job_headers(",".join(job_ids))
    on_leave = canceller(gateway, job_ids, wanted=options.cancel_on_close)
    if not stream:
        results = _results(gateway, job_ids)
        answer = await while_connected(request, gateway, results, headers, on_leave)
        return JSONResponse(chat_completion(answer[0]) if api == "chat" else completion(answer), headers=headers)
    job = (await found_job(gateway, job_ids[0], principal)).overview.job
    reader = reader_of(gateway, job_ids[0], job, CHUNKS[api](include_usage=include_usage), after=options.after)
    source = answered_chunks(gateway, job_ids[0], reader)
    return EventStream(source, gateway.streams, retry=False, headers=headers, on_leave=on_leave)


async def _job_ids(
    api: _Api, fields: dict[str, Any], options: Options, gateway: Gateway, principal: Principal, *, stream: bool
) -> list[str]:
    """The jobs of a call, submitted; or the one that it resumes."""
    if options.resume is not None:
        _, overview = await found_job(gateway, options.resume, principal)
        if overview.job.get("api") != api:
            there = overview.job.get("api")
            message = f"job {options.resume!r} is a {there} job: it cannot be resumed here"
            raise ApiError(400, message, code="invalid_request", param="x-tailrace-resume")
        return [options.resume]
    asked = "messages" if api == "chat" else "prompt"
    if not fields[asked]:
        raise ApiError(400, f"{asked} is empty", code="invalid_request", param=asked)
    requests = _requests(api, fields, options, gateway, stream=stream)
    if len(requests) == 1:
        return [(await store_for(gateway, principal, requests[0], job_id=options.job_id, streamed=stream)).job_id]
    job_id = options.job_id or gateway.tailrace.producer.new_id()
    job_ids = [f"{job_id}-{number}" for number in range(len(requests))]
    for each, request in zip(job_ids, requests, strict=True):
        await store_for(gateway, principal, request, job_id=each, streamed=stream)
    return job_ids


def _requests(
    api: _Api, fields: dict[str, Any], options: Options, gateway: Gateway, *, stream: bool
) -> list[JobRequest]:
    settings = gateway.tailrace.settings
    model: str | None = fields.pop("model", None)
    asked: list[dict[str, Any]]
    if api == "chat":
        asked = [{"messages": fields.pop("messages")}]
    else:
        prompt: str | list[str] = fields.pop("prompt")
        asked = [{"prompt": each} for each in ([prompt] if isinstance(prompt, str) else prompt)]
        if len(asked) > (1 if stream else _MOST_PROMPTS):
            message = f"one prompt to a stream, and at most {_MOST_PROMPTS} to a call: make a call for each"
            raise ApiError(400, message, code="invalid_request", param="prompt")
    given: dict[str, Any] = {"upstream": upstream_of(settings, model), **options.submit, "params": fields}
    return [JobRequest.of(api=api, model=model, limits=settings.limits, **given, **each) for each in asked]


async def _results(gateway: Gateway, job_ids: list[str]) -> list[Result]:
    """Raises: JobFailed, JobCancelled, JobExpired of the first that ended so."""
    return [*await asyncio.gather(*(_result(gateway, job_id) for job_id in job_ids))]


async def _result(gateway: Gateway, job_id: str) -> Result:
    view = ResultView(job_id)
    view.feed(await read_to_end(gateway, job_id))
    ill = ill_end(job_id, view.end)
    if ill is not None:
        raise ill
    return view.result()


def _wants_usage(fields: JsonObject) -> bool:
    """Whether the stream has a usage chunk. A worker asks for usage in any case: so that is no part of the request."""
    given = fields.pop("stream_options", None)
    if not isinstance(given, dict):
        return False
    wanted = bool(given.pop("include_usage", False))
    if given:
        fields["stream_options"] = {**given, "include_usage": True}
    return wanted
