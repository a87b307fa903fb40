"""Where in a task a step is called: the task itself, a step's function, a branch of `gather`."""

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from tailrace.schemas import ROOT
from tailrace.tasks.identity import Paths


@dataclass(eq=False, slots=True)
class Scope:
    """One place that steps are called in."""

    path: str
    run: int = ROOT
    """The run that it belongs to."""
    above: tuple[int, ...] = (ROOT,)
    """That run and those above it, outermost first: the parents of its steps."""
    branch: str | None = None
    """Its own path, if it is a branch: several scopes share a run then."""
    key: str = ""
    """Names it for other systems."""
    paths: Paths = field(init=False)
    told: Counter[str] = field(default_factory=Counter[str])
    """How many events of each name this attempt has told here."""
    _owner: "asyncio.Task[Any] | None" = field(default=None)
    _callers: "set[asyncio.Task[Any]]" = field(default_factory=set["asyncio.Task[Any]"])

    def __post_init__(self) -> None:
        self.paths = Paths(self.path)
        self._owner = asyncio.current_task()

    def called(self) -> None:
        """Note who calls a step. Raises: RuntimeError if several coroutines take turns: their order is chance."""
        caller = asyncio.current_task()
        others = {task for task in self._callers if not task.done()} - {caller}
        if caller is not None and caller is not self._owner:
            self._callers = others | {caller}
        if others:
            raise RuntimeError(
                "several coroutines take steps here side by side, so the order of their steps is chance and the next "
                "attempt could not know them again: hand them to `await ctx.gather(...)`, not to asyncio's"
            )


_SCOPE: Final[ContextVar[Scope]] = ContextVar("tailrace_scope")


def current_scope(otherwise: Scope) -> Scope:
    return _SCOPE.get(otherwise)


class entered:  # noqa: N801 - reads as a verb in `with`
    """Steps that are called in the block (and in what it awaits) are called in this scope."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> Scope:
        self._token = _SCOPE.set(self._scope)
        return self._scope

    def __exit__(self, *_: object) -> None:
        _SCOPE.reset(self._token)
