"""Which upstream a request goes to, and in which words. Pure."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from tailrace.gateway.openai.translate import Dialect
from tailrace.schemas import Settings, UpstreamSettings, completions_only

_OPENAI: Final = ("api.openai.com", ".openai.azure.com")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a response comes from."""

    upstream: str
    dialect: Dialect
    limit_field: Literal["max_tokens", "max_completion_tokens"]
    """What a chat there calls the most tokens of an answer."""


def upstream_of(settings: Settings, model: str | None) -> str:
    """The upstream that offers a model, as configured; else the default one."""
    return "default" if model is None else offered(settings).get(model, "default")


def target_of(settings: Settings, model: str | None, named: str | None, environment: Mapping[str, str]) -> Target:
    """`named`: the upstream that the request names, if it does. One that only the workers know is asked in a chat."""
    name = named or upstream_of(settings, model)
    upstream = settings.upstream(name) or UpstreamSettings()
    dialect: Dialect = upstream.api
    if dialect == "chat" and completions_only(model or upstream.default_model):
        dialect = "completions"
    return Target(name, dialect, _limit_field(upstream.base_url or environment.get("OPENAI_BASE_URL")))


def offered(settings: Settings) -> dict[str, str]:
    """The models that the configuration names, with the upstream that each is asked of."""
    models: dict[str, str] = {}
    # What the default upstream has too is asked of it.
    for name, upstream in sorted(settings.upstreams.items(), key=lambda item: item[0] != "default"):
        for model in (*upstream.models, *([upstream.default_model] if upstream.default_model else [])):
            models.setdefault(model, name)
    return models


def environment() -> Mapping[str, str]:
    """What the worker's openai package reads too, where nothing is configured."""
    return os.environ


def _limit_field(base_url: str | None) -> Literal["max_tokens", "max_completion_tokens"]:
    # OpenAI's reasoning models refuse max_tokens; of the others some pass over max_completion_tokens without a word.
    host = urlsplit(base_url).hostname or "" if base_url else _OPENAI[0]
    return "max_completion_tokens" if host.endswith(_OPENAI) else "max_tokens"
