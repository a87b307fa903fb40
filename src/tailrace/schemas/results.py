"""The result of a job: its records folded into one object."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from tailrace.schemas.positions import Position
from tailrace.schemas.records import ErrorDetail, Status, Timings

T = TypeVar("T")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ToolCall(_Part):
    """A call that the model asks for."""

    id: str | None = None
    name: str | None = None
    arguments: str = ""
    """JSON as the model wrote it: not checked."""


class Choice(_Part):
    """One of the answers (several with `n` > 1)."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[ToolCall] = Field(default_factory=list[ToolCall])
    finish_reason: str | None = None
    logprobs: list[JsonValue] = Field(default_factory=list[JsonValue])
    extra: list[dict[str, JsonValue]] = Field(default_factory=list[dict[str, JsonValue]])
    """Fields of the upstream's deltas that have no place above, in the order they came."""


class Result(_Part):
    """What stands at the end of a job. Rewound text is not in it."""

    job_id: str
    status: Status
    text: str = ""
    """The text of choice 0."""
    choices: list[Choice] = Field(default_factory=list[Choice])
    finish_reason: str | None = None
    usage: dict[str, JsonValue] | None = None
    error: ErrorDetail | None = None
    attempts: int = 0
    timings: Timings | None = None
    model: str | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    output: JsonValue = None
    """What a task returned, as JSON. `output_as` makes its model of it."""
    native: dict[str, JsonValue] | None = None
    """The final response object of an upstream that sends one (Responses)."""
    follow_up: str | None = None
    """The id of the job that `then=` starts with this result, moments after the end, if it ended well."""
    last: Position
    """The position of the last record before the end."""

    def output_as(self, kind: type[T]) -> T:
        """What a task returned, as a model of yours (anything that pydantic can validate).

        Raises: pydantic.ValidationError if it is something else.
        """
        return TypeAdapter(kind).validate_python(self.output)
