"""The records of a job's log: wire version 1.

One record is one entry of a Redis Stream with one field. Its name is the record's kind (`chunk:<run>` for the text of a
child run), its value is JSON, but for chunks, whose value is the bare text. Readers ignore fields they do not know.

`Entry` is a record as it travels; `decode` makes a model of it. What reads thousands of chunks (views, relays) works
on entries and never builds a model for one.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from tailrace.schemas.positions import END, Position

JsonObject = dict[str, JsonValue]

WIRE_VERSION: Final = 1
#: The version of the views (which events a log is shown as), stored with the job so that an upgrade renumbers nothing.
VIEWS_VERSION: Final = 1

CHUNK: Final = "chunk"
ROOT: Final = 0

_CHILD_CHUNK: Final = re.compile(r"chunk:([1-9][0-9]{0,9})", re.ASCII)


class Entry(NamedTuple):
    """A record as it travels: `field` is the kind (and run of a chunk), `value` its text or JSON."""

    position: Position
    field: str
    value: str


class Status(StrEnum):
    """Where a job stands. The last five are ends: nothing follows them."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    """The upstream stopped early on purpose: its length limit or a content filter."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        return self not in (Status.QUEUED, Status.IN_PROGRESS)

    @property
    def well(self) -> bool:
        """An end that no reader gets an error for."""
        return self in (Status.COMPLETED, Status.INCOMPLETE)


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


#: In the error that an upstream reports instead of a status. Source: platform.openai.com/docs/guides/error-codes.
_STATUS_BY_CODE: Final = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "model_not_found": 404,
}


class ErrorDetail(_Wire):
    """Why a job failed."""

    type: str
    """A stable word to branch on: `upstream_status`, `upstream_broken`, `upstream_stalled`, `output_limit` ..."""
    message: str
    """For people. Never contains a key or a prompt."""
    code: str | None = None
    """The upstream's own code or HTTP status, if it gave one."""
    http_status: int | None = None
    """The HTTP status that the upstream refused the request with."""
    retryable: bool = False
    """Whether the same request may succeed later."""

    @property
    def upstream_status(self) -> int | None:
        """The HTTP status that the upstream gave, or meant by its code; None if it said none."""
        told = self.http_status or _STATUS_BY_CODE.get(self.code or "")
        if told or self.code is None or not (len(self.code) == 3 and self.code.isdecimal()):
            return told
        return int(self.code) if 400 <= int(self.code) <= 599 else None


class Timings(_Wire):
    """When things happened: `created` by the server's clock, durations by the worker's own. Milliseconds."""

    created: int | None = None
    first_chunk_ms: int | None = None
    """From the start of the last attempt to its first text."""
    total_ms: int | None = None
    """The last attempt, from claim to end."""


class OpenPart(_Wire):
    """From here on the run's chunks are text of this part, until another part is opened."""

    type: Literal["open"] = "open"
    part: Literal["text", "reasoning", "refusal", "tool_call"] = "text"
    choice: int = 0
    index: int = 0
    """Which tool call of the choice, counted from 0; 0 for other parts."""
    id: str | None = None
    name: str | None = None
    """The tool's name; its arguments follow as chunks."""


class Logprobs(_Wire):
    """Log probabilities of the tokens just before, as the upstream sent them."""

    type: Literal["logprobs"] = "logprobs"
    choice: int = 0
    logprobs: JsonValue = None


class Finish(_Wire):
    """A choice is finished; the reason is the upstream's word (stop, length, tool_calls, content_filter ...)."""

    type: Literal["finish"] = "finish"
    choice: int = 0
    reason: str


class Extra(_Wire):
    """Fields of an upstream's delta that tailrace has no part for, as they came."""

    type: Literal["extra"] = "extra"
    choice: int = 0
    fields: dict[str, JsonValue] = Field(default_factory=dict)


class Native(_Wire):
    """An event of the upstream's own protocol, whole."""

    type: Literal["native"] = "native"
    event: dict[str, JsonValue]


Delta = Annotated[OpenPart | Logprobs | Finish | Extra | Native, Field(discriminator="type")]


class _Record(_Wire):
    position: Position
    """Where it stands: resume cursor, SSE id, dedupe key."""

    def value(self) -> str:
        """What the entry's field holds."""
        return self.model_dump_json(exclude={"position", "kind"}, exclude_none=True)


class JobRecord(_Record):
    """The first record of every log: what readers may know of the request."""

    kind: Literal["job"] = "job"
    wire: int = WIRE_VERSION
    views: int = VIEWS_VERSION
    digest: str
    """SHA-256 of the request as the caller gave it: the same id with the same digest is the same job."""
    incarnation: str
    """Random: tells this job from an earlier one of the same id."""
    ts: int = 0
    """When it was submitted, milliseconds of the server's clock."""
    deadline: int = 0
    """When it expires, milliseconds of the server's clock."""
    retention_ms: int
    """How long the log is kept after the end."""
    api: str
    model: str | None = None
    task: str | None = None
    then: str | None = None
    """The task that is started with the result, if the job ends well."""
    queue: str | None = None
    """The queue that it waits in. None: the default one."""
    max_attempts: int = 3
    on_restart: Literal["splice", "continue", "fail"] = "splice"
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    tenant: str | None = None
    """Whom the job belongs to, where a gateway serves several. None: nobody in particular."""


