"""Counters that cost nothing: plain numbers, added to where things happen, read when somebody scrapes.

Needs no package, so every role counts whether or not its figures are served. Not for the hot path either: what happens for
every token is a plain attribute of its owner, which `Counts.watch` reads.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Labels = tuple[str, ...]
"""The values of a metric's labels, in its order."""

#: So many sets of label values one metric has at most. What comes beyond is counted as OTHER: a scrape stays small, whatever
#: somebody thinks of.
MOST_LABELS: Final = 500
OTHER: Final = "other"

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """One metric, as it is scraped. Names and units by Prometheus' conventions.

    Source: prometheus.io/docs/practices/naming.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    known: tuple[Labels, ...] = ()
    """Label values that are there from the start: a rate sees the first event too."""
    bounds: tuple[float, ...] = _SECONDS
    """Of a histogram: the upper ends of its buckets, as floats that are written without an exponent."""


class Distribution:
    """How often a value fell into which bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Read = Callable[[], float | Mapping[Labels, float]]
"""Reads a metric where it is kept: a number, or one for each set of label values."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of one metric."""

    metric: Metric
    labels: Labels
    value: float | Distribution


class Counts:
    """The figures of one role of one process. One thread's."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        """`metrics`: all that this role may tell of."""
        self._numbers: dict[Metric, dict[Labels, float]] = {}
        self._distributions: dict[Metric, dict[Labels, Distribution]] = {}
        self._watched: dict[Metric, Read] = {}
        for metric in metrics:
            begin = metric.known or (() if metric.labels else ((),))
            if metric.kind == "histogram":
                self._distributions[metric] = {labels: Distribution(metric.bounds) for labels in begin}
            else:
                self._numbers[metric] = dict.fromkeys(begin if metric.kind == "counter" else (), 0)

    def add(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Count. Raises: KeyError for a metric that this role does not have."""
        numbers = self._numbers[metric]
        if labels not in numbers and len(numbers) >= MOST_LABELS:
            labels = (OTHER,) * len(labels)
        numbers[labels] = numbers.get(labels, 0) + by

    def distribution(self, metric: Metric, *labels: str) -> Distribution:
        """Where to observe; whoever observes often keeps it. Raises: as `add`."""
        distributions = self._distributions[metric]
        if labels not in distributions and len(distributions) >= MOST_LABELS:
            labels = (OTHER,) * len(labels)
        found = distributions.get(labels)
        if found is None:
            found = distributions[labels] = Distribution(metric.bounds)
        return found

    def watch(self, metric: Metric, read: Read) -> None:
        """Have the metric read there, whenever it is asked for. Raises: as `add`."""
        self._numbers[metric].clear()
        self._watched[metric] = read

    def read(self) -> Iterator[Sample]:
        """Everything, as it is now."""
        for metric, numbers in self._numbers.items():
            for labels, value in numbers.items():
                yield Sample(metric, labels, value)
        for metric, read in self._watched.items():
            found = read()
            if isinstance(found, Mapping):
                for labels, value in found.items():
                    yield Sample(metric, labels, value)
            else:
                yield Sample(metric, (), found)
        for metric, distributions in self._distributions.items():
            for labels, distribution in distributions.items():
                yield Sample(metric, labels, distribution)
