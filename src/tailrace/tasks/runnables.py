"""LangChain's Runnables and LangGraph's graphs as tasks: what an `App` knows of one. Loads nothing of LangChain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from pydantic import JsonValue, TypeAdapter

from tailrace.tasks.declared import Task

RunnableEvents = Literal["leaves", "all"]


class AnyRunnable(Protocol):
    """What every Runnable and every graph has."""

    def astream_events(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class RunnableJob:
    """The job that a runnable's `config` is made for."""

    job_id: str
    attempt: int
    """Counts from 1."""
    metadata: Mapping[str, JsonValue]
    """The job's own, as submitted."""
    tags: Sequence[str]


#: A RunnableConfig, or what makes one for each attempt.
RunnableConfigOf: TypeAlias = Mapping[str, Any] | Callable[[RunnableJob], Mapping[str, Any]]

_PARAMETER: Final = "input"


@dataclass(frozen=True)
class RunnableTask(Task):
    """A registered Runnable: `function` is its `astream_events`."""

    events: RunnableEvents = "leaves"
    inputs: bool = False
    """Whether readers are shown what goes into its runs."""
    config: RunnableConfigOf | None = None

    def given(self, job_input: JsonValue) -> Any:
        """The runnable's input. Raises: InvalidRequest if it is not of the declared type."""
        return self.arguments(job_input)[_PARAMETER]

    def config_for(self, job: RunnableJob) -> dict[str, Any]:
        """Raises: what the author's function raises."""
        if self.config is None:
            return {}
        return dict(self.config(job) if callable(self.config) else self.config)

    def _optional(self) -> bool:
        return False


def declare_runnable(
    name: str,
    runnable: AnyRunnable,
    *,
    events: RunnableEvents,
    inputs: bool,
    given: Any,
    config: RunnableConfigOf | None,
) -> RunnableTask:
    """The task that a Runnable is. Raises: TypeError, ValueError saying what to change."""
    if not callable(getattr(runnable, "astream_events", None)):
        raise TypeError(
            f"task {name!r}: {type(runnable).__qualname__} is no Runnable and no graph (it has no astream_events): "
            "compile a StateGraph first, register a function with @app.task"
        )
    if events not in ("leaves", "all"):
        raise ValueError(f"task {name!r}: events must be 'leaves' or 'all', not {events!r}")
    return RunnableTask(
        name=name,
        function=runnable.astream_events,
        streams=True,
        parameters=(_PARAMETER,),
        whole=True,
        input=TypeAdapter(Any if given is None else given),
        description=str(getattr(runnable, "description", None) or ""),
        events=events,
        inputs=inputs,
        config=config,
    )
