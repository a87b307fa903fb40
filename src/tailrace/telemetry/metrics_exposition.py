"""The figures as Prometheus reads them: both text formats, written by prometheus-client. Needs the extra `metrics`."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from tailrace.telemetry.metrics_catalogue import BUILD_INFO, EVENT_LOOP_DELAY
from tailrace.telemetry.metrics_counts import Counts, Distribution, Labels, Metric, Sample
from tailrace.telemetry.metrics_fleet import Fleet

#: What a scraper may say that it accepts is short.
_ACCEPT_LIMIT: Final = 1000


class Exposition:
    """What one process has to tell: its roles' figures, the fleet's, and those of the process itself."""

    def __init__(self, roles: Sequence[Counts], *, fleet: Fleet | None, role: str, namespace: str) -> None:
        """`role`: what the process is for people."""
        self._roles, self._fleet = roles, fleet
        self._identity = (version("tailrace"), role, namespace)
        # Not the package's own default registry: an application around us may have figures there.
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)

    async def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The body, and its type: OpenMetrics for who asks for it in `Accept`, else Prometheus' text."""
        encode, content_type = choose_encoder(accept[:_ACCEPT_LIMIT])
        began = time.perf_counter()
        await asyncio.sleep(0)
        delay = time.perf_counter() - began
        samples = [Sample(BUILD_INFO, self._identity, 1), Sample(EVENT_LOOP_DELAY, (), delay)]
        if self._fleet is not None:
            samples += await self._fleet.read()
        for counts in self._roles:
            samples += counts.read()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once([*_families(samples), *self._process.collect()]))
        return encode(registry), content_type


class _Once(Collector):
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families

    def describe(self) -> Iterable[Family]:
        return ()


def _families(samples: Iterable[Sample]) -> list[Family]:
    """In the order in which they came, one for each metric."""
    gathered: dict[Metric, list[tuple[Labels, float | Distribution]]] = {}
    for sample in samples:
        gathered.setdefault(sample.metric, []).append((sample.labels, sample.value))
    return [_family(metric, found) for metric, found in gathered.items()]


def _family(metric: Metric, found: list[tuple[Labels, float | Distribution]]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in found:
            if isinstance(value, Distribution):
                ends = [*map(str, value.bounds), "+Inf"]
                histogram.add_metric(labels, list(zip(ends, accumulate(value.counts), strict=True)), value.total)
        return histogram
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    numbers = make(metric.name, metric.help, labels=metric.labels)
    for labels, value in found:
        if not isinstance(value, Distribution):
            numbers.add_metric(labels, value)
    return numbers
