"""What an operator sets: the environment (`TAILRACE_REDIS_URL`, `TAILRACE_NAMESPACE`, `TAILRACE_CONFIG`) and a TOML file.

What is secret is read from a file where a variable with `_FILE` behind its name names one: `TAILRACE_REDIS_URL_FILE`,
`OPENAI_API_KEY_FILE`, and so each variable that a setting `..._env` names (schemas/secrets.py).

```toml
namespace = "tailrace"

[upstreams.default]                        # without it: the openai package's own environment
base_url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"             # the name of a variable; a key itself has no place in a file
proxy = "http://127.0.0.1:3128"
fallback = "local"

[upstreams.local]
base_url = "http://127.0.0.1:8089/v1"
api_key_env = ""                           # needs none
concurrency = 4

[worker]
max_jobs = 100
queues = ["interactive", "default"]        # in this order; jobs name one (submit(queue=...)), or go to "default"

[webhooks.billing]                         # told of ended jobs by `tailrace webhooks`
url = "https://billing.example.com/hooks/tailrace"
secret_env = "BILLING_WEBHOOK_SECRET"      # the name of a variable that holds whsec_...
statuses = ["completed", "incomplete"]

[gateway]                                  # `tailrace serve`
port = 8722
cors_origins = ["https://app.example.com"]

[gateway.tenants.acme]                     # `tailrace keys new acme` makes a key and prints its hash
key_hashes = ["sha256:212e032aa81d0a111c24952628089f83be4fc2ed12309b6db4c78187407ff14b"]
requests_per_minute = 600
```
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tailrace.schemas.errors import InvalidRequest
from tailrace.schemas.keys import DEFAULT_NAMESPACE, Keys, check_group
from tailrace.schemas.requests import RequestLimits
from tailrace.schemas.secrets import FILE, secret_of
from tailrace.schemas.sections import GatewaySettings, UpstreamSettings, WebhookSettings, WorkerSettings


class _SecretFiles(PydanticBaseSettingsSource):
    """Settings that `repr` does not show, from the files that `TAILRACE_<SETTING>_FILE` name.

    Not pydantic-settings' own `secrets_dir`: that knows settings only, not the variables that settings name, and where
    the folder is would have to be set before there are settings.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = f"{self.config.get('env_prefix', '')}{field_name}".upper()
        return (secret_of(name) or None) if not field.repr and os.environ.get(name + FILE) else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Settings(BaseSettings):
    """Everything that can be set. `Settings.load()` reads the environment and the file that `TAILRACE_CONFIG` names."""

    model_config = SettingsConfigDict(env_prefix="TAILRACE_", env_ignore_empty=True, extra="forbid", frozen=True)

    redis_url: str | None = Field(default=None, repr=False)
    """None: the embedded server. Not shown by `repr`: it may hold a password."""
    queue_url: str | None = Field(default=None, repr=False)
    """The server of the queue, if it is not that of the logs. A cluster of logs needs one: arq's queue is a single primary."""
    namespace: str = DEFAULT_NAMESPACE
    queue_capacity: int = Field(default=0, ge=0)
    """The most jobs that may be queued or running; 0 for no limit."""
    ended_shards: int = Field(default=1, ge=1, le=64)
    """Over how many streams ended jobs are spread. Raise it for readers before workers; before it is lowered, let all
    groups read what there is."""
    ended_kept: int = Field(default=10_000, ge=1)
    """How many ended jobs a stream keeps for groups that come later."""
    ended_limit: int = Field(default=100_000, ge=1)
    """How many it keeps for groups that have not acknowledged them yet. What is dropped beyond that is logged."""
    limits: RequestLimits = Field(default_factory=RequestLimits)
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict[str, UpstreamSettings])
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    webhooks: dict[str, WebhookSettings] = Field(default_factory=dict[str, WebhookSettings])
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    log_format: Literal["text", "json"] = "text"
    """What the commands that serve write to standard error: text for people, or one JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Of tailrace's own lines. Libraries are never heard below INFO: what they tell there has prompts and keys in it."""
    log_jobs: bool = True
    """Whether each job's beginning and end is a line at INFO. Failures are lines in any case."""
    log_access: bool = True
    """Whether each request of the gateway is a line at INFO."""
    config: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings, file_secret_settings

    @field_validator("namespace")
    @classmethod
    def _is_namespace(cls, namespace: str) -> str:
        return Keys(namespace).namespace

    @field_validator("upstreams")
    @classmethod
    def _fall_back_to_others(cls, upstreams: dict[str, UpstreamSettings]) -> dict[str, UpstreamSettings]:
        for name, upstream in upstreams.items():
            others = sorted({*upstreams, "default"} - {name})
            if upstream.fallback is not None and upstream.fallback not in others:
                known = ", ".join(others) or "there is no other"
                raise ValueError(f"upstream {name!r} falls back to {upstream.fallback!r}, which is none of: {known}")
        return upstreams

    @field_validator("webhooks")
    @classmethod
    def _can_be_groups(cls, webhooks: dict[str, WebhookSettings]) -> dict[str, WebhookSettings]:
        for name in webhooks:
            check_group(webhook_group(name))
        return webhooks

    @property
    def keys(self) -> Keys:
        return Keys(
            self.namespace,
            ended_shards=self.ended_shards,
            ended_kept=min(self.ended_kept, self.ended_limit),
            ended_limit=self.ended_limit,
        )

    def upstream(self, name: str) -> UpstreamSettings | None:
        """The settings of a named upstream; `default` always exists. None if there is none of that name."""
        return self.upstreams.get(name) or (_DEFAULT_UPSTREAM if name == "default" else None)

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """File, environment and these overrides, the last one strongest, setting by setting.

        Raises: InvalidRequest naming what is wrong.
        """
        try:
            base = cls(**{name: _plain(value) for name, value in overrides.items() if value is not None})
            if base.config is None:
                return base
            with base.config.open("rb") as file:
                table = tomllib.load(file)
            return cls(**_merged(table, base.model_dump(exclude_unset=True)))
        except OSError as error:
            raise InvalidRequest(f"the file of settings (--config, TAILRACE_CONFIG) cannot be read: {error}") from error
        except SettingsError as error:
            raise InvalidRequest(f"a TAILRACE_ variable for a section must be JSON: {error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the file of settings (--config, TAILRACE_CONFIG) is no TOML: {error}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise InvalidRequest(f"there is no setting {where!r}") from None
            raise InvalidRequest(f"setting {where!r}: {first['msg'].removeprefix('Value error, ')}") from None


def webhook_group(name: str) -> str:
    """The group in which a webhook's messages are handed out."""
    return f"webhook:{name}"


def _plain(value: Any) -> Any:
    """Sections as tables of what is set in them, so that the environment and the file can fill in the rest."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]  # foreign
    return value


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both tables in one, sections key by key; `over` wins."""
    both = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            both[name] = _merged(under[name], over[name])
    return both


_DEFAULT_UPSTREAM: Final = UpstreamSettings()