class AttemptRecord(_Record):
    """A worker claims the log: from here on only this attempt writes."""

    kind: Literal["attempt"] = "attempt"
    attempt: int
    """Counts from 1. A replay and the attempt after a hand-back keep the number."""
    worker: str
    nonce: str
    incarnation: str
    ts: int
    after: Position
    """The top of the log before it. If you have seen records beyond it, the server lost them: they are void."""
    replay: bool = False
    """The same attempt goes on under a new epoch, because the server lost its last records."""


class ChunkRecord(_Record):
    """Text, as the upstream cut it."""

    kind: Literal["chunk"] = "chunk"
    run: int = ROOT
    text: str

    def value(self) -> str:
        return self.text


class DeltaRecord(_Record):
    """What is not plain text."""

    kind: Literal["delta"] = "delta"
    run: int = ROOT
    delta: Delta


class EventRecord(_Record):
    """A step's start, end or error, a custom event, a retry. Fields of LangChain's StreamEvent; the first event of a run
    carries its name, parents, tags and metadata, which readers expand into the later ones."""

    kind: Literal["event"] = "event"
    run: int = ROOT
    event: str
    run_id: str | None = None
    name: str | None = None
    parents: list[int] | None = None
    """The runs above, outermost first."""
    tags: list[str] | None = None
    metadata: dict[str, JsonValue] | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)
    step: str | None = None
    """Which step of a task it is: in a start event its path and, after a `#`, the hash of its input; the next attempt
    knows it again by this. In a custom event the branch it came from. Readers need not look."""
    ts: int


class RewindRecord(_Record):
    """The records of `run` after the position `to` are void."""

    kind: Literal["rewind"] = "rewind"
    run: int = ROOT
    to: Position


class EndRecord(_Record):
    """The last record of every log. Exactly one can exist."""

    kind: Literal["end"] = "end"
    position: Position = END
    status: Status
    last: Position
    """The position before it: a reader who is not there has missed something."""
    ts: int
    finish_reason: str | None = None
    usage: dict[str, JsonValue] | None = None
    error: ErrorDetail | None = None
    attempts: int | None = None
    timings: Timings | None = None


Record = Annotated[
    JobRecord | AttemptRecord | ChunkRecord | DeltaRecord | EventRecord | RewindRecord | EndRecord,
    Field(discriminator="kind"),
]

RECORD: Final[TypeAdapter[Record]] = TypeAdapter(Record)

_BY_KIND: Final[dict[str, type[_Record]]] = {
    "job": JobRecord,
    "attempt": AttemptRecord,
    "delta": DeltaRecord,
    "event": EventRecord,
    "rewind": RewindRecord,
    "end": EndRecord,
}


class UnknownRecord(_Record):
    """A record of a kind (or a delta of a type) that this version does not know: pass over it."""

    kind: str
    raw: str


def chunk_field(run: int) -> str:
    """The field name of a run's chunks."""
    return CHUNK if run == ROOT else f"chunk:{run}"


def chunk_run(field: str) -> int | None:
    """The run whose text a field holds, or None if it holds no text."""
    if field == CHUNK:
        return ROOT
    match = _CHILD_CHUNK.fullmatch(field)
    return int(match[1]) if match is not None else None


def decode(entry: Entry) -> Record | UnknownRecord:
    """The model of an entry; UnknownRecord for what a later version may write.

    Raises: pydantic.ValidationError for a value that no tailrace wrote.
    """
    run = chunk_run(entry.field)
    if run is not None:
        return ChunkRecord(position=entry.position, run=run, text=entry.value)
    model = _BY_KIND.get(entry.field)
    if model is None:
        return UnknownRecord(position=entry.position, kind=entry.field, raw=entry.value)
    fields: Any = _JSON_OBJECT.validate_json(entry.value)
    if model is DeltaRecord and _is_of_later_type(fields.get("delta")):
        return UnknownRecord(position=entry.position, kind=entry.field, raw=entry.value)
    return model.model_validate({**fields, "position": entry.position, "kind": entry.field})  # type: ignore[return-value]  # every class in _BY_KIND is in Record


_JSON_OBJECT: Final = TypeAdapter(dict[str, JsonValue])
_DELTA_TYPES: Final = frozenset({"open", "logprobs", "finish", "extra", "native"})


def _is_of_later_type(delta: JsonValue) -> bool:
    return isinstance(delta, dict) and isinstance(delta.get("type"), str) and delta["type"] not in _DELTA_TYPES
