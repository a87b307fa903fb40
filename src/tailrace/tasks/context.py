"""What a task is given: the ways to take steps."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, TypeVar, overload

from pydantic import JsonValue

from tailrace.schemas import Api, Choice, Duration, JobRequest, Result, ToolCall

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

StepKind = Literal["chain", "tool", "retriever", "prompt", "parser"]


class Answered(str):
    """The text of a model's answer: a `str` that knows the rest of it."""

    __slots__ = ("choices", "finish_reason", "run_id", "usage")

    choices: list[Choice]
    finish_reason: str | None
    usage: dict[str, JsonValue] | None
    run_id: str

    def __new__(
        cls,
        text: str,
        *,
        choices: Sequence[Choice] = (),
        finish_reason: str | None = None,
        usage: dict[str, JsonValue] | None = None,
        run_id: str = "",
    ) -> Self:
        answered = super().__new__(cls, text)
        answered.choices, answered.finish_reason = list(choices), finish_reason
        answered.usage, answered.run_id = usage, run_id
        return answered

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that the model asks for, in choice 0."""
        return self.choices[0].tool_calls if self.choices and self.choices[0].index == 0 else []


class LlmStep(ABC):
    """A call of a model. Await it for the whole answer, or iterate over it for its text as it comes; once, in one way."""

    @abstractmethod
    def __await__(self) -> Generator[Any, None, Answered]: ...

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[str]: ...


class Child(Awaitable[Result]):
    """Another job, submitted by this one. Await it for its result; it is submitted when that begins."""

    job_id: str
    """Known at once: the same in every attempt."""


class Emitted(Awaitable[None]):
    """An event that is on its way. Await it to know that it is stored; nobody has to."""


class Jobs(Protocol):
    """Submitting and following other jobs: the client that a worker is given."""

    async def submit(self, request: JobRequest, job_id: str) -> None:
        """Raises: as `AsyncTailrace.submit`."""
        ...

    async def result(self, job_id: str) -> Result:
        """Wait for the end. Raises: as `AsyncJob.result`."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Raises: as `AsyncJob.cancel`; nothing for a job that has ended or is gone."""
        ...


class Context(ABC):
    """One attempt at a job, in the hands of its task.

    Each step is a run in the job's log: readers follow its events and text, and when the task is run again after a crash, a
    finished step is not: its result comes from the log. So a task decides only by its input and what its steps returned;
    clocks, random numbers and outside calls belong into steps. A step is known again by where it is called, its name, how
    often that name was called there before, and its input. Side by side, steps run in `gather`.
    """

    job_id: str
    attempt: int
    """Counts from 1."""
    metadata: Mapping[str, JsonValue]
    """The job's own, as submitted."""
    tags: Sequence[str]
    params: Mapping[str, JsonValue]
    """What `submit` was given beyond its own parameters."""

    @property
    @abstractmethod
    def idempotency_key(self) -> str:
        """Names the step that is running (outside of steps: the job) for other systems: the same in all attempts and
        retries, of no other step of no other job."""

    @abstractmethod
    def llm(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        input: Any = None,  # noqa: A002 - the Responses API's own name
        api: Literal["auto"] | Api = "auto",
        model: str | None = None,
        upstream: str = "default",
        name: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        retries: int = 2,
        timeout: Duration | None = None,
        **params: Any,
    ) -> LlmStep:
        """Ask a model, with the arguments of `submit`: `await` gives the answer, `async for` its text as it comes.

        `retries` after errors that may pass; `timeout` for each try. Its run is named `name`, else after the model.
        Raises: InvalidRequest and StepMismatch at once; StepFailed when awaited.
        """

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        retries: int = ...,
        backoff: Duration = ...,
        timeout: Duration | None = ...,
        kind: StepKind = ...,
        tags: Sequence[str] | None = ...,
        metadata: Mapping[str, Any] | None = ...,
    ) -> Awaitable[T]: ...
    @overload
    def step(
        self,
        name: str,
        function: Callable[..., AsyncIterator[str]],
        *args: Any,
        retries: int = ...,
        backoff: Duration = ...,
        timeout: Duration | None = ...,
        kind: StepKind = ...,
        tags: Sequence[str] | None = ...,
        metadata: Mapping[str, Any] | None = ...,
    ) -> Awaitable[str]: ...
    @overload
    def step(
        self,
        name: str,
        function: Callable[..., T],
        *args: Any,
        retries: int = ...,
        backoff: Duration = ...,
        timeout: Duration | None = ...,
        kind: StepKind = ...,
        tags: Sequence[str] | None = ...,
        metadata: Mapping[str, Any] | None = ...,
    ) -> Awaitable[T]: ...
    @abstractmethod
    def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        retries: int = 0,
        backoff: Duration = 0.5,
        timeout: Duration | None = None,
        kind: StepKind = "chain",
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Awaitable[Any]:
        """Call a function as a step, at least once, and keep what it returns: JSON, a dataclass or a pydantic model.

        An async function, a plain one (it runs in a thread) or an async generator of str (its text is streamed; the step's
        value is all of it). What comes back is what the log holds, in the first attempt too: a value of the annotated type,
        else plain JSON. `retries` after any exception, with pauses of `backoff`, doubled each time; `timeout` for each try.
        Raises: InvalidRequest and StepMismatch at once; StepFailed when awaited.
        """

    @abstractmethod
    async def gather(self, *branches: Awaitable[Any], limit: int | None = None) -> list[Any]:
        """Run steps, children or coroutines that take steps side by side, at most `limit` at a time; their values in order.

        If one fails, the others are cancelled and its error is raised.
        """

    @abstractmethod
    def emit(self, name: str, value: Any = None) -> Emitted:
        """Tell readers something: an `on_custom_event` with this name; `data` is the value if that is a dict, else
        `{"value": value}`. An attempt does not repeat what an earlier one has told."""

    @abstractmethod
    def progress(self, done: float, total: float | None = None) -> Emitted:
        """Tell readers how far it is: an `on_custom_event` named "tailrace.progress" with done and total. Only progress is
        told, and no more than ten times a second."""

    @abstractmethod
    def child(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        input: Any = None,  # noqa: A002 - the Responses API's own name
        api: Literal["auto"] | Api = "auto",
        model: str | None = None,
        upstream: str = "default",
        queue: str | None = None,
        task: str | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline: Duration | None = None,
        retention: Duration | None = None,
        delay: Duration | None = None,
        max_attempts: int = 3,
        **params: Any,
    ) -> Child:
        """Submit another job, with the arguments of `submit`, and await its result. It ends with this one: if this job is
        cancelled, fails or expires, so is the child. Without a `queue` it waits in this job's.

        Raises: InvalidRequest and StepMismatch at once; StepFailed when awaited, if the child did not end well.
        """
