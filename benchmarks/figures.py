"""What a row measured, and what was to be reached. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Rounds = Sequence[Sequence[float]]
"""Samples, by the round that they were taken in."""

#: Fewer samples have no 99th percentile: it would be their maximum, whatever the method.
LEAST_FOR_P99: Final = 100


@dataclass(frozen=True, slots=True)
class Bar:
    """What is to be reached, in the figure's unit."""

    p50: float
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one side."""

    subject: str
    """Whose: tailrace, or what it is compared with."""
    what: str
    unit: str
    p50: float
    p99: float | None
    """None where there are too few samples."""
    round_p50s: tuple[float, ...]
    """The medians of the rounds: how far they lie apart tells what the machine's noise is worth."""
    samples: int
    bar: Bar | None = None
    stretch: Bar | None = None
    ratio: float | None = None
    """How many times better than what it is compared with, by the medians."""
    of_floor: float | None = None
    """How many times worse than the floor, by the medians: what could still be won."""
    rate: bool = False
    """More is better; of all other quantities less is."""

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest median of a round."""
        return min(self.round_p50s), max(self.round_p50s)

    @property
    def reached(self) -> str | None:
        """`stretch`, `bar` or `no`; None if nothing was to be reached."""
        if self.bar is None:
            return None
        if self.stretch is not None and self._within(self.stretch):
            return "stretch"
        return "bar" if self._within(self.bar) else "no"

    def _within(self, bar: Bar) -> bool:
        if self.rate:
            return self.p50 >= bar.p50
        tail_well = bar.p99 is None or self.p99 is None or self.p99 <= bar.p99
        return self.p50 <= bar.p50 and tail_well


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of one side over something that was varied: for a plot."""

    subject: str
    what: str
    unit: str
    over: str
    """What the points' first numbers count: streams, readers, tokens."""
    points: tuple[tuple[float, float], ...]
    """In the order of the first number; the second is a median."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A row's figures and what must be known to read them."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()


def quantile(samples: Iterable[float], q: float) -> float:
    """The value that a share `q` of the samples does not exceed, interpolated. Raises: ValueError without samples."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("nothing was measured")
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(samples: Iterable[float]) -> float:
    return quantile(samples, 0.5)


def p99(samples: Sequence[float]) -> float | None:
    return quantile(samples, 0.99) if len(samples) >= LEAST_FOR_P99 else None


def figure(
    subject: str,
    what: str,
    rounds: Rounds,
    *,
    unit: str = "ms",
    bar: Bar | None = None,
    stretch: Bar | None = None,
    against: Figure | None = None,
    floor: Figure | None = None,
    rate: bool = False,
) -> Figure:
    """Samples as a figure; `against` and `floor` are what its median is set in relation to."""
    pooled = [sample for samples in rounds for sample in samples]
    middle = median(pooled)
    return Figure(
        subject=subject,
        what=what,
        unit=unit,
        p50=middle,
        p99=None if rate else p99(pooled),
        round_p50s=tuple(median(samples) for samples in rounds if samples),
        samples=len(pooled),
        bar=bar,
        stretch=stretch,
        ratio=None if against is None else _times_better(middle, against.p50, rate=rate),
        of_floor=None if floor is None else _times_better(floor.p50, middle, rate=rate),
        rate=rate,
    )


def _times_better(value: float, other: float, *, rate: bool) -> float | None:
    """How many times better the value is than the other one; None where one of them is nought."""
    if not value or not other:
        return None
    return value / other if rate else other / value


def added(subject: str, what: str, through: Figure, direct: Figure, *, bar: Bar | None, stretch: Bar | None) -> Figure:
    """What one figure has beyond another, quantile by quantile (noise on both sides would blur single differences)."""
    return Figure(
        subject=subject,
        what=what,
        unit=through.unit,
        p50=through.p50 - direct.p50,
        p99=None if through.p99 is None or direct.p99 is None else through.p99 - direct.p99,
        round_p50s=tuple(a - b for a, b in zip(through.round_p50s, direct.round_p50s, strict=True)),
        samples=through.samples,
        bar=bar,
        stretch=stretch,
    )
