"""A request of the Responses API as what an upstream is asked: the arguments of a job request. Pure.

An upstream that speaks Responses gets the body as it came; to one that speaks chat completions, or legacy completions, it
is translated. Fields that cannot matter there are left out, those that would silently change what is meant are refused,
and those that are not of this API (`top_k`, `stop`, `chat_template_kwargs` ...) are passed on.
"""

from typing import Any, Final, Literal

from pydantic import JsonValue

from tailrace.gateway.errors import ApiError
from tailrace.gateway.openai.items import messages_of, prompt_of
from tailrace.schemas import JsonObject

Dialect = Literal["chat", "completions", "responses"]

#: What the gateway does itself, whatever the upstream speaks.
_OURS: Final = frozenset(
    {"model", "input", "stream", "background", "background_options", "store", "previous_response_id", "stream_options"}
)
#: Translated below, or without a meaning for a chat.
_TRANSLATED: Final = frozenset(
    {
        "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "max_output_tokens", "include",
        "metadata", "truncation", "max_tool_calls", "prompt_cache_retention", "prompt_cache_options",
    }
)  # fmt: skip
#: They bring in what only the upstream has, or ask for what only it does.
_REFUSED: Final = ("conversation", "prompt", "context_management", "moderation")


def native_params(body: JsonObject) -> JsonObject:
    """The fields of a body for an upstream that speaks Responses."""
    params = {name: value for name, value in body.items() if name not in _OURS}
    if body.get("store") is False:  # whoever wants nothing kept wants it nowhere
        params["store"] = False
    return params


def chat_arguments(body: JsonObject, items: list[JsonObject], *, limit_field: str) -> dict[str, Any]:
    """`messages` and `params` of a chat. `limit_field`: what the upstream calls max_output_tokens. Raises: ApiError."""
    _check(body, "chat completions")
    params = _others(body)
    params |= _sampling(body, limit_field)
    tools, choice = _tools(body)
    if tools:
        params["tools"] = tools
        if choice is not None:
            params["tool_choice"] = choice
        if body.get("parallel_tool_calls") is not None:
            params["parallel_tool_calls"] = body["parallel_tool_calls"]
    text = _section(body, "text")
    form = _response_format(text.get("format"))
    if form is not None:
        params["response_format"] = form
    if text.get("verbosity") is not None:
        params["verbosity"] = text["verbosity"]
    effort = _section(body, "reasoning").get("effort")
    if effort is not None:
        params["reasoning_effort"] = effort
    if _wants_logprobs(body):
        params["logprobs"] = True
    else:
        params.pop("top_logprobs", None)
    return {"messages": messages_of(items, _instructions(body)), "params": params}


def completions_arguments(body: JsonObject, items: list[JsonObject]) -> dict[str, Any]:
    """`prompt` and `params` of a legacy completion. Raises: ApiError."""
    _check(body, "legacy completions")
    for name, asked in (
        ("tools", body.get("tools")),
        ("text.format", _response_format(_section(body, "text").get("format"))),
        ("reasoning.effort", _section(body, "reasoning").get("effort")),
    ):
        if asked:
            raise _refused(f"{name}: legacy completions have nothing of the kind", name)
    params = _others(body)
    logprobs = params.pop("top_logprobs", None)
    if _wants_logprobs(body):
        params["logprobs"] = logprobs or 0
    return {
        "prompt": prompt_of(items, _instructions(body)),
        "params": params | _sampling(body, "max_tokens"),
    }


def _check(body: JsonObject, what: str) -> None:
    for name in _REFUSED:
        if body.get(name) is not None:
            raise _refused(f"{name}: an upstream that speaks {what} has nothing of the kind", name)


def _others(body: JsonObject) -> JsonObject:
    return {name: value for name, value in body.items() if name not in _OURS | _TRANSLATED and value is not None}


def _sampling(body: JsonObject, limit_field: str) -> JsonObject:
    limit = body.get("max_output_tokens")
    return {} if limit is None else {limit_field: limit}


def _instructions(body: JsonObject) -> str | None:
    given = body.get("instructions")
    if given is not None and not isinstance(given, str):
        raise _refused("instructions must be a str", "instructions")
    return given


def _tools(body: JsonObject) -> tuple[list[JsonValue], JsonValue]:
    """The tools and the choice among them."""
    given = body.get("tools") or []
    if not isinstance(given, list):
        raise _refused("tools must be a list", "tools")
    tools = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(given)]
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return [*tools], choice
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return [*tools], {"type": kind, kind: {"name": choice.get("name")}}
    allowed = choice.get("tools")
    if kind == "allowed_tools" and isinstance(allowed, list):
        # Few servers know allowed_tools; all know a list of tools.
        names = [tool.get("name") for tool in allowed if isinstance(tool, dict)]
        return [tool for tool in tools if _section(tool, str(tool["type"])).get("name") in names], choice.get("mode")
    raise _refused(f"tool_choice: a chat cannot be told to use {kind!r}", "tool_choice")


def _tool(tool: JsonValue, where: str) -> JsonObject:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or kind not in ("function", "custom"):
        raise _refused(
            f"{where}: an upstream that speaks chat completions has no tool {kind!r}: it takes functions", where
        )
    names = ("name", "description", "parameters", "strict") if kind == "function" else ("name", "description", "format")
    return {"type": kind, kind: {name: tool[name] for name in names if tool.get(name) is not None}}


def _response_format(form: JsonValue) -> JsonObject | None:
    if not isinstance(form, dict) or form.get("type") in (None, "text"):
        return None
    if form["type"] != "json_schema":
        return {"type": form["type"]}
    names = ("name", "description", "schema", "strict")
    return {"type": "json_schema", "json_schema": {name: form[name] for name in names if form.get(name) is not None}}


def _wants_logprobs(body: JsonObject) -> bool:
    included = body.get("include")
    return bool(body.get("top_logprobs")) or (isinstance(included, list) and "message.output_text.logprobs" in included)


def _section(body: JsonObject, name: str) -> JsonObject:
    given = body.get(name)
    return given if isinstance(given, dict) else {}


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_request", param=param)
