"""Pieces and outputs of a run in the shapes that LangChain's readers know, ready for JSON.

Source: reference.langchain.com/python/langchain_core (AIMessageChunk, AIMessage, Generation, LLMResult).
"""

import json

from pydantic import JsonValue

from tailrace.schemas import Choice, Extra, Finish, Logprobs, OpenPart
from tailrace.views._fields import JsonObject
from tailrace.views._parts import Piece, Text


def message_chunk(piece: Piece) -> JsonObject | None:
    """A piece of a chat model's output as a serialised AIMessageChunk. None if it gives none."""
    match piece:
        case Text(part="text"):
            more: JsonObject = (
                {} if piece.logprobs is None else {"response_metadata": joined_logprobs([piece.logprobs])}
            )
            return _chunk(piece.text, **more)
        case Text(part="reasoning"):
            return _chunk(additional_kwargs={"reasoning_content": piece.text})
        case Text(part="refusal"):
            return _chunk(additional_kwargs={"refusal": piece.text})
        case Text(part="tool_call"):
            return _chunk(tool_call_chunks=[_tool_call_chunk(piece.call, args=piece.text)])
        case OpenPart(part="tool_call") if piece.id is not None or piece.name is not None:
            return _chunk(tool_call_chunks=[_tool_call_chunk(piece.index, id=piece.id, name=piece.name)])
        case Finish():
            return _chunk(response_metadata={"finish_reason": piece.reason})
        case Logprobs():
            return _chunk(response_metadata=joined_logprobs([piece.logprobs]))
        case Extra():
            return _chunk(additional_kwargs=piece.fields)
        case _:
            return None


def _chunk(content: str = "", **more: JsonValue) -> JsonObject:
    return {"type": "AIMessageChunk", "content": content, **more}


def _tool_call_chunk(index: int, *, id: str | None = None, name: str | None = None, args: str = "") -> JsonObject:  # noqa: A002 - LangChain's word
    return {"type": "tool_call_chunk", "index": index, "id": id, "name": name, "args": args}


def message(choice: Choice, *, model: str | None, usage: JsonObject | None) -> JsonObject:
    """A choice as a serialised AIMessage."""
    calls: list[JsonValue] = []
    invalid: list[JsonValue] = []
    for call in choice.tool_calls:
        try:
            # A tool without parameters is called with no text at all by some upstreams.
            args: JsonValue = json.loads(call.arguments or "{}")
        except ValueError:
            args = None
        if isinstance(args, dict):
            calls.append({"type": "tool_call", "id": call.id, "name": call.name, "args": args})
        else:
            invalid.append(
                {
                    "type": "invalid_tool_call",
                    "id": call.id,
                    "name": call.name,
                    "args": call.arguments,
                    "error": "the arguments are no JSON object",
                }
            )
    kwargs: JsonObject = {}
    for fields in choice.extra:
        kwargs.update(fields)
    if choice.reasoning:
        kwargs["reasoning_content"] = choice.reasoning
    if choice.refusal:
        kwargs["refusal"] = choice.refusal
    metadata: JsonObject = {"finish_reason": choice.finish_reason, "model_name": model}
    if choice.logprobs:
        metadata |= joined_logprobs(choice.logprobs)
    return {
        "type": "ai",
        "content": choice.text,
        "additional_kwargs": kwargs,
        "tool_calls": calls,
        "invalid_tool_calls": invalid,
        "response_metadata": metadata,
        "usage_metadata": usage_metadata(usage),
    }


def llm_result(choices: list[Choice]) -> JsonObject:
    """The choices of a completion as a serialised LLMResult: one prompt, its candidates."""
    generations: list[JsonValue] = [
        {
            "text": choice.text,
            "generation_info": {
                "finish_reason": choice.finish_reason,
                "logprobs": joined_logprobs(choice.logprobs)["logprobs"] if choice.logprobs else None,
            },
            "type": "Generation",
        }
        for choice in choices
    ]
    return {"generations": [generations], "llm_output": None, "type": "LLMResult"}


def usage_metadata(usage: JsonObject | None) -> JsonObject | None:
    """An upstream's usage (of any of its APIs) in LangChain's words. None if it told none."""
    if usage is None:
        return None
    read, written = (
        _first(usage, "input_tokens", "prompt_tokens"),
        _first(usage, "output_tokens", "completion_tokens"),
    )
    if read is None and written is None:
        return None
    total = usage.get("total_tokens")
    metadata: JsonObject = {
        "input_tokens": read or 0,
        "output_tokens": written or 0,
        "total_tokens": total if isinstance(total, int) else (read or 0) + (written or 0),
    }
    cached = _detail(usage, ("input_tokens_details", "prompt_tokens_details"), "cached_tokens")
    if cached is not None:
        metadata["input_token_details"] = {"cache_read": cached}
    reasoning = _detail(usage, ("output_tokens_details", "completion_tokens_details"), "reasoning_tokens")
    if reasoning is not None:
        metadata["output_token_details"] = {"reasoning": reasoning}
    return metadata


def _first(fields: JsonObject, *names: str) -> int | None:
    return next((count for name in names if isinstance(count := fields.get(name), int)), None)


def _detail(usage: JsonObject, groups: tuple[str, str], name: str) -> int | None:
    for group in groups:
        details = usage.get(group)
        if isinstance(details, dict) and (count := _first(details, name)) is not None:
            return count
    return None


def joined_logprobs(pieces: list[JsonValue]) -> JsonObject:
    """Log probabilities of several deltas as one object: lists of the same name are joined, bare lists are `content`."""
    joined: JsonObject = {}
    for piece in pieces:
        fields: JsonValue = {"content": piece} if isinstance(piece, list) else piece
        if not isinstance(fields, dict):
            continue
        for name, found in fields.items():
            before = joined.get(name)
            if isinstance(found, list) and isinstance(before, list):
                before.extend(found)
            else:
                joined[name] = list(found) if isinstance(found, list) else found
    return {"logprobs": joined}
