"""What a row of the table is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.figures import Measured
from benchmarks.harness import Bench


@dataclass(frozen=True, slots=True)
class Row:
    """One question, and how it is measured."""

    key: str
    """What the command line calls it."""
    title: str
    measure: Callable[[Bench], Awaitable[Measured]]
