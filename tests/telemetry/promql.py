"""As much of PromQL as a test of dashboards and rules needs: what a query names, and whether its brackets are closed."""

import re
from dataclasses import dataclass
from typing import Final

from scraped import BY_NAME

_MATCHER: Final = re.compile(r'\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*')
_SELECTOR: Final = re.compile(r"\b((?:tailrace|process|python)_\w+)\s*(?:\{([^}]*)\})?")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGE: Final = re.compile(r"\[[^\]]*\]")
_DURATION: Final = re.compile(r"\[(?:\d+(?:ms|s|m|h|d)|\$__rate_interval)\]")
_CALL: Final = re.compile(r"\b([a-z_]+)\s*\(")
#: What a target has beside its metrics' own labels.
TARGET: Final = {"job", "instance"}
_FUNCTIONS: Final = {
    "sum", "max", "min", "avg", "count", "rate", "increase", "histogram_quantile", "absent", "by", "without",
}  # fmt: skip
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
#: Of the process, from prometheus-client.
FOREIGN: Final = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"}


@dataclass(frozen=True)
class Selector:
    """One selection of series in a query."""

    name: str
    labels: dict[str, str]
    over_time: bool


def selectors(query: str) -> list[Selector]:
    """What a query selects. Raises: ValueError for what is not well-formed."""
    found: list[Selector] = []
    for match in _SELECTOR.finditer(query):
        labels: dict[str, str] = {}
        for part in filter(None, (match[2] or "").split(",")):
            matcher = _MATCHER.fullmatch(part)
            if matcher is None:
                raise ValueError(f"{part!r} is no matcher in {query!r}")
            labels[matcher[1]] = matcher[3]
        found.append(Selector(match[1], labels, query[match.end() :].startswith("[")))
    return found


def check(query: str) -> None:
    """Raises: ValueError if the query is wrong by its brackets, functions, metrics, labels or kinds."""
    _check_brackets(query)
    for duration in _RANGE.findall(query):
        if not _DURATION.fullmatch(duration):
            raise ValueError(f"{duration!r} is no range in {query!r}")
    for function in _CALL.findall(re.sub(r'"[^"]*"', '""', query)):
        if function not in _FUNCTIONS:
            raise ValueError(f"no function {function!r} in {query!r}")
    found = selectors(query)
    if not found:
        raise ValueError(f"{query!r} selects nothing")
    known: set[str] = set(TARGET)
    for selector in found:
        known |= _check_selector(selector, query)
    for grouping in _GROUPING.findall(query):
        unknown = {label.strip() for label in grouping.split(",")} - known
        if unknown:
            raise ValueError(f"no metric of {query!r} has {sorted(unknown)}")


def _check_selector(selector: Selector, query: str) -> set[str]:
    """The labels that it has."""
    if selector.name in FOREIGN:
        return set()
    name = re.sub(r"_(bucket|sum|count)$", "", selector.name)
    metric = BY_NAME.get(selector.name) or BY_NAME.get(name)
    if metric is None or (metric.kind == "histogram") != (name != selector.name and selector.name not in BY_NAME):
        raise ValueError(f"no metric {selector.name!r} in {query!r}")
    has = {*metric.labels, *({"le"} if selector.name.endswith("_bucket") else ())}
    if not set(selector.labels) <= has | TARGET:
        raise ValueError(f"{selector.name} has no {sorted(set(selector.labels) - has)}")
    counts = metric.kind != "gauge"
    if counts and not selector.over_time:
        raise ValueError(f"{selector.name} only grows: {query!r} takes it without a rate")
    if not counts and selector.over_time:
        raise ValueError(f"{selector.name} is a gauge: {query!r} takes its rate")
    known = {
        labels[metric.labels.index(label)]
        for label in selector.labels
        if label in metric.labels
        for labels in metric.known
    }
    for label, value in selector.labels.items():
        wanted = set(value.split("|")) if re.fullmatch(r"[a-z_|]+", value) else set[str]()
        if known and label in metric.labels and not wanted <= known:
            raise ValueError(f"{selector.name} has no {label}={value!r}")
    return has


def _check_brackets(query: str) -> None:
    open_: list[str] = []
    for character in re.sub(r'"(?:[^"\\]|\\.)*"', "", query):
        if character in _PAIRS.values():
            open_.append(character)
        elif character in _PAIRS and (not open_ or open_.pop() != _PAIRS[character]):
            raise ValueError(f"{character!r} closes nothing in {query!r}")
    if open_:
        raise ValueError(f"{open_[-1]!r} is not closed in {query!r}")
