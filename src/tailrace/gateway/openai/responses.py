"""The Responses API: create, retrieve and resume, cancel, delete; in the background or not, over any upstream."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from tailrace.gateway.access import Asking
from tailrace.gateway.errors import ApiError, refusals
from tailrace.gateway.gateway import Gateway, Here
from tailrace.gateway.jobs import reader_of
from tailrace.gateway.openai.answering import (
    answered_events,
    canceller,
    job_headers,
    while_connected,
)
from tailrace.gateway.openai.bodies import ResponseBody
from tailrace.gateway.openai.creating import PREFIX, create
from tailrace.gateway.openai.encoders import response_kind
from tailrace.gateway.openai.input_items import listed
from tailrace.gateway.openai.kept import Kept, kept_response, response_of, whole
from tailrace.gateway.openai.options import options_of
from tailrace.gateway.openai.route import ALWAYS, OpenAIRoute
from tailrace.gateway.streams import EventStream, Reader
from tailrace.schemas import JsonObject

router = APIRouter(prefix="/v1/responses", tags=["openai"], route_class=OpenAIRoute, responses=ALWAYS)

_STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The response, or its events as server-sent events; X-Tailrace-Job-Id and its id name the job.",
        "content": {"application/json": {}, "text/event-stream": {"schema": {"type": "string"}}},
    },
}
_CREATED = {**_STREAMED, **refusals(404, 409, 413, 429, 502, 504)}


class DeletedResponse(BaseModel):
    """A response that is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItems(BaseModel):
    """Input items, a page of them."""

    object: Literal["list"] = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", summary="Create a response", response_class=Response, responses=_CREATED)
async def create_response(body: ResponseBody, request: Request, gateway: Here, principal: Asking) -> Response:
    """Its id is the job's id. The headers x-tailrace-... say what `submit` takes beside the request: job-id, upstream,
    deadline ... An `Idempotency-Key` makes a request that is sent again the same job."""
    options = options_of(request.headers, principal, prefix=PREFIX)
    kept = await create(gateway, body, options, principal)
    headers = job_headers(kept.job_id)
    on_leave = canceller(gateway, [kept.job_id], wanted=options.cancel_on_close)
    if body.stream:
        return _streamed(gateway, kept, headers=headers, on_leave=on_leave, wait=not body.background)
    if body.background:
        return JSONResponse(await response_of(gateway, kept), headers=headers)
    answer = await while_connected(request, gateway, whole(gateway, kept), headers, on_leave)
    return JSONResponse(answer, headers=headers)


@router.get("/{response_id}", summary="A response, whole or as a stream", response_class=Response, responses=_STREAMED)
async def retrieve(
    response_id: str,
    gateway: Here,
    principal: Asking,
    stream: bool = False,  # a query parameter
    starting_after: Annotated[
        int | None, Query(ge=-1, description="With `stream`: only the events behind this sequence_number.")
    ] = None,
) -> Response:
    """As it stands now, in the middle of its output too."""
    kept = await kept_response(gateway, response_id, principal)
    headers = job_headers(kept.job_id)
    if stream:
        skip = 0 if starting_after is None else starting_after + 1
        return _streamed(gateway, kept, headers=headers, skip=skip)
    return JSONResponse(await response_of(gateway, kept), headers=headers)


@router.post("/{response_id}/cancel", summary="Cancel a response", response_class=Response, responses=refusals(404))
async def cancel(response_id: str, gateway: Here, principal: Asking) -> Response:
    """Its partial output stands. Of one that has ended: nothing changes."""
    kept = await kept_response(gateway, response_id, principal)
    await gateway.tailrace.producer.cancel(kept.job_id)
    return JSONResponse(await response_of(gateway, kept), headers=job_headers(kept.job_id))


@router.delete("/{response_id}", summary="Delete a response", responses=refusals(404))
async def delete(response_id: str, gateway: Here, principal: Asking) -> DeletedResponse:
    """One that is running is cancelled."""
    kept = await kept_response(gateway, response_id, principal)
    await gateway.tailrace.producer.delete(kept.job_id)
    return DeletedResponse(id=kept.job_id)


@router.get("/{response_id}/input_items", summary="The input of a response", responses=refusals(404))
async def input_items(
    response_id: str,
    gateway: Here,
    principal: Asking,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> InputItems:
    """Its own items and those of the conversation before it; the newest first."""
    kept = await kept_response(gateway, response_id, principal)
    page, more = listed(kept, after=after, limit=limit, newest_first=order == "desc")
    return InputItems(
        data=page,
        first_id=str(page[0]["id"]) if page else None,
        last_id=str(page[-1]["id"]) if page else None,
        has_more=more,
    )


def _streamed(
    gateway: Gateway,
    kept: Kept,
    *,
    headers: dict[str, str],
    on_leave: Any = None,
    skip: int = 0,
    wait: bool = False,
) -> Response:
    """The response's events. `wait`: until it says something, so that one that fails before is an error answer."""
    kind = response_kind(kept.asked.fields)
    reader = reader_of(gateway, kept.job_id, kept.overview.job, kind, skip=skip)
    source = answered_events(gateway, kept.job_id, reader) if wait else reader
    if skip and kept.overview.end is not None:
        source = _with_something_left(reader, skip - 1)
    return EventStream(source, gateway.streams, retry=False, headers=headers, on_leave=on_leave)


@asynccontextmanager
async def _with_something_left(
    opened: AbstractAsyncContextManager[Reader], starting_after: int
) -> AsyncGenerator[Reader]:
    """Of a response that has ended. Raises: ApiError for a number that none of its events has."""
    async with opened as reader:
        if await reader.is_behind_the_last():
            message = f"no event of this response has the sequence_number {starting_after}: pass the last one that you have seen"
            raise ApiError(400, message, code="invalid_request", param="starting_after")
        yield reader
