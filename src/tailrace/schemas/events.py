"""What readers get: chunks of text, and events in the shape of LangChain's StreamEvent.

Source: reference.langchain.com/python/langchain_core/runnables (StreamEvent, astream_events).
"""

from typing import Final, Literal, Required, Self, TypedDict

from pydantic import JsonValue

from tailrace.schemas.positions import START, Position

EventsVersion = Literal["v1", "v2"]

#: Custom events of tailrace's own, told apart by `name`.
RETRY_EVENT: Final = "tailrace.retry"
REWIND_EVENT: Final = "tailrace.rewind"
PROGRESS_EVENT: Final = "tailrace.progress"


class Chunk(str):
    """A piece of output text: a `str` that knows where it stands."""

    __slots__ = ("position",)

    position: Position

    def __new__(cls, text: str, position: Position = START) -> Self:
        chunk = super().__new__(cls, text)
        chunk.position = position
        return chunk

    def __repr__(self) -> str:
        return super().__repr__()

    def __reduce__(self) -> tuple[type["Chunk"], tuple[str, Position]]:
        return Chunk, (str(self), self.position)


class StreamEvent(TypedDict, total=False):
    """One event of a job, of any of its runs."""

    event: Required[str]
    """`on_{chat_model|llm|chain|tool|prompt|parser|retriever}_{start|stream|end|error}` or `on_custom_event`."""
    name: Required[str]
    run_id: Required[str]
    """The same in all events of a run, and in all attempts."""
    parent_ids: Required[list[str]]
    """Outermost first; always [] in v1."""
    tags: Required[list[str]]
    metadata: Required[dict[str, JsonValue]]
    data: Required[dict[str, JsonValue]]
    """`input` (start), `chunk` (stream), `output` (end), `error` (error), or what a custom event carries."""
    position: Required[Position]
    job_id: Required[str]
    attempt: Required[int]
    ts: Required[int]
    """Milliseconds of the server's clock. Chunks carry no clock: theirs is that of the last record that has one."""
