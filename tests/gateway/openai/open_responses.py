"""What the Open Responses specification requires of objects and events, and a gateway whose upstreams show what they were asked.

Source: openresponses.org, "Specification" and the API reference. Fields beyond these are allowed everywhere.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from gateways import Served, served
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from redis.asyncio import Redis
from sse import read_sse

from engine import engine
from tailrace.upstreams.rehearsal import Rehearsal

#: One model of each dress.
CHAT, NATIVE = "rehearsal", "native-model"


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    def as_sent(self) -> dict[str, Any]:
        """With nothing that was not there."""
        return self.model_dump(exclude_unset=True)


class OutputText(_Shape):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]


class OtherText(_Shape):
    type: Literal["input_text", "text", "summary_text", "reasoning_text"]
    text: str


class Refusal(_Shape):
    type: Literal["refusal"]
    refusal: str


class InputImage(_Shape):
    type: Literal["input_image"]
    image_url: str | None


class InputFile(_Shape):
    type: Literal["input_file"]


Part = Annotated[OutputText | OtherText | Refusal | InputImage | InputFile, Field(discriminator="type")]
_Progress = Literal["in_progress", "completed", "incomplete"]


class Message(_Shape):
    type: Literal["message"]
    id: str
    status: _Progress
    role: Literal["user", "assistant", "system", "developer"]
    content: list[Part]
    phase: Literal["commentary", "final_answer"] = "final_answer"


class FunctionCall(_Shape):
    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: _Progress


class FunctionCallOutput(_Shape):
    type: Literal["function_call_output"]
    id: str
    call_id: str
    output: str | list[Part]
    status: _Progress


class Reasoning(_Shape):
    type: Literal["reasoning"]
    id: str
    summary: list[Part]


class CompactionItem(_Shape):
    type: Literal["compaction"]
    id: str
    encrypted_content: str


Item = Annotated[Message | FunctionCall | FunctionCallOutput | Reasoning | CompactionItem, Field(discriminator="type")]


class _Cached(_Shape):
    cached_tokens: int


class _Reasoned(_Shape):
    reasoning_tokens: int


class Usage(_Shape):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: _Cached
    output_tokens_details: _Reasoned


class _Tool(_Shape):
    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class _Problem(_Shape):
    code: str
    message: str


class Response(_Shape):
    """A response. No field may be missing; null is allowed only where it is named."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    incomplete_details: dict[str, str] | None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[Item]
    error: _Problem | None
    tools: list[_Tool]
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any]
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: dict[str, Any]
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: dict[str, Any] | None
    usage: Usage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None

    @property
    def said(self) -> str:
        """Its text."""
        parts = [part for item in self.output if isinstance(item, Message) for part in item.content]
        return "".join(part.text for part in parts if isinstance(part, OutputText))


class Compaction(_Shape):
    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[Item]
    usage: Usage


_FIELDS: Final[dict[str, TypeAdapter[Any]]] = {
    "response": TypeAdapter(Response),
    "item": TypeAdapter(Item),
    "part": TypeAdapter(Part),
    **{name: TypeAdapter(int) for name in ("sequence_number", "output_index", "content_index")},
    **{name: TypeAdapter(str) for name in ("item_id", "delta", "text", "refusal", "arguments", "name")},
}
_PLACE: Final = ("item_id", "output_index")
#: What each event has beside its number.
_EVENTS: Final[dict[str, tuple[str, ...]]] = {
    **{
        f"response.{status}": ("response",)
        for status in ("created", "queued", "in_progress", "completed", "incomplete", "failed")
    },
    **{f"response.output_item.{what}": ("output_index", "item") for what in ("added", "done")},
    **{f"response.content_part.{what}": (*_PLACE, "content_index", "part") for what in ("added", "done")},
    "response.output_text.delta": (*_PLACE, "content_index", "delta"),
    "response.output_text.done": (*_PLACE, "content_index", "text"),
    "response.refusal.delta": (*_PLACE, "content_index", "delta"),
    "response.refusal.done": (*_PLACE, "content_index", "refusal"),
    "response.function_call_arguments.delta": (*_PLACE, "delta"),
    "response.function_call_arguments.done": (*_PLACE, "arguments"),
}
LAST: Final = ("response.completed", "response.incomplete", "response.failed", "error")


def check_event(event: dict[str, Any]) -> None:
    """Raises: KeyError for an event or field that is not there, ValidationError."""
    for name in ("sequence_number", *_EVENTS[event["type"]]):
        _FIELDS[name].validate_python(event[name], strict=True)


def check_events(events: list[dict[str, Any]]) -> Response:
    """The response that whole events end with: numbered without holes, items opened before they are filled and closed."""
    for event in events:
        check_event(event)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert [kind for kind in kinds if kind in LAST] == [kinds[-1]]
    response = Response.model_validate(events[-1]["response"])
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert added == [*range(len(added))]
    assert done == events[-1]["response"]["output"]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == response.said
    return response


def check_stream(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream: named as their type says, without ids, and `[DONE]` after the last."""
    *messages, done = read_sse(body)
    assert done.data == "[DONE]"
    assert [message.event for message in messages] == [message.json["type"] for message in messages]
    assert not any(message.last_id for message in messages)
    return [message.json for message in messages]


@dataclass
class Dressed:
    """A gateway before an upstream that speaks chat completions and one that speaks Responses."""

    gateway: Served
    native: Rehearsal

    def asked(self, model: str) -> list[tuple[str, str]]:
        """What the upstream of a model was asked last: who said what."""
        if model == NATIVE:
            body = self.native.calls[-1].body
            given: Any = body["input"]
            items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        else:
            items = self.gateway.engine.rehearsal.calls[-1].body["messages"]
        return [(item.get("role") or item["type"], _text(item.get("content"))) for item in items]

    async def respond(self, **body: Any) -> Response:
        """A response, answered whole."""
        answer = await self.gateway.http.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        return Response.model_validate(answer.json())

    async def compact(self, **body: Any) -> Compaction:
        """A conversation, compacted."""
        answer = await self.gateway.http.post("/v1/responses/compact", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-tailrace-job-id"] == answer.json()["id"]
        return Compaction.model_validate(answer.json())


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = content or []
    return "|".join(str(part.get("text", part["type"])) for part in parts)


@asynccontextmanager
async def dressed(redis: Redis, namespace: str) -> AsyncGenerator[Dressed]:
    """Everything, started."""
    async with Rehearsal() as native:
        settings: Any = {"base_url": native.base_url, "api_key_env": "", "max_retries": 0}
        upstreams = {"native": {**settings, "api": "responses", "models": [NATIVE]}}
        running = engine(redis, namespace, upstream={"max_retries": 0}, upstreams=upstreams)
        async with running as started, served(started) as gateway:
            yield Dressed(gateway, native)
