"""Input items of the Responses API as messages of a chat, or as the text of a legacy prompt. Pure.

What has no counterpart and would change the answer is refused; reasoning of earlier turns is left out, since no chat takes it.
Source: platform.openai.com/docs/api-reference/responses/create#responses_create-input.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import JsonValue

from tailrace.gateway.errors import ApiError
from tailrace.schemas import JsonObject

#: Chat templates of most open models know `system` only; OpenAI's own models take it as `developer` where they want that.
_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_CALLS: Final = {"function_call": "function", "custom_tool_call": "custom"}
_OUTPUTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})
#: Who speaks, in a prompt that is only text.
_SPEAKERS: Final = {"user": "User", "assistant": "Assistant"}


def items_of(given: JsonValue) -> list[JsonObject]:
    """The items that `input` means; a str is one message of the user. Raises: ApiError."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    if not isinstance(given, list):
        raise _refused("input must be a str or a list of items", "input")
    items: list[JsonObject] = []
    for number, item in enumerate(given):
        if not isinstance(item, dict):
            raise _refused(f"input[{number}] must be an object", f"input[{number}]")
        items.append(item if item.get("type") is not None else {**item, "type": _untyped(item)})
    return items


def _untyped(item: JsonObject) -> str:
    """The type of an item that says none: one that names another has nothing but its id."""
    return "item_reference" if "id" in item and "role" not in item else "message"


def check_calls(items: Sequence[JsonObject]) -> None:
    """Raises: ApiError for the output of a tool that nobody called before. Not if a part of the conversation is known to the
    upstream only."""
    called: set[object] = set()
    for item in items:
        kind = item.get("type")
        if kind in ("item_reference", "compaction"):
            return
        if kind in _CALLS:
            called.add(item.get("call_id"))
        elif kind in _OUTPUTS and item.get("call_id") not in called:
            raise _refused(f"No tool call found for {kind} with call_id {item.get('call_id')!r}.", "input")


def messages_of(items: Sequence[JsonObject], instructions: str | None = None) -> list[JsonObject]:
    """The chat that items are. Raises: ApiError for an item that a chat has no place for."""
    messages: list[JsonObject] = []
    leading = [instructions] if instructions else []
    for number, item in enumerate(items):
        where = f"input[{number}]"
        kind = item.get("type")
        if kind == "message":
            message = _message(item, where)
            if message["role"] == "system" and not messages and isinstance(message["content"], str):
                leading.append(message["content"])
            else:
                messages.append(message)
        elif kind in _CALLS:
            _add_call(messages, item)
        elif kind in _OUTPUTS:
            messages.append(
                {"role": "tool", "tool_call_id": item.get("call_id"), "content": _tool_output(item, f"{where}.output")}
            )
        elif kind != "reasoning":
            raise _refused(
                f"{where}: an upstream that speaks chat completions has no place for {kind!r}: send messages, function "
                'calls and their outputs, or configure api = "responses" for an upstream that has',
                where,
            )
    if leading:
        # One system message, the first: many chat templates refuse a second one.
        messages.insert(0, {"role": "system", "content": "\n\n".join(leading)})
    return messages


def prompt_of(items: Sequence[JsonObject], instructions: str | None = None) -> str:
    """The text that a legacy completions model goes on from: a lone message of the user as it is, a conversation with the
    speakers' names. Raises: ApiError for what is no text."""
    messages = messages_of(items, instructions)
    for message in messages:
        if not isinstance(message.get("content"), str) or message["role"] not in ("system", "user", "assistant"):
            raise _refused("a legacy completions model takes text only: no images, files and tool calls", "input")
    spoken = [message for message in messages if message["role"] != "system"]
    texts = [str(message["content"]) for message in messages]
    if len(spoken) <= 1 and all(message["role"] == "user" for message in spoken):
        return "\n\n".join(texts)
    lines = [
        f"{_SPEAKERS[str(message['role'])]}: {text}" if message["role"] != "system" else text
        for message, text in zip(messages, texts, strict=True)
    ]
    return "\n\n".join([*lines, "Assistant:"])


def _message(item: JsonObject, where: str) -> JsonObject:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise _refused(f"{where}.role must be user, assistant, system or developer, not {role!r}", f"{where}.role")
    message: JsonObject = {"role": _ROLES[str(role)], "content": None}
    if isinstance(content, str):
        return message | {"content": content}
    if not isinstance(content, list):
        raise _refused(f"{where}.content must be a str or a list of parts", f"{where}.content")
    parts = [_object(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
    if role == "assistant":
        refusals = [str(part.get("refusal") or "") for part in parts if part.get("type") == "refusal"]
        parts = [part for part in parts if part.get("type") != "refusal"]
        if refusals:
            message["refusal"] = "".join(refusals)
    if not parts:
        return message
    if all(part.get("type") in _TEXTS for part in parts) and (role != "user" or len(parts) == 1):
        return message | {"content": "".join(str(part.get("text") or "") for part in parts)}
    message["content"] = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(parts)]
    return message


def _part(part: JsonObject, where: str) -> JsonObject:
    match part.get("type"):
        case kind if kind in _TEXTS:
            return {"type": "text", "text": part.get("text")}
        case "input_image" if part.get("image_url"):
            image: JsonObject = {"url": part["image_url"]}
            if part.get("detail"):
                image["detail"] = part["detail"]
            return {"type": "image_url", "image_url": image}
        case "input_file" if part.get("file_data") or part.get("file_id"):
            names = ("file_data", "filename", "file_id")
            return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
        case kind:
            raise _refused(
                f"{where}: a chat has no place for {kind!r} of this kind: send text, an image_url, file_data or audio",
                where,
            )


def _add_call(messages: list[JsonObject], item: JsonObject) -> None:
    """Calls of one turn are one message of the assistant, together with what it said before them."""
    kind = _CALLS[str(item["type"])]
    said = "arguments" if kind == "function" else "input"
    call: JsonObject = {
        "id": item.get("call_id"),
        "type": kind,
        kind: {"name": item.get("name"), said: item.get(said) or ""},
    }
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    calls = messages[-1].setdefault("tool_calls", [])
    if isinstance(calls, list):
        calls.append(call)


def _tool_output(item: JsonObject, where: str) -> str:
    output = item.get("output")
    if isinstance(output, str):
        return output
    if not isinstance(output, list):
        raise _refused(f"{where} must be a str or a list of parts", where)
    parts = [_object(part, where) for part in output]
    if not all(part.get("type") in _TEXTS for part in parts):
        raise _refused(f"{where}: tools of a chat answer in text only", where)
    return "".join(str(part.get("text") or "") for part in parts)


def _object(value: JsonValue, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise _refused(f"{where} must be an object", where)
    return value


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_request", param=param)
