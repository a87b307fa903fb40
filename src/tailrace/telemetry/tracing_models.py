"""The span of one call of a model: what was asked and how it was answered, never in which words.

By OpenTelemetry's conventions for generative AI: github.com/open-telemetry/semantic-conventions-genai,
docs/gen-ai/client-inference.md. Their opt-in attributes with messages and outputs are not offered.
"""

import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final, cast

from tailrace.schemas import JobRequest
from tailrace.telemetry.tracing import NOTHING, Span, Value, start, tracing, word_for

_OPERATIONS: Final = {"chat": "chat", "responses": "chat", "completions": "text_completion"}
_API_TYPES: Final = {"chat": "chat_completions", "responses": "responses"}
#: By what the name of their host ends in. Whoever else speaks the OpenAI API is that, as the conventions have it.
_PROVIDERS: Final = {
    ".openai.azure.com": "azure.ai.openai",
    ".services.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "api.cohere.ai": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
#: Numbers of a request's body that say how the model is to answer -> their attributes.
_NUMBERS: Final = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}
_WHOLE: Final = frozenset({"gen_ai.request.max_tokens", "gen_ai.request.seed"})
#: Where upstreams put their counts (chat, then Responses) -> their attributes.
_USAGE: Final = {
    ("prompt_tokens",): "gen_ai.usage.input_tokens",
    ("input_tokens",): "gen_ai.usage.input_tokens",
    ("completion_tokens",): "gen_ai.usage.output_tokens",
    ("output_tokens",): "gen_ai.usage.output_tokens",
    ("prompt_tokens_details", "cached_tokens"): "gen_ai.usage.cache_read.input_tokens",
    ("input_tokens_details", "cached_tokens"): "gen_ai.usage.cache_read.input_tokens",
    ("completion_tokens_details", "reasoning_tokens"): "gen_ai.usage.reasoning.output_tokens",
    ("output_tokens_details", "reasoning_tokens"): "gen_ai.usage.reasoning.output_tokens",
}
#: A name that somebody else chose is no place for a text.
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}", re.ASCII)
_PORTS: Final = {"http": 80, "https": 443}


class ModelCall:
    """A call under way. Each of its methods does nothing where nobody traces."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._began = time.monotonic()

    def asks(self, scheme: str, host: str, port: int | None) -> None:
        """Where the upstream is."""
        provider = next((name for end, name in _PROVIDERS.items() if f".{host}".endswith(end)), "openai")
        self.span.set(
            {
                "gen_ai.provider.name": provider,
                "server.address": host,
                "server.port": port or _PORTS.get(scheme),
            }
        )

    def traceparent(self) -> dict[str, str]:
        """For the request's header. Not what other tracers keep in `tracestate`: a third party gets random ids only."""
        return {name: value for name, value in self.span.carrier().items() if name == "traceparent"}

    def began(self, first_at: float | None, retries: int) -> None:
        """When its first text came, by the monotonic clock; how often the request was sent again."""
        first_s = None if first_at is None else max(0.0, first_at - self._began)
        self.span.set({"gen_ai.response.time_to_first_chunk": first_s, "http.request.resend_count": retries or None})

    def answered(
        self, *, reason: str | None, model: str | None, response_id: str | None, usage: Mapping[str, object] | None
    ) -> None:
        """How it ended, if it ended well."""
        if self.span.recording:
            self.span.set(
                {
                    "gen_ai.response.finish_reasons": [word] if (word := name_of(reason)) else None,
                    "gen_ai.response.model": name_of(model),
                    "gen_ai.response.id": name_of(response_id),
                    **_counts(usage or {}),
                }
            )


#: The call where nobody traces.
UNTRACED: Final = ModelCall(NOTHING)


@contextmanager
def calling(request: JobRequest, *, model: str | None, upstream: str) -> Generator[ModelCall]:
    """A call of a model, from its request to the end of its answer. It is not entered: its answer is iterated over."""
    if not tracing():
        yield UNTRACED
        return
    operation = _OPERATIONS.get(request.api, request.api)
    name = name_of(model)
    api_type = _API_TYPES.get(request.api)
    attributes: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": name,
        "gen_ai.request.stream": True,
        "openai.api.type": api_type,
        "tailrace.upstream.name": upstream,
        **_asked(request.params),
    }
    call = ModelCall(start(f"{operation} {name}" if name else operation, "CLIENT", attributes))
    try:
        yield call
    except BaseException as error:
        detail = getattr(error, "detail", None)
        kind = getattr(detail, "type", None)
        call.span.fail(kind if isinstance(kind, str) else word_for(error))
        status = getattr(detail, "http_status", None)
        call.span.set({"http.response.status_code": status if isinstance(status, int) else None})
        raise
    finally:
        call.span.end()


def _asked(params: Mapping[str, object]) -> dict[str, Value | None]:
    asked: dict[str, Value | None] = {}
    for name, attribute in _NUMBERS.items():
        value = params.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            asked[attribute] = value if attribute in _WHOLE else float(value)
    choices = params.get("n")
    if isinstance(choices, int) and choices != 1:
        asked["gen_ai.request.choice.count"] = choices
    return asked


def _counts(usage: Mapping[str, object]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path, attribute in _USAGE.items():
        found: object = usage
        for name in path:
            found = _fields(found).get(name)
        if isinstance(found, int) and not isinstance(found, bool):
            counts[attribute] = found
    return counts


def _fields(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def tokens_of(usage: Mapping[str, object] | None) -> tuple[int | None, int | None]:
    """Tokens in and out, under whichever names."""
    counts = _counts(usage or {})
    return counts.get("gen_ai.usage.input_tokens"), counts.get("gen_ai.usage.output_tokens")


def name_of(value: str | None) -> str | None:
    """A model's name, an id, a finish reason, as somebody else gave it. None if it looks like anything but a name."""
    return value if value is not None and _NAME.fullmatch(value) else None
