"""What a request asks for, the same for the three APIs: pure parsing, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, cast

Api = Literal["chat", "completions", "responses"]


class BadRequest(ValueError):
    """The body is no request of this API; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the request offers."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, reduced to what decides the answer."""

    api: Api
    model: str
    prompts: tuple[str, ...]
    """One, but for legacy completions with a list of prompts."""
    history: str
    """All that the model is given, as text: counted as prompt tokens."""
    prefill: str
    """What the answer begins with already: the text of a last message whose role is assistant."""
    after_tool: bool
    """The last message is a tool's result."""
    limit: int | None
    stops: tuple[str, ...]
    n: int
    stream: bool
    include_usage: bool
    logprobs: bool
    top_logprobs: int
    tools: tuple[Tool, ...]
    tool_choice: str
    """`auto`, `none`, `required`, or a function's name after `=`."""
    schema: Mapping[str, Any] | None
    """The JSON Schema that the text must fit; `{}` means any object."""

    @property
    def prompt(self) -> str:
        return self.prompts[0]


def parse_ask(api: Api, body: Mapping[str, Any]) -> Ask:
    """The request in the words of this room. Raises: BadRequest."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter", "model")
    turns = _turns(api, body)
    prefill = ""
    if turns and turns[-1][0] == "assistant" and api != "completions":
        prefill = turns.pop()[1]
    asked = [text for role, text in turns if role == "user"] or [text for _, text in turns]
    form = _mapping((_mapping(body.get("text")).get("format")) if api == "responses" else body.get("response_format"))
    logprobs = body.get("logprobs")
    include = _list(body.get("include"))
    return Ask(
        api=api,
        model=model,
        prompts=tuple(asked) if api == "completions" else (asked[-1] if asked else "",),
        history="\n".join(text for _, text in turns),
        prefill=prefill,
        after_tool=bool(turns) and turns[-1][0] == "tool",
        limit=_limit(body),
        stops=_strings(body.get("stop")),
        n=1 if api == "responses" else _count(body, "n", 1),
        stream=bool(body.get("stream")),
        include_usage=bool(_mapping(body.get("stream_options")).get("include_usage")),
        logprobs="message.output_text.logprobs" in include if api == "responses" else logprobs not in (None, False),
        top_logprobs=int(logprobs or 0) if api == "completions" else int(body.get("top_logprobs") or 0),
        tools=_tools(body.get("tools")),
        tool_choice=_tool_choice(body.get("tool_choice")),
        schema=_schema(form),
    )


def _turns(api: Api, body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Role and text of each message, or each prompt of a legacy completion."""
    if api == "completions":
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            return [("user", prompt)]
        if not _is_list(prompt):
            raise BadRequest("you must provide a prompt", "prompt")
        several = prompt
        if several and all(isinstance(each, int) for each in several):
            return [("user", str(several))]
        return [("user", each if isinstance(each, str) else str(each)) for each in several] or [("user", "")]
    if api == "chat":
        messages = body.get("messages")
        if not _is_list(messages) or not messages:
            raise BadRequest("you must provide messages", "messages")
        return [_turn(message) for message in messages]
    given = body.get("input")
    turns = [("system", str(body["instructions"]))] if body.get("instructions") else []
    if isinstance(given, str):
        return [*turns, ("user", given)]
    if not _is_list(given):
        raise BadRequest("you must provide input", "input")
    return turns + [_turn(item) for item in given]


def _turn(message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise BadRequest(f"a message must be an object, not {message!r}", "messages")
    fields = cast("Mapping[str, Any]", message)
    if fields.get("type") == "function_call_output":
        return "tool", _text(fields.get("output"))
    role = str(fields.get("role") or "tool")
    return ("tool" if role == "function" else role), _text(fields.get("content"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not _is_list(content):
        return ""
    parts = [_mapping(part) for part in content]
    return " ".join(str(part.get("text", "")) for part in parts if "text" in part)


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _list(value: object) -> list[Any]:
    return value if _is_list(value) else []


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(each) for each in _list(value))


def _count(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadRequest(f"{name} must be a positive integer, not {value!r}", name)
    return value


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        if body.get(name) is not None:
            return _count(body, name, 1)
    return None


def _tools(value: Any) -> tuple[Tool, ...]:
    """Functions of a chat (nested under `function`) and of Responses (flat)."""
    offered = [_mapping(tool) for tool in _list(value)]
    functions = [_mapping(tool.get("function")) or tool for tool in offered if tool.get("type") == "function"]
    return tuple(Tool(str(each.get("name")), _mapping(each.get("parameters"))) for each in functions)


def _tool_choice(value: Any) -> str:
    if isinstance(value, str):
        return value
    chosen = _mapping(value)
    name = _mapping(chosen.get("function")).get("name") or chosen.get("name")
    return f"={name}" if name else "auto"


def _schema(form: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if form.get("type") == "json_object":
        return {}
    if form.get("type") != "json_schema":
        return None
    return _mapping(_mapping(form.get("json_schema")).get("schema") or form.get("schema"))
