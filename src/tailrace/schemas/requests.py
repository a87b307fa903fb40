"""What a caller asks for, checked before anything is stored.

A request names an upstream, never a URL; its `params` go into the body of the upstream's HTTP request and nowhere else.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from tailrace.schemas.errors import InvalidRequest
from tailrace.schemas.keys import DEFAULT_QUEUE, check_queue

Api = Literal["completions", "chat", "responses", "task"]
OnRestart = Literal["splice", "continue", "fail"]

#: Durations at the public face: a timedelta, or seconds.
Duration = timedelta | float | int

#: Keyword arguments of the openai package, and what our own call sets. As body fields they would be wrong, as keyword
#: arguments they would replace Host, Authorization or the whole URL (tried).
REFUSED_PARAMS: Final = frozenset(
    {
        "extra_headers", "extra_query", "extra_body", "timeout", "base_url", "api_key", "organization", "project",
        "http_client", "max_retries", "default_headers", "default_query", "websocket_base_url", "webhook_secret",
        "admin_api_key", "workload_identity", "data_residency", "idempotency_key", "stream",
    }
)  # fmt: skip

_PROMPT_PARAMS: Final = {
    "completions": frozenset({"prompt", "model"}),
    "chat": frozenset({"messages", "model"}),
    "responses": frozenset({"input", "model", "background"}),
    "task": frozenset[str](),
}

DEFAULT_DEADLINE_S: Final = 3600.0
DEFAULT_RETENTION_S: Final = 24 * 3600.0
#: How long after its deadline a job may still be open before anyone seals it as expired.
GRACE_S: Final = 30.0
_MAX_DURATION_S: Final = 366 * 24 * 3600.0

#: How an image's data URL begins. Text that merely starts with "data:" counts as text.
_DATA_URL: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+(;[\w=.+-]+)*;base64,", re.ASCII)

#: Bytes of metadata, tags and the names of model and task: they are part of every reader's first record.
METADATA_LIMIT: Final = 16 * 1024


class RequestLimits(BaseModel):
    """How large a request may be, in bytes of JSON in UTF-8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_bytes: int = Field(default=8 * 1024 * 1024, gt=0)
    """The whole request, without images: a model's context of two million tokens."""
    image_bytes: int = Field(default=20 * 1024 * 1024, gt=0)
    """The base64 `data:` URLs in messages or input together."""


