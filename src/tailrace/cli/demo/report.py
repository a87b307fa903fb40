"""What happened, folded into a tree of events and into figures. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, cast

from tailrace.schemas import (
    AttemptRecord,
    EndRecord,
    JobRecord,
    Position,
    Record,
    StreamEvent,
    UnknownRecord,
)

_EXCERPT: Final = 40


@dataclass
class Node:
    """A line of the tree and what is below it."""

    text: str
    at_ms: float | None = None
    """Since the job was submitted."""
    until_ms: float | None = None
    children: list["Node"] = field(default_factory=list["Node"])


@dataclass(frozen=True, slots=True)
class Figures:
    """The demo in numbers. None: it could not be measured."""

    first_chunk_ms: float | None
    """From the call of submit to the first reader's first chunk."""
    chunks: int
    tokens: int | None
    """As the upstream counted them."""
    tokens_per_s: float | None
    """Between the first reader's first and last chunk; chunks if the upstream counted no tokens."""
    records: int
    live_bytes: int | None
    """The log in Redis while it was written, when it was looked at last."""
    live_records: int | None
    """How many records it had then."""
    finished_bytes: int | None
    """What is left in Redis after the end: the snapshot and the sealed, empty log."""
    same_text: bool
    """All three readers got the text of the result."""


def event_tree(
    records: Sequence[Record | UnknownRecord],
    events: Sequence[StreamEvent],
    arrivals: Mapping[Position, float],
) -> Node:
    """The job, its attempts, its runs with their events, and its end. Chunks carry no clock: when they came to the first
    reader (`arrivals`, in seconds) stands for theirs."""
    job = next((record for record in records if isinstance(record, JobRecord)), None)
    zero = job.ts if job is not None else 0
    root = Node(f"job {events[0]['job_id']}" if events else "job")
    root.children.append(Node("submitted", 0))
    root.children += [
        Node(f"attempt {record.attempt} by worker {record.worker}", record.ts - zero)
        for record in records
        if isinstance(record, AttemptRecord)
    ]
    runs: dict[str, Node] = {}
    for run_id, group in groupby(events, key=lambda event: event["run_id"]):
        told = list(group)
        if run_id not in runs:
            parents = told[0]["parent_ids"]
            above = next((runs[parent] for parent in reversed(parents) if parent in runs), root)
            runs[run_id] = Node(f"run {told[0]['name']}")
            above.children.append(runs[run_id])
        runs[run_id].children += _collapsed(told, arrivals, zero)
    end = next((record for record in records if isinstance(record, EndRecord)), None)
    if end is not None:
        reason = f" ({end.finish_reason})" if end.finish_reason else ""
        root.children.append(Node(f"end: {end.status.value}{reason}", end.ts - zero))
    return root


def _collapsed(events: Sequence[StreamEvent], arrivals: Mapping[Position, float], zero: int) -> list[Node]:
    """Events of one run; equal ones in a row become one line."""
    nodes: list[Node] = []
    for kind, group in groupby(events, key=lambda event: event["event"]):
        same = list(group)
        times = [_ms(event, arrivals, zero) for event in same]
        if len(same) == 1:
            nodes.append(Node(kind, times[0]))
            continue
        text = "".join(_text(event["data"]) for event in same)
        excerpt = " ".join(text.split())
        excerpt = excerpt if len(excerpt) <= _EXCERPT else f"{excerpt[: _EXCERPT - 3]}..."
        nodes.append(Node(f"{kind} x {len(same)}" + (f'  "{excerpt}"' if excerpt else ""), times[0], times[-1]))
    return nodes


def _ms(event: StreamEvent, arrivals: Mapping[Position, float], zero: int) -> float:
    arrival = arrivals.get(event["position"])
    return (arrival * 1000 if arrival is not None else event["ts"]) - zero


def _text(data: Mapping[str, Any]) -> str:
    chunk = data.get("chunk")
    if isinstance(chunk, dict):
        chunk = cast("dict[str, Any]", chunk).get("content")
    return chunk if isinstance(chunk, str) else ""


def tree_lines(node: Node, *, ascii_only: bool = False) -> list[tuple[str, str]]:
    """The tree as lines, each with its times."""
    tee, last, bar = ("|-- ", "`-- ", "|   ") if ascii_only else ("├── ", "└── ", "│   ")
    lines: list[tuple[str, str]] = []

    def draw(node: Node, head: str, below: str) -> None:
        lines.append((head + node.text, _times(node)))
        for number, child in enumerate(node.children, 1):
            final = number == len(node.children)
            draw(child, below + (last if final else tee), below + ("    " if final else bar))

    draw(node, "", "")
    return lines


def _times(node: Node) -> str:
    if node.at_ms is None:
        return ""
    upto = f" .. {node.until_ms:,.0f}" if node.until_ms is not None else ""
    return f"{node.at_ms:,.0f}{upto} ms"


def figure_lines(figures: Figures) -> list[tuple[str, str]]:
    """Name and value of each figure, for people."""
    lines: list[tuple[str, str]] = []
    if figures.first_chunk_ms is not None:
        lines.append(("time to first token", f"{figures.first_chunk_ms:,.0f} ms from submit to the reader"))
    if figures.tokens_per_s is not None:
        what = "tokens" if figures.tokens is not None else "chunks"
        lines.append(("speed", f"{figures.tokens_per_s:,.0f} {what}/s"))
    tokens = f", {figures.tokens} tokens" if figures.tokens is not None else ""
    lines.append(("records", f"{figures.records}, of them {figures.chunks} chunks of text{tokens}"))
    if figures.live_bytes is not None and figures.live_records:
        each = figures.live_bytes / figures.live_records
        lines.append(
            ("bytes in Redis, live", f"{figures.live_bytes:,} at {figures.live_records} records ({each:,.0f} a record)")
        )
    if figures.finished_bytes is not None:
        each = figures.finished_bytes / max(figures.records, 1)
        lines.append(("bytes in Redis, finished", f"{figures.finished_bytes:,} ({each:,.0f} a record)"))
    lines.append(("three readers, one text", "yes, character for character" if figures.same_text else "NO"))
    return lines
