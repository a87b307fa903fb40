"""What an operator sets: the environment (`TAILRACE_REDIS_URL`, `TAILRACE_NAMESPACE`, `TAILRACE_CONFIG`) and a TOML file.

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

[webhooks.billing]                         # told of ended jobs by `tailrace webhooks`
url = "https://billing.example.com/hooks/tailrace"
secret_env = "BILLING_WEBHOOK_SECRET"      # the name of a variable that holds whsec_...
statuses = ["completed", "incomplete"]
```
"""

import tomllib
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tailrace.schemas.errors import InvalidRequest
from tailrace.schemas.keys import DEFAULT_NAMESPACE, Keys, check_group
from tailrace.schemas.records import Status
from tailrace.schemas.requests import RequestLimits


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UpstreamSettings(_Section):
    """One OpenAI-compatible service. Jobs name it; they never carry its URL."""

    base_url: str | None = None
    """None: the openai package's default (`OPENAI_BASE_URL`, else OpenAI)."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; "" if the service needs none."""
    proxy: str | None = Field(default=None, repr=False)
    """An HTTP proxy for this upstream only. None: the environment's (`HTTPS_PROXY` ...)."""
    default_model: str | None = None
    """For jobs that name no model."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    first_byte_timeout_s: float = Field(default=120.0, gt=0)
    """How long the upstream may think before its first byte."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """How long a stream may be silent before it counts as broken."""
    concurrency: int | None = Field(default=None, ge=1)
    """How many streams one worker process may have open there; more wait in the worker."""
    max_retries: int = Field(default=2, ge=0, le=10)
    """Retries of the request phase (connection, 408, 409, 429, 5xx), for the whole job."""
    fallback: str | None = None
    """The upstream to ask when this one does not take a request."""
    prefill: bool = False
    """Whether a chat whose last message is the assistant's is gone on with (for `on_restart="continue"`)."""


class WorkerSettings(_Section):
    """One worker process."""

    max_jobs: int = Field(default=1000, ge=1)
    lease_s: float = Field(default=5.0, gt=0.1)
    """A dead worker's jobs run again after this long."""
    drain_s: float = Field(default=30.0, ge=0)
    """How long running jobs may go on after SIGTERM before they are handed back."""
    output_bytes: int = Field(default=1024 * 1024, gt=0)
    """The most output that one job may have; it is held in memory for replay."""
    retry_delay_s: float = Field(default=0.5, ge=0)
    """The pause before a job's second attempt in the same worker; it doubles with each."""
    sweep_s: float = Field(default=5.0, gt=0)
    """How often the index of open jobs is looked through for what a crash left behind."""


class WebhookSettings(_Section):
    """One receiver of ended jobs. Jobs never name it: whoever may write the configuration says who is told."""

    url: str = Field(repr=False)
    """https, unless `allow_private`. Not shown by `repr`: its path or query may be a secret."""
    secret_env: str = Field(min_length=1)
    """The environment variable with the secret (`whsec_` and base64); several, separated by spaces, while it is rotated."""
    statuses: tuple[Status, ...] = ()
    """Only jobs that ended so; empty: all."""
    tags: tuple[str, ...] = ()
    """Only jobs with one of these tags; empty: all."""
    tasks: tuple[str, ...] = ()
    """Only jobs of these tasks; empty: all."""
    timeout_s: float = Field(default=15.0, gt=0, le=60)
    """How long one try may take as a whole."""
    max_attempts: int = Field(default=9, ge=1, le=100)
    """After so many tries a message is parked."""
    first_pause_s: float = Field(default=2.0, gt=0)
    """Before the second try; four times as long before each further one, give or take a quarter."""
    longest_pause_s: float = Field(default=3600.0, gt=0)
    """No pause is longer, whatever the receiver asks for in Retry-After."""
    concurrency: int = Field(default=16, ge=1, le=1000)
    """How many messages one process has on their way there, those that wait for their next try included."""
    allow_private: bool = False
    """Whether addresses that are not public (loopback, private, link-local ...) and plain http are allowed."""

    @model_validator(mode="after")
    def _is_target(self) -> "WebhookSettings":
        try:
            url = urlsplit(self.url)
            host, _ = url.hostname, url.port
        except ValueError:
            raise ValueError("the url is none") from None
        if url.scheme != "https" and not (url.scheme == "http" and self.allow_private):
            raise ValueError("the url must begin with https:// (http:// is for allow_private = true)")
        if not host or url.username is not None or url.password is not None or url.fragment:
            raise ValueError("the url must have a host, and neither a user nor a fragment")
        if not self.url.isascii() or any(character <= " " for character in self.url):
            raise ValueError("the url must be ASCII without spaces: percent-encode it")
        if any(not status.ended for status in self.statuses):
            raise ValueError("statuses must be ends: completed, incomplete, failed, cancelled, expired")
        return self


class Settings(BaseSettings):
    """Everything that can be set. `Settings.load()` reads the environment and the file that `TAILRACE_CONFIG` names."""

    model_config = SettingsConfigDict(env_prefix="TAILRACE_", env_ignore_empty=True, extra="forbid", frozen=True)

    redis_url: str | None = Field(default=None, repr=False)
    """None: the embedded server. Not shown by `repr`: it may hold a password."""
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
    config: Path | None = None

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
            raise InvalidRequest(f"TAILRACE_CONFIG names a file that cannot be read: {error}") from error
        except SettingsError as error:
            raise InvalidRequest(f"a TAILRACE_ variable for a section must be JSON: {error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"TAILRACE_CONFIG names a file that is no TOML: {error}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
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
