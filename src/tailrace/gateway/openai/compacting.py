"""Compacting a conversation: a job sums it up, and the next response goes on from the summary."""

from typing import Any, Final, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from tailrace.gateway.access import Asking
from tailrace.gateway.errors import ApiError, refusals
from tailrace.gateway.gateway import Here
from tailrace.gateway.openai.answering import canceller, job_headers, while_connected
from tailrace.gateway.openai.bodies import CompactBody, ResponseBody
from tailrace.gateway.openai.compaction import asking, kept, packed
from tailrace.gateway.openai.creating import PREFIX, create
from tailrace.gateway.openai.input_items import input_items
from tailrace.gateway.openai.items import items_of
from tailrace.gateway.openai.kept import objects, whole
from tailrace.gateway.openai.options import options_of
from tailrace.gateway.openai.route import ALWAYS, OpenAIRoute
from tailrace.schemas import JsonObject
from tailrace.views.responses import response_usage

router = APIRouter(prefix="/v1/responses", tags=["openai"], route_class=OpenAIRoute, responses=ALWAYS)

#: What a response can be asked for, and a compaction cannot.
_REFUSED: Final = ("stream", "background", "conversation", "prompt")
#: How an answer would be given, where none is.
_LEFT_OUT: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "text", "include"})


class Compaction(BaseModel):
    """A conversation, compacted: `output` is what the next request begins its `input` with."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: list[JsonObject]
    """The messages of user, system and developer, and a compaction item that stands for all else."""
    usage: JsonObject


_COMPACTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": Compaction,
        "description": "X-Tailrace-Job-Id and its id name the job that has written the summary.",
    },
    **refusals(404, 409, 413, 429, 502, 504),
}


@router.post("/compact", summary="Compact a conversation", response_class=Response, responses=_COMPACTED)
async def compact(body: CompactBody, request: Request, gateway: Here, principal: Asking) -> Response:
    """The model that is asked sums it up. Headers as for creating a response."""
    sent = body.sent()
    for name in _REFUSED:
        if sent.get(name):
            raise ApiError(400, f"{name}: not for a compaction", code="invalid_request", param=name)
    items = [] if body.input is None else items_of(sent["input"])
    if not items and body.previous_response_id is None:
        raise ApiError(400, "input is missing", code="missing_required_parameter", param="input")
    options = options_of(request.headers, principal, prefix=PREFIX)
    fields = {name: value for name, value in sent.items() if name not in _LEFT_OUT}
    asked = ResponseBody.model_validate({**fields, "input": asking(items)})
    made = await create(gateway, asked, options, principal)
    headers = job_headers(made.job_id)
    on_leave = canceller(gateway, [made.job_id], wanted=options.cancel_on_close)
    response = await while_connected(request, gateway, whole(gateway, made), headers, on_leave)
    summary = _text(response)
    if response.get("status") != "completed" or not summary.strip():
        # Half a summary would be a conversation that has lost its end without a word.
        message = f"the summary is {response.get('status')} or empty: ask again, or another model"
        raise ApiError(502, message, code="compaction_failed", headers=headers)
    compaction = Compaction(
        id=made.job_id,
        created_at=int(str(response["created_at"])),
        output=[*kept(input_items(made)[:-1]), packed(summary, f"cmp_{made.job_id}")],
        usage=_usage(response),
    )
    return JSONResponse(compaction.model_dump(), headers=headers)


def _text(response: JsonObject) -> str:
    parts = [part for item in objects(response.get("output")) for part in objects(item.get("content"))]
    return "".join(str(part.get("text")) for part in parts if part.get("type") == "output_text")


def _usage(response: JsonObject) -> JsonObject:
    """Zeros from an upstream that tells none: a compaction always has one."""
    told = response.get("usage")
    return told if isinstance(told, dict) else response_usage({"input_tokens": 0, "output_tokens": 0}) or {}
