"""What both models have in common: fields, the clients below them, the id of each call's job."""

from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import httpx2
from langchain_core.outputs import Generation
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tailrace.client import AsyncTailrace, Tailrace
from tailrace.openai import AsyncTailraceTransport, JobOptions, TailraceTransport, shared
from tailrace.openai.calls import AFTER_HEADER, JOB_ID_HEADER, RESUME_HEADER
from tailrace.openai.clients import BASE_URL, NO_KEY
from tailrace.openai.transport import Source
from tailrace.producer import new_job_id
from tailrace.schemas import Position, Settings, check_job_id, parse_position

#: Where the id of a call's job stands in `response_metadata` (of a message) and `generation_info`.
JOB_ID: Final = "job_id"

G = TypeVar("G", bound=Generation)


class RunsAsJobs(BaseModel):
    """The arguments of ours that a model of the openai package's takes, and what they put below it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    tailrace: Tailrace | AsyncTailrace | None = Field(default=None, exclude=True, repr=False)
    """An open client, left open. A `Tailrace` serves all threads and event loops; an `AsyncTailrace` its own loop only.
    None: a client of this process's own, opened at the first call and closed with the process."""
    redis_url: str | None = Field(default=None, exclude=True, repr=False)
    """Without `tailrace`: the server. None: TAILRACE_REDIS_URL, else the embedded one."""
    namespace: str | None = None
    settings: Settings | None = Field(default=None, exclude=True, repr=False)
    upstream: str | None = None
    """The upstream by its name in the worker's configuration."""
    jobs: JobOptions | None = Field(default=None, exclude=True)
    """What else `submit` takes: metadata, tags, deadline ..."""

    @model_validator(mode="before")
    @classmethod
    def _put_tailrace_below(cls, values: Any) -> Any:
        return completed(values) if isinstance(values, dict) else values  # pyright: ignore[reportUnknownArgumentType]  # what the caller passed

    @classmethod
    def is_lc_serializable(cls) -> bool:
        # LangChain loads again what is on its own list of classes, and no other.
        return False


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments with the transports below that these arguments of ours ask for, and no key needed."""
    values = dict(given)
    tailrace: Tailrace | AsyncTailrace | None = values.get("tailrace")
    jobs = values.get("jobs") or JobOptions()
    if (upstream := values.get("upstream")) is not None:
        jobs = JobOptions(**{**_fields(jobs), "upstream": upstream})
    source: Source | None = tailrace if isinstance(tailrace, Tailrace) else None
    if tailrace is None:
        source = partial(
            shared, values.get("redis_url"), namespace=values.get("namespace"), settings=values.get("settings")
        )
    if values.get("http_client") is None:
        blocking = TailraceTransport(source or _unusable, jobs=jobs)
        values["http_client"] = httpx2.Client(transport=blocking)
    if values.get("http_async_client") is None:
        values["http_async_client"] = httpx2.AsyncClient(
            transport=AsyncTailraceTransport(tailrace if source is None else source, jobs=jobs)
        )
    for ours, theirs, value in (
        ("base_url", "openai_api_base", BASE_URL),
        ("api_key", "openai_api_key", NO_KEY),
        ("openai_proxy", "openai_proxy", None),
    ):
        if ours not in values and theirs not in values:
            values[theirs] = value
    return values


def _fields(jobs: JobOptions) -> dict[str, Any]:
    return {name: getattr(jobs, name) for name in JobOptions.__dataclass_fields__}


def _unusable() -> Tailrace:
    raise TypeError("this model was given an AsyncTailrace: it has async methods only (pass a Tailrace for both)")


def named(arguments: dict[str, Any]) -> str:
    """The id of the job that a call will be, chosen now (or by the caller: `job_id=`), and put into its headers."""
    headers: dict[str, str] = dict(arguments.get("extra_headers") or {})
    wanted = arguments.pop("job_id", None)
    if wanted is not None:
        headers[JOB_ID_HEADER] = check_job_id(wanted)
    arguments["extra_headers"] = headers
    resumed = headers.get(RESUME_HEADER)
    return resumed if resumed is not None else headers.setdefault(JOB_ID_HEADER, new_job_id())


def resuming(job_id: str, after: Position | str) -> dict[str, Any]:
    """Arguments of a call that follows a job instead of making one. Raises: InvalidRequest."""
    parse_position(after)
    return {"extra_headers": {RESUME_HEADER: check_job_id(job_id), AFTER_HEADER: str(after)}}


def stamp(generation: Generation, job_id: str) -> None:
    """Put the id of its job where LangChain has what is told of a generation."""
    generation.generation_info = {**(generation.generation_info or {}), JOB_ID: job_id}


def stamped(chunks: Iterator[G], job_id: str) -> Iterator[G]:
    """A stream whose first chunk bears the id of its job: chunks are added up, and so would many ids be."""
    first = True
    for chunk in chunks:
        if first:
            stamp(chunk, job_id)
            first = False
        yield chunk


async def astamped(chunks: AsyncIterator[G], job_id: str) -> AsyncIterator[G]:
    """As `stamped`."""
    first = True
    async for chunk in chunks:
        if first:
            stamp(chunk, job_id)
            first = False
        yield chunk
