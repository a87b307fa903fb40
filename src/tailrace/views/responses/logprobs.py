"""Log probabilities of the completions APIs in the shape of the Responses API.

Source: platform.openai.com/docs/api-reference/chat-streaming, .../completions, .../responses-streaming.
"""

from pydantic import JsonValue

from tailrace.schemas import JsonObject
from tailrace.views._fields import json_dict, string


def token_logprobs(logprobs: JsonValue) -> list[JsonValue]:
    """One object for each token of the text. Empty if there is nothing of that kind."""
    if isinstance(logprobs, list):
        return _tokens(logprobs)
    fields = json_dict(logprobs)
    content = fields.get("content")
    if isinstance(content, list):
        return _tokens(content)
    tokens, values, tops = (_list(fields.get(name)) for name in ("tokens", "token_logprobs", "top_logprobs"))
    return [
        _token(
            {
                "token": token,
                "logprob": values[at] if at < len(values) else None,
                "top_logprobs": [
                    {"token": other, "logprob": value}
                    for other, value in json_dict(tops[at] if at < len(tops) else None).items()
                ],
            }
        )
        for at, token in enumerate(tokens)
        if isinstance(token, str)
    ]


def _tokens(found: list[JsonValue]) -> list[JsonValue]:
    return [_token(item) for item in found if isinstance(item, dict) and isinstance(item.get("token"), str)]


def _token(found: JsonObject) -> JsonObject:
    tops = [top for top in _list(found.get("top_logprobs")) if isinstance(top, dict)]
    return {
        **found,
        **_likely(found),
        "top_logprobs": [{**top, **_likely(top)} for top in tops],
    }


def _likely(found: JsonObject) -> JsonObject:
    """Token, bytes and log probability; the first token of an echoed prompt has none, which this API has no word for."""
    token = string(found.get("token")) or ""
    value, spelled = found.get("logprob"), found.get("bytes")
    return {
        "token": token,
        "bytes": spelled if isinstance(spelled, list) else list(token.encode(errors="replace")),
        "logprob": value if isinstance(value, int | float) else 0.0,
    }


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []
