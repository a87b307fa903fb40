"""The application object: the tasks that a worker runs."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, overload

from tailrace.tasks.declared import Task, declare
from tailrace.tasks.runnables import AnyRunnable, RunnableConfigOf, RunnableEvents, declare_runnable

F = TypeVar("F", bound=Callable[..., Any])

_DESCRIPTION_LIMIT: Final = 1000


class App:
    """Holds tasks by name. `tailrace worker module:app` runs them; registering does nothing else."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    @overload
    def task(self, function: F, /) -> F: ...
    @overload
    def task(self, /, *, name: str | None = None) -> Callable[[F], F]: ...
    def task(self, function: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
        """Register an async function or async generator function as a task, under its own name or `name`.

        Its first parameter is the `Context`. With one more parameter, that is the job's whole `input`; with several, `input`
        is an object with a value for each. Their annotations are checked: at submit where a worker has registered the task,
        else when it begins. What it returns is the result's `output`, and if that is a str, its text; what it yields (str) is
        the job's text as it comes. The function itself is returned unchanged.

        Raises: TypeError for what cannot be a task, ValueError if the name is taken.
        """
        # Types that are defined beside the task inside a function are found by looking where it is decorated.
        names = sys._getframe(1).f_locals  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # public in all but name

        def register(given: F) -> F:
            task = declare(given, name=name, names=names)
            self.add(task)
            return given

        return register if function is None else register(function)

    def add_runnable(
        self,
        name: str,
        runnable: AnyRunnable,
        *,
        events: RunnableEvents = "leaves",
        inputs: bool = False,
        input: Any = None,  # noqa: A002 - the word of `submit`
        config: RunnableConfigOf | None = None,
    ) -> None:
        """Register a LangChain Runnable or a compiled LangGraph graph as a task: the job's `input` is its input.

        Each of its runs is a run in the job's log, with the events that its `astream_events` gives and the errors that it
        does not. The job's text is what it streams, its `output` what it returns. When a worker dies it is run again, from
        its beginning. `events`: "leaves" are starts, ends, errors, custom events and what models stream; "all" has the
        streams of chains, parsers, prompts and tools too. `inputs`: show readers what goes into each run and what prompts
        came to; else they get neither. `input`: a type that the job's input is checked against and made into. `config`: a
        RunnableConfig, or a function that makes one of a `RunnableJob` for each attempt.

        Raises: TypeError for what is no Runnable, ValueError if the name is taken.
        """
        self.add(declare_runnable(name, runnable, events=events, inputs=inputs, given=input, config=config))

    def add(self, task: Task) -> None:
        """Register what is a task already. Raises: ValueError if the name is taken."""
        if task.name in self._tasks:
            raise ValueError(f"there is a task {task.name!r} already: register this one under another name=")
        self._tasks[task.name] = task

    @property
    def tasks(self) -> Mapping[str, Task]:
        """All tasks by name."""
        return dict(self._tasks)

    def get(self, name: str) -> Task | None:
        return self._tasks.get(name)

    def cards(self) -> dict[str, dict[str, Any]]:
        """What is told of each task to those who submit."""
        return {
            task.name: {"input": task.schema(), "description": task.description[:_DESCRIPTION_LIMIT]} for task in self
        }

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __repr__(self) -> str:
        return f"App({', '.join(self._tasks) or 'no tasks'})"
