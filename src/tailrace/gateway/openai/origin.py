"""How a response was asked for, as it is kept with its job: for whoever retrieves it later, from any gateway. Pure.

`JobRequest.origin` holds the request's own fields and its items. Texts that the translated request has too (prompts, images)
are kept once: the origin refers to them.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pydantic import JsonValue

from tailrace.gateway.openai.items import items_of
from tailrace.schemas import JobRequest, JsonObject

#: The fields of a request that its response says again.
_ECHOED: Final = frozenset(
    {
        "background", "frequency_penalty", "instructions", "max_output_tokens", "max_tool_calls", "metadata",
        "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt_cache_key", "reasoning",
        "safety_identifier", "service_tier", "store", "temperature", "text", "tool_choice", "tools", "top_logprobs",
        "top_p", "truncation", "user",
    }
)  # fmt: skip
#: Shorter texts are as short as a reference to them.
_LONG: Final = 32
_REFERENCE: Final = "~"


class Asked(NamedTuple):
    """How a response was asked for."""

    given: JsonObject
    """The fields that were given, of those that a response says again."""
    before: list[JsonObject]
    """The items of the conversation that it goes on with."""
    items: list[JsonObject]
    """Its own."""

    @property
    def fields(self) -> JsonObject:
        """What the response object says of its request."""
        return {"background": False, **self.given}


def origin_of(body: JsonObject, before: Sequence[JsonObject], items: Sequence[JsonObject]) -> JsonObject:
    """What is kept with the job."""
    given: JsonObject = {name: body[name] for name in _ECHOED if body.get(name) is not None}
    return {"given": given, "before": [*before], "items": [*items]}


def with_origin(request: JobRequest, origin: JsonObject) -> JobRequest:
    """The request with its origin, which says nothing long a second time."""
    known = {text: number for number, text in enumerate(_texts(request))}
    packed = _packed(origin, known)
    return request.model_copy(update={"origin": packed})


def asked_of(request: JobRequest) -> Asked:
    """How a job was asked for; of a job that came in by another door, as one would have asked here."""
    if request.origin is None:
        return _elsewhere(request)
    origin = _unpacked(request.origin, list(_texts(request)))
    fields = origin if isinstance(origin, dict) else {}
    given = fields.get("given")
    return Asked(
        given if isinstance(given, dict) else {}, _objects(fields.get("before")), _objects(fields.get("items"))
    )


def _elsewhere(request: JobRequest) -> Asked:
    params = request.params
    given: JsonObject = {name: params[name] for name in _ECHOED if params.get(name) is not None}
    # Those of a chat have another shape.
    if request.api != "responses":
        given = {name: value for name, value in given.items() if name not in ("tools", "tool_choice", "reasoning")}
    if request.metadata:
        given.setdefault(
            "metadata", {name: value for name, value in request.metadata.items() if isinstance(value, str)}
        )
    if request.messages is not None:
        return Asked(given, [], items_of_messages(request.messages))
    shown = request.prompt if request.api == "completions" else request.input
    return Asked(given, [], items_of(shown) if isinstance(shown, str) else _objects(shown))


def items_of_messages(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """The items that the messages of a chat are; of parts that are no text, what they are called only."""
    items: list[JsonObject] = []
    for message in messages:
        role = message.get("role")
        if role == "tool":
            call_id, output = message.get("tool_call_id"), message.get("content")
            items.append({"type": "function_call_output", "call_id": call_id, "output": output})
            continue
        content = message.get("content")
        if content is not None:
            said = "output_text" if role == "assistant" else "input_text"
            text: list[JsonObject] = [{"type": said, "text": content}]
            parts = text if isinstance(content, str) else _parts(content, said)
            items.append({"type": "message", "role": role, "content": [*parts]})
        for call in _objects(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict):
                items.append({"type": "function_call", "call_id": call.get("id"), **function})
    return items


def _parts(content: JsonValue, said: str) -> list[JsonObject]:
    parts: list[JsonObject] = []
    for part in _objects(content):
        match part.get("type"):
            case "text":
                parts.append({"type": said, "text": part.get("text")})
            case "image_url":
                image = part.get("image_url")
                parts.append({"type": "input_image", "detail": "auto", "image_url": None})
                if isinstance(image, dict):
                    parts[-1] |= {"image_url": image.get("url"), "detail": image.get("detail") or "auto"}
            case kind:
                file = part.get("file")
                parts.append({"type": f"input_{kind}", **(file if isinstance(file, dict) else {})})
    return parts


def _texts(request: JobRequest) -> Iterator[str]:
    """The long texts of a request, always in the same order."""
    yield from _long([request.prompt, [*(request.messages or ())], request.input, request.params])


def _long(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) >= _LONG:
            yield value
    elif isinstance(value, dict):
        for name in sorted(value):  # Redis holds JSON: order is nothing that one may rely on
            yield from _long(value[name])
    elif isinstance(value, list):
        for item in value:
            yield from _long(item)


def _packed(value: JsonValue, known: dict[str, int]) -> JsonValue:
    if isinstance(value, str):
        return {_REFERENCE: known[value]} if value in known else value
    if isinstance(value, list):
        return [_packed(item, known) for item in value]
    if isinstance(value, dict):
        packed = {name: _packed(item, known) for name, item in value.items()}
        return {_REFERENCE: [packed]} if _REFERENCE in value else packed
    return value


def _unpacked(value: JsonValue, texts: Sequence[str]) -> JsonValue:
    if isinstance(value, list):
        return [_unpacked(item, texts) for item in value]
    if isinstance(value, dict):
        referred = value.get(_REFERENCE)
        if isinstance(referred, int):
            return texts[referred] if 0 <= referred < len(texts) else ""
        if isinstance(referred, list) and isinstance(referred[0], dict):  # a dict with a key of that name
            return {name: _unpacked(item, texts) for name, item in referred[0].items()}
        return {name: _unpacked(item, texts) for name, item in value.items()}
    return value


def _objects(value: JsonValue) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
