"""Counting, and what is written of it."""

import re
from typing import Final

import pytest

from scraped import BY_NAME, Scraped
from tailrace.telemetry.metrics_catalogue import CATALOGUE, JOBS_ENDED, REQUESTS, WORKER
from tailrace.telemetry.metrics_counts import MOST_LABELS, Counts, Distribution, Metric
from tailrace.telemetry.metrics_exposition import Exposition

COUNTER: Final = Metric("test_things_total", "counter", "Things.")
BY_WORD: Final = Metric("test_words_total", "counter", "Words.", ("word",), (("known",),))
TIMES: Final = Metric("test_time_seconds", "histogram", "Times.", bounds=(0.1, 1.0))
SIZE: Final = Metric("test_size_bytes", "gauge", "A size.", ("of",))


async def scraped(counts: Counts, accept: str = "") -> Scraped:
    body, kind = await Exposition([counts], fleet=None, role="test", namespace="n").scrape(accept)
    return Scraped(body, openmetrics=kind.startswith("application/openmetrics-text"))


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_what_was_counted_is_told_in_both_formats(accept: str) -> None:
    counts = Counts([COUNTER, BY_WORD, TIMES, SIZE])
    counts.add(COUNTER)
    counts.add(COUNTER, by=2)
    counts.add(BY_WORD, 'new\n"word" \\')
    counts.watch(SIZE, lambda: {("a",): 7})
    for value in (0.05, 0.1, 0.5, 5.0):
        counts.distribution(TIMES).observe(value)
    told = await scraped(counts, accept)
    assert told(COUNTER) == 3
    assert told(BY_WORD, word="known") == 0
    assert told(BY_WORD, word='new\n"word" \\') == 1
    assert told(SIZE, of="a") == 7
    assert [told("test_time_seconds_bucket", le=le) for le in ("0.1", "1.0", "+Inf")] == [2, 3, 4]
    assert told("test_time_seconds_count") == 4
    assert told("test_time_seconds_sum") == pytest.approx(5.65)
    assert told("tailrace_build_info", role="test", namespace="n") == 1
    assert told("process_resident_memory_bytes") > 0


async def test_counters_are_there_before_anything_happens() -> None:
    told = await scraped(Counts(WORKER))
    assert told(JOBS_ENDED, status="failed") == 0
    assert told("tailrace_append_seconds_count") == 0


async def test_words_that_somebody_invents_do_not_make_a_scrape_grow() -> None:
    counts = Counts([BY_WORD])
    for number in range(MOST_LABELS + 100):
        counts.add(BY_WORD, f"w{number}")
    told = await scraped(counts)
    assert told(BY_WORD) == MOST_LABELS + 100
    assert told(BY_WORD, word="other") == 101  # "known" has a place of its own
    assert len([name for name in told.samples if name[0] == BY_WORD.name]) == MOST_LABELS + 1


def test_a_role_tells_of_what_it_has_and_of_nothing_else() -> None:
    with pytest.raises(KeyError):
        Counts(WORKER).add(REQUESTS, "/", "GET", "200")


def test_a_value_on_the_edge_is_in_the_bucket_that_it_names() -> None:
    distribution = Distribution((1.0, 2.0))
    for value in (1.0, 1.5, 2.0, 2.5):
        distribution.observe(value)
    assert distribution.counts == [1, 2, 1]


@pytest.mark.parametrize("metric", BY_NAME.values(), ids=lambda metric: metric.name)
def test_names_and_units_are_as_prometheus_wants_them(metric: Metric) -> None:
    """As `promtool check metrics` has it. Source: prometheus.io/docs/practices/naming."""
    assert re.fullmatch(r"tailrace(_[a-z]+)+", metric.name)
    assert metric.help.endswith((".", '"'))
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.kind == "histogram":
        assert metric.name.endswith("_seconds")
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert all("e" not in str(bound) for bound in metric.bounds)
    assert not re.search(r"_(ms|us|kb|mb|milliseconds|minutes|hours|count|sum|bucket|percent)(_|$)", metric.name)
    assert not {"job", "instance", "le", "quantile", "job_id"} & set(metric.labels)
    assert all(len(labels) == len(metric.labels) for labels in metric.known)


def test_no_name_is_taken_twice() -> None:
    names = [metric.name for metrics in CATALOGUE.values() for metric in metrics]
    assert len(names) == len(set(names)) == len(BY_NAME)
