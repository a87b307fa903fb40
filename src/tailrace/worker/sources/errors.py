"""What goes wrong with an upstream: one error class, told apart by a stable word."""

from typing import Any, Literal, cast

from tailrace.schemas import ErrorDetail

Phase = Literal["request", "stream"]

#: The stable words of `ErrorDetail.type`.
Fault = Literal[
    "no_api_key",
    "unknown_upstream",
    "upstream_auth",
    "upstream_broken",
    "upstream_error",
    "upstream_malformed",
    "upstream_not_stream",
    "upstream_stalled",
    "upstream_status",
    "upstream_timeout",
    "upstream_unreachable",
]

MESSAGE_LIMIT = 500

#: In an error's type or code: the same request would fail again. Everything else may pass.
_FINAL_WORDS = (
    "auth",
    "content_filter",
    "content_policy",
    "context_length",
    "forbidden",
    "invalid",
    "not_found",
    "permission",
    "quota",
    "unsupported",
)
_PASSING_STATUS = frozenset({408, 409, 425, 429})


class UpstreamError(Exception):
    """An upstream did not give what was asked for. `.detail` is fit for the job's end record.

    `.phase` tells whether the upstream took the request ("stream") or not ("request"); `.retries_taken` how many
    retries were used up before it failed.
    """

    def __init__(
        self,
        fault: Fault,
        message: str,
        *,
        phase: Phase = "stream",
        code: str | None = None,
        http_status: int | None = None,
        retryable: bool = False,
        retries_taken: int = 0,
    ) -> None:
        super().__init__(f"{fault}: {message}")
        self.detail = ErrorDetail(type=fault, message=message, code=code, http_status=http_status, retryable=retryable)
        self.phase: Phase = phase
        self.retries_taken = retries_taken


def broken(message: str) -> UpstreamError:
    """The stream ended before it was finished."""
    return UpstreamError("upstream_broken", message, retryable=True)


def malformed(message: str) -> UpstreamError:
    """The stream is not what its protocol allows."""
    return UpstreamError("upstream_malformed", message, retryable=True)


def status_retryable(status: int) -> bool:
    """Whether a request that got this HTTP status may succeed later."""
    return status >= 500 or status in _PASSING_STATUS


def reported(body: object, *, secret: str = "", phase: Phase = "stream") -> UpstreamError:
    """The error that an upstream reports in its stream: `{"error": {...}}`, the same flat, or a bare text."""
    message, code = describe(body, secret=secret)
    told = f"the upstream reported an error: {message}" if message else "the upstream reported an error without a text"
    return UpstreamError("upstream_error", told, phase=phase, code=code, retryable=_passing(body))


def describe(body: object, *, secret: str = "") -> tuple[str, str | None]:
    """Message and code of an error body, whatever its shape. The message is shortened and holds no key."""
    inner = _inner(body)
    if not isinstance(inner, dict):
        return short(inner, secret) if isinstance(inner, str) else "", None
    fields = cast("dict[str, Any]", inner)
    message = next((fields[name] for name in ("message", "detail", "msg") if isinstance(fields.get(name), str)), "")
    code = next((fields[name] for name in ("code", "type", "status") if _is_word(fields.get(name))), None)
    return short(message, secret), None if code is None else short(str(code), secret)[:100]


def short(text: str, secret: str = "") -> str:
    """An upstream's own words: without the key, on one line, of a bounded length."""
    if secret:  # before shortening: half a key is still a secret
        text = text.replace(secret, "[api key]")
    clean = text.encode(errors="replace").decode().replace("\x00", "")
    return " ".join(clean[: MESSAGE_LIMIT * 2].split())[:MESSAGE_LIMIT]


def _inner(body: object) -> object:
    if isinstance(body, dict):
        inner = cast("dict[str, Any]", body).get("error")
        if isinstance(inner, dict | str) and inner:
            return cast("object", inner)
    return body  # pyright: ignore[reportUnknownVariableType]  # foreign JSON


def _passing(body: object) -> bool:
    inner = _inner(body)
    if not isinstance(inner, dict):
        return True
    fields = cast("dict[str, Any]", inner)
    for value in (fields.get("code"), fields.get("type"), fields.get("status")):
        if isinstance(value, str) and value.isdecimal():
            value = int(value)  # "429" and 429 are the same code
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return status_retryable(value)
        if isinstance(value, str) and any(word in value.lower() for word in _FINAL_WORDS):
            return False
    return True


def _is_word(value: object) -> bool:
    return (isinstance(value, str) and bool(value)) or (isinstance(value, int) and not isinstance(value, bool))
