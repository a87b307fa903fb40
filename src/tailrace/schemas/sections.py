"""The sections of the settings: upstreams, workers, webhooks, the gateway and its tenants. `Settings` has them all."""

import re
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tailrace.schemas.keys import DEFAULT_QUEUE, check_queue
from tailrace.schemas.records import Status

_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_KEY_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Section(BaseModel):
    """A table in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UpstreamSettings(Section):
    """One OpenAI-compatible service. Jobs name it; they never carry its URL."""

    base_url: str | None = None
    """None: the openai package's default (`OPENAI_BASE_URL`, else OpenAI)."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; "" if the service needs none."""
    proxy: str | None = Field(default=None, repr=False)
    """An HTTP proxy for this upstream only. None: the environment's (`HTTPS_PROXY` ...)."""
    default_model: str | None = None
    """For jobs that name no model."""
    models: tuple[str, ...] = ()
    """Which models it offers: a gateway lists them, and sends here who names one of them."""
    api: Literal["chat", "completions", "responses"] = "chat"
    """What of the OpenAI API it speaks: what a gateway asks it in when it is asked for a response."""
    transport: Literal["aiohttp", "push"] = "aiohttp"
    """What reads its streams: aiohttp, or tailrace's own reader, which wakes no task for a token (docs/performance.md)."""
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
    traceparent: bool = True
    """Whether its requests carry the W3C trace context: the ids of trace and span, which are random, and nothing else."""


class WorkerSettings(Section):
    """One worker process."""

    queues: tuple[str, ...] = Field(default=(DEFAULT_QUEUE,), min_length=1)
    """The queues that it takes jobs from. What is due in the first one goes before what is due in the second."""
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
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where it shows its metrics, without keys (docs/metrics.md). 0: a free one; None: nowhere. Several processes take the
    ports from there on."""
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    """The address for that; 0.0.0.0 lets other machines in."""

    @field_validator("queues")
    @classmethod
    def _are_queues(cls, queues: tuple[str, ...]) -> tuple[str, ...]:
        return _queues(queues)


class WebhookSettings(Section):
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
    traceparent: bool = True
    """Whether its requests carry the W3C trace context of the job: random ids, and nothing else."""
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


class TenantSettings(Section):
    """Who may use the gateway, and how much. A limit that is not set is none."""

    key_hashes: tuple[str, ...] = Field(default=(), repr=False)
    """`sha256:` and the digest of a key: what `tailrace keys new` prints. Several, while a key is replaced."""
    key_env: str = ""
    """The environment variable that holds a key; several keys, separated by spaces, while one is replaced."""
    sees_all: bool = False
    """Whether the jobs of all tenants are theirs to read, cancel and delete."""
    queues: tuple[str, ...] = Field(default=(DEFAULT_QUEUE,), min_length=1)
    """The queues that their jobs may go to. Those that name none go to the first."""
    requests_per_minute: int | None = Field(default=None, ge=1, le=1_000_000)
    """Over all gateways together. So many at once, then evenly."""
    concurrent_jobs: int | None = Field(default=None, ge=1, le=10_000)
    """How many of the jobs that they submitted may be queued or running, over all gateways together."""
    open_streams: int | None = Field(default=None, ge=1)
    """How many streams one gateway process keeps open for them."""
    max_body_bytes: int | None = Field(default=None, gt=0)
    """The most that one request may carry, if that is less than the gateway's own limit."""

    @field_validator("queues")
    @classmethod
    def _are_queues(cls, queues: tuple[str, ...]) -> tuple[str, ...]:
        return _queues(queues)

    @field_validator("key_hashes")
    @classmethod
    def _are_hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_KEY_HASH.fullmatch(each) for each in hashes):
            raise ValueError(
                "a key hash is sha256: and 64 hexadecimal digits; `tailrace keys new` prints one for a new key"
            )
        return hashes

    @model_validator(mode="after")
    def _can_come_in(self) -> "TenantSettings":
        if not self.key_hashes and not self.key_env:
            raise ValueError("a tenant needs a key: set key_hashes (`tailrace keys new` prints one) or key_env")
        return self


class GatewaySettings(Section):
    """One HTTP gateway."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Where it listens. Loopback only, as long as no key is configured."""
    port: int = Field(default=8722, ge=0, le=65535)
    """0: a free one."""
    heartbeat_s: float = Field(default=15.0, gt=0)
    """A stream that is silent for so long gets a comment, so that nobody between takes it for dead."""
    retry_ms: int = Field(default=1000, ge=0)
    """How long a browser waits before it comes back to a stream that broke off."""
    stalled_s: float = Field(default=30.0, gt=0)
    """A reader that takes nothing for so long is dropped; it can come back to its position."""
    kept_bytes: int = Field(default=1024 * 1024, ge=1024)
    """How much of a job's stream is kept ready for its readers, per job and kind of stream; older parts come from the log."""
    max_body_bytes: int = Field(default=24 * 1024 * 1024, gt=0)
    """The most that one request may carry."""
    traceparent: bool = True
    """Whether a request's own W3C trace context is gone on with. False where strangers ask: they could choose what is sampled."""
    cors_origins: tuple[str, ...] = ()
    """Pages of these origins may call it from a browser; "*" for any."""
    tenants: dict[str, TenantSettings] = Field(default_factory=dict[str, TenantSettings])
    """Who has keys, by name. Without any, everybody on this machine may do everything, and nobody else anything."""
    token_secret_env: str = ""
    """The environment variable with the secret that signs read tokens; several, separated by spaces, while it is replaced:
    the first one signs. Gateways that serve one another's clients need the same."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where it shows its metrics, without keys (docs/metrics.md). 0: a free one; None: nowhere but at /metrics."""
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    """The address for that; 0.0.0.0 lets other machines in."""

    @field_validator("tenants")
    @classmethod
    def _are_told_apart(cls, tenants: dict[str, TenantSettings]) -> dict[str, TenantSettings]:
        owners: dict[str, str] = {}
        for name, tenant in tenants.items():
            if not _TENANT.fullmatch(name):
                raise ValueError(f"{name!r} is no tenant: use 1 to 64 of the characters A-Z a-z 0-9 _ -")
            for each in tenant.key_hashes:
                if owners.setdefault(each, name) != name:
                    raise ValueError(f"tenants {owners[each]!r} and {name!r} have the same key")
        return tenants


def _queues(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_queue(name)
    if len({*names}) < len(names):
        raise ValueError("a queue is named twice")
    return names
