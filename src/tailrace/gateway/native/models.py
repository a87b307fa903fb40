"""What the native API takes and gives, as JSON."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tailrace.schemas import DEFAULT_QUEUE, Choice, ErrorDetail, InvalidRequest, OnRestart, Position, Status, Timings


class JobToSubmit(BaseModel):
    """The arguments of `submit`. Exactly one of prompt, messages and input. Other fields are the upstream's, as they are there:
    temperature, max_tokens, tools ..."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = None
    messages: list[dict[str, JsonValue]] | None = None
    input: JsonValue = None
    api: Literal["auto", "completions", "chat", "responses", "task"] = "auto"
    model: str | None = None
    upstream: str = "default"
    """As the operator has named it."""
    queue: str = DEFAULT_QUEUE
    """The queue that the job waits in, for the workers that serve it: one that the tenant may use."""
    task: str | None = None
    job_id: str | None = None
    """1 to 128 of A-Z a-z 0-9 _ and -. The same id with the same request is the same job."""
    metadata: dict[str, JsonValue] | None = None
    """Every reader of the job gets it."""
    tags: list[str] | None = None
    deadline: float | None = None
    """Seconds."""
    retention: float | None = None
    """Seconds that the job can be read after its end."""
    delay: float | None = None
    """Seconds."""
    on_restart: OnRestart = "splice"
    max_attempts: int = 3
    then: str | None = None
    """The task that is started with the result, if the job ends well."""
    params: dict[str, JsonValue] | None = None
    """Fields of the upstream's request body too; for those whose name is taken here, its own metadata for one."""

    def upstream_params(self) -> dict[str, JsonValue]:
        """All that goes into the upstream's request body. Raises: InvalidRequest if a field is given twice."""
        beside: dict[str, JsonValue] = self.model_extra or {}
        inside = self.params or {}
        if twice := sorted(beside.keys() & inside.keys()):
            raise InvalidRequest(f"{twice[0]!r} is given twice: once as a field and once in params")
        return {**beside, **inside}


class Job(BaseModel):
    """Where a job stands."""

    id: str
    status: Status
    position: Position
    """The last record: what comes now comes after it."""
    created: int | None = None
    """Milliseconds since 1970."""
    deadline: int | None = None
    """When it expires; milliseconds since 1970."""
    api: str | None = None
    model: str | None = None
    task: str | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    ended: int | None = None
    """When it ended; milliseconds since 1970. This and what follows: None while the job runs."""
    finish_reason: str | None = None
    usage: dict[str, JsonValue] | None = None
    error: ErrorDetail | None = None
    attempts: int | None = None
    timings: Timings | None = None


class JobWithResult(Job):
    """Where a job stands, and what stands of its output: all of it after the end, what there is before. Attempts, usage and
    finish reason are told before the end too."""

    text: str = ""
    choices: list[Choice] = Field(default_factory=list[Choice])
    output: JsonValue = None
    """What a task returned."""
    follow_up: str | None = None
    """The id of the job that `then` starts."""


class Jobs(BaseModel):
    """Jobs that have not ended, and, if asked for, the last that have."""

    jobs: list[Job]
    """Those that have not ended first."""
    more: bool
    """Whether more than these have not ended."""


class Ended(BaseModel):
    """How a job has ended."""

    id: str
    status: Status


class Deleted(BaseModel):
    """A job that is gone."""

    id: str
    deleted: Literal[True] = True
