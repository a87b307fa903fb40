"""Chat completions: the stream of chunks, and the whole answer.

Source: platform.openai.com/docs/api-reference/chat-streaming. Reasoning is `reasoning_content`, as most servers that
have it call it.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from pydantic import JsonValue

from tailrace.schemas import Choice, Extra, Finish, JsonObject, Logprobs, OpenPart, Result
from tailrace.views._messages import joined_logprobs
from tailrace.views._openai import ChoicesView
from tailrace.views._parts import Piece, Text

#: The part of the output -> the field of a delta that carries it.
_FIELDS: Final = {"text": "content", "reasoning": "reasoning_content", "refusal": "refusal"}


class ChatChunksView(ChoicesView):
    """The bodies of `chat.completion.chunk` events; `include_usage` as in the API's `stream_options`."""

    def _begin(self) -> None:
        super()._begin()
        self._opened: set[int] = set()

    def _fold(self, piece: Piece) -> Iterator[JsonObject]:
        match piece:
            case Text(part="text" | "reasoning" | "refusal"):
                yield from self._delta(piece.choice, {_FIELDS[piece.part]: piece.text}, piece.logprobs)
            case Text(part="tool_call"):
                fragment: JsonObject = {"index": piece.call, "function": {"arguments": piece.text}}
                yield from self._delta(piece.choice, {"tool_calls": [fragment]})
            case OpenPart(part="tool_call") if piece.id is not None or piece.name is not None:
                yield from self._delta(piece.choice, {"tool_calls": [_opening(piece)]})
            case Logprobs():
                yield from self._delta(piece.choice, {}, piece.logprobs)
            case Extra():
                yield from self._delta(piece.choice, piece.fields)
            case Finish():
                self._finished = True
                yield from self._finish(piece.choice, piece.reason)
            case _:
                pass

    def _finish(self, choice: int, reason: str) -> Iterator[JsonObject]:
        return self._delta(choice, {}, finish=reason)

    def _delta(
        self, choice: int, delta: JsonObject, logprobs: JsonValue = None, finish: str | None = None
    ) -> Iterator[JsonObject]:
        if choice not in self._opened:
            self._opened.add(choice)
            yield self._body([_choice(choice, {"role": "assistant", "content": "", "refusal": None})])
        yield self._body([_choice(choice, delta, logprobs, finish)])

    def _head(self) -> JsonObject:
        return {"id": chat_id(self.job_id), "object": "chat.completion.chunk"}


def chat_id(job_id: str) -> str:
    """The `id` of a chat completion that a job made."""
    return f"chatcmpl-{job_id}"


def chat_completion(result: Result) -> JsonObject:
    """The answer that an unstreamed call gets."""
    choices = result.choices or [Choice(finish_reason=result.finish_reason)]
    return {
        "id": chat_id(result.job_id),
        "object": "chat.completion",
        "created": created_of(result),
        "model": result.model or "",
        "choices": [
            {
                "index": choice.index,
                "message": _message(choice),
                "logprobs": joined_logprobs(choice.logprobs)["logprobs"] if choice.logprobs else None,
                "finish_reason": choice.finish_reason or result.finish_reason or "stop",
            }
            for choice in choices
        ],
        "usage": result.usage,
    }


def created_of(result: Result) -> int:
    """When the job was submitted, in seconds."""
    return (result.timings.created or 0) // 1000 if result.timings else 0


def _choice(
    index: int, delta: JsonObject, logprobs: JsonValue = None, finish: str | None = None
) -> dict[str, JsonValue]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _opening(part: OpenPart) -> JsonObject:
    call: JsonObject = {"index": part.index, "type": "function", "function": {"arguments": ""}}
    if part.id is not None:
        call["id"] = part.id
    if part.name is not None:
        call["function"] = {"name": part.name, "arguments": ""}
    return call


def _message(choice: Choice) -> JsonObject:
    speechless = bool(choice.tool_calls or choice.refusal)
    message: JsonObject = {
        "role": "assistant",
        "content": None if speechless and not choice.text else choice.text,
        "refusal": choice.refusal or None,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
    return _with(message, choice.extra)


def _with(message: JsonObject, extras: Iterable[JsonObject]) -> JsonObject:
    """The upstream's own fields, without those that the message has already."""
    for fields in extras:
        message |= {name: value for name, value in fields.items() if message.get(name) is None}
    return message