class JobRequest(BaseModel):
    """A checked request. Build it with `JobRequest.of`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api: Api
    model: str | None = None
    prompt: JsonValue = None
    messages: list[dict[str, JsonValue]] | None = None
    input: JsonValue = None
    upstream: str = "default"
    task: str | None = None
    params: dict[str, JsonValue] = Field(default_factory=dict)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    deadline_s: float = DEFAULT_DEADLINE_S
    retention_s: float = DEFAULT_RETENTION_S
    delay_s: float = 0.0
    on_restart: OnRestart = "splice"
    then: str | None = None
    """The task that is started with the result, if the job ends well."""
    queue: str = DEFAULT_QUEUE
    """The queue that it waits in, for the workers that serve it."""
    tenant: str | None = None
    """Whom the job belongs to. A gateway sets it, never who asks it; nothing of `submit`'s."""
    origin: dict[str, JsonValue] | None = None
    """How it was asked, where a gateway has translated it: for who asks the gateway later, nothing of the worker's."""
    max_attempts: int = Field(default=3, ge=1, le=100, strict=True)

    @classmethod
    def of(
        cls,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        input: Any = None,  # noqa: A002  # the Responses API's own name
        api: Literal["auto"] | Api = "auto",
        model: str | None = None,
        upstream: str = "default",
        queue: str = DEFAULT_QUEUE,
        task: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        deadline: Duration | None = None,
        retention: Duration | None = None,
        delay: Duration | None = None,
        on_restart: OnRestart = "splice",
        max_attempts: int = 3,
        then: str | None = None,
        limits: RequestLimits | None = None,
        **params: Any,
    ) -> "JobRequest":
        """The request that these arguments of `submit` describe. Raises: InvalidRequest."""
        given = {
            name for name, value in (("prompt", prompt), ("messages", messages), ("input", input)) if value is not None
        }
        for name, value in (("model", model), ("upstream", upstream), ("task", task), ("then", then)):
            if value == "":
                raise InvalidRequest(f"{name} is empty: name one, or leave it out")
        chosen = _choose_api(api, given, model, task)
        if chosen == "chat" and prompt is not None:
            messages, shown_prompt = [{"role": "user", "content": _prompt(prompt)}], None
        else:
            shown_prompt = None if prompt is None else _prompt(prompt)
        _check_shape(chosen, messages, input)
        fields: dict[str, Any] = {
            "api": chosen,
            "model": model,
            "prompt": shown_prompt,
            "messages": None if messages is None else [dict(message) for message in messages],
            "input": _task_input(input) if chosen == "task" else input,
            "upstream": upstream,
            "queue": check_queue(queue),
            "task": task,
            "params": _params(chosen, params),
            "metadata": _metadata(metadata),
            "tags": _tags(tags),
            "deadline_s": seconds("deadline", deadline, DEFAULT_DEADLINE_S, above=0.0),
            "retention_s": seconds("retention", retention, DEFAULT_RETENTION_S, above=0.0),
            "delay_s": seconds("delay", delay, 0.0),
            "on_restart": on_restart,
            "max_attempts": max_attempts,
            "then": then,
        }
        try:
            request = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"][:2])
            raise InvalidRequest(f"{where or 'request'}: {first['msg']}") from None
        request.check_size(limits or RequestLimits())
        return request

    def canonical(self) -> bytes:
        """The request as bytes that are equal for equal requests. Raises: InvalidRequest for text that is no Unicode."""
        try:
            return json.dumps(
                # Without defaults: a field that a later version adds must not change what old requests digest to.
                self.model_dump(mode="python", exclude_defaults=True),
                ensure_ascii=False,
                allow_nan=False,
                sort_keys=True,
                separators=(",", ":"),
            ).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"the text has a lone surrogate (U+{ord(error.object[error.start]):04X}), which is no character: "
                "decode your input with errors='replace', or join the two halves of the pair"
            ) from None
        except ValueError as error:
            raise InvalidRequest(f"the request is not JSON: {error}") from None

    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def check_size(self, limits: RequestLimits) -> None:
        """Raises: InvalidRequest if the request is larger than the limits, or not Unicode."""
        whole = len(self.canonical())
        images = sum(len(url) for url in _data_urls([self.messages, self.input]))
        if images > limits.image_bytes:
            raise InvalidRequest(
                f"the images have {images} bytes, the limit is {limits.image_bytes}: scale them down or pass URLs "
                "(limits.image_bytes sets it)"
            )
        if whole - images > limits.text_bytes:
            raise InvalidRequest(
                f"the request has {whole - images} bytes of text, the limit is {limits.text_bytes}: shorten it "
                "(limits.text_bytes sets it)"
            )
        shown = [self.metadata, self.tags, self.model, self.task, self.then]
        public = len(json.dumps(shown, ensure_ascii=False).encode())
        if public > METADATA_LIMIT:
            raise InvalidRequest(
                f"metadata, tags, model, task and then have {public} bytes together, the limit is {METADATA_LIMIT}"
            )


def completions_only(model: str | None) -> bool:
    """Whether a model speaks only the legacy completions API."""
    return isinstance(model, str) and (model.endswith("-instruct") or model in {"davinci-002", "babbage-002"})


def seconds(name: str, value: object, default: float, *, above: float | None = None) -> float:
    """A public duration as seconds. Raises: InvalidRequest if it is negative, not finite or longer than a year."""
    if value is None:
        return default
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidRequest(f"{name} must be a timedelta or seconds, not {type(value).__name__}")
    if not 0 <= number <= _MAX_DURATION_S or (above is not None and number <= above):
        raise InvalidRequest(f"{name} must be a positive duration of at most 366 days, not {value!r}")
    return float(number)


