"""What a scrape says, to be asked for single figures."""

from typing import Any

from prometheus_client import parser as prometheus_text
from prometheus_client.openmetrics import parser as open_metrics

from tailrace.telemetry.metrics_catalogue import CATALOGUE
from tailrace.telemetry.metrics_counts import Metric

#: Every metric by the name it is scraped under.
BY_NAME: dict[str, Metric] = {metric.name: metric for metrics in CATALOGUE.values() for metric in metrics}


class Scraped:
    """The figures of one scrape. Fails if it is not well-formed."""

    def __init__(self, body: bytes | str, *, openmetrics: bool = False) -> None:
        text = body.decode() if isinstance(body, bytes) else body
        parser: Any = open_metrics if openmetrics else prometheus_text
        self.families: dict[str, Any] = {family.name: family for family in parser.text_string_to_metric_families(text)}
        self.samples: list[tuple[str, dict[str, str], float]] = [
            (sample.name, sample.labels, sample.value) for family in self.families.values() for sample in family.samples
        ]

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.samples}

    def __call__(self, metric: Metric | str, **labels: str) -> float:
        """The sum of all that has these labels. Fails if there is none."""
        name = metric if isinstance(metric, str) else metric.name
        found = [value for each, had, value in self.samples if each == name and labels.items() <= had.items()]
        assert found, f"no {name}{labels}"
        return sum(found)

    def has(self, metric: Metric, **labels: str) -> bool:
        return any(name == metric.name and labels.items() <= had.items() for name, had, _ in self.samples)