def _choose_api(api: str, given: set[str], model: str | None, task: str | None) -> Api:
    if len(given) > 1:
        raise InvalidRequest(f"pass one of prompt, messages and input, not {' and '.join(sorted(given))}")
    if task is not None:
        if api not in ("auto", "task"):
            raise InvalidRequest(f"a task has no api: leave api={api!r} out")
        if given - {"input"}:
            raise InvalidRequest("a task takes input=, not prompt= or messages=")
        return "task"
    if not given:
        raise InvalidRequest("nothing to do: pass a prompt, messages=, input=, or task= and input=")
    what = next(iter(given))
    if api == "auto":
        if what == "prompt":
            return "completions" if completions_only(model) else "chat"
        return "chat" if what == "messages" else "responses"
    fits = {
        "completions": {"prompt"},
        "chat": {"prompt", "messages"},
        "responses": {"input"},
    }
    if not isinstance(cast("object", api), str) or api not in fits:
        raise InvalidRequest(f"api must be 'auto', 'completions', 'chat' or 'responses', not {api!r}")
    if what not in fits[api]:
        raise InvalidRequest(f"api={api!r} takes {' or '.join(f'{name}=' for name in sorted(fits[api]))}, not {what}=")
    return cast("Api", api)


def _task_input(value: object) -> JsonValue:
    """The JSON of models, dataclasses, dates and what else pydantic knows."""
    try:
        dumped: JsonValue = to_jsonable_python(value)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"input is no JSON, dataclass or pydantic model ({type(error).__name__})") from None
    return dumped


def _prompt(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise InvalidRequest(f"prompt must be a str, not {type(prompt).__name__}; a chat goes into messages=")
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty: write something for the model to answer")
    return prompt


def _check_shape(api: Api, messages: object, given_input: object) -> None:
    if api == "chat":
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise InvalidRequest("messages must be a list with at least one message")
        for number, message in enumerate(cast("Sequence[object]", messages)):
            if not isinstance(message, Mapping) or not isinstance(cast("Any", message).get("role"), str):
                raise InvalidRequest(f"messages[{number}] must be a dict with a 'role' and 'content'")
    elif api == "responses" and (
        not isinstance(given_input, str | list)
        or not (given_input.strip() if isinstance(given_input, str) else given_input)
    ):
        raise InvalidRequest("input must be a non-empty str or a non-empty list of items")


def _params(api: Api, params: Mapping[str, Any]) -> dict[str, Any]:
    body = dict(params)
    inner = body.pop("params", None)
    if inner is not None:
        if not isinstance(inner, Mapping):
            raise InvalidRequest("params must be a dict of fields for the upstream's request body")
        clash = sorted(set(body) & set(cast("Mapping[str, Any]", inner)))
        if clash:
            raise InvalidRequest(f"{clash[0]!r} is given twice: once as an argument and once in params")
        body.update(cast("Mapping[str, Any]", inner))
    for name in body:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # keys of a caller's own dict
            raise InvalidRequest(f"params have a key that is no str: {name!r}")
        if name in REFUSED_PARAMS:
            raise InvalidRequest(
                f"{name!r} is refused: it would steer the connection, not the model; a job names an upstream, and the "
                "operator configures that (TAILRACE_CONFIG)"
            )
        if name in _PROMPT_PARAMS[api]:
            raise InvalidRequest(f"{name!r} is an argument of submit of its own, it cannot be one of params")
    return body


def _tags(tags: Sequence[str] | None) -> list[str]:
    if tags is None:
        return []
    if isinstance(tags, str):
        raise InvalidRequest(f"tags must be a list of str, not one str: [{tags!r}]")
    if not isinstance(tags, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller's own
        raise InvalidRequest(f"tags must be a list of str, not {type(tags).__name__}")
    return list(tags)


def _metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller's own
        raise InvalidRequest(f"metadata must be a dict, not {type(metadata).__name__}")
    return dict(metadata)


def _data_urls(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if _DATA_URL.match(value):
            yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[str, object]", value).values():
            yield from _data_urls(item)
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[object]", value):
            yield from _data_urls(item)
