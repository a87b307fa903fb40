"""What the demo prints when the curtain has fallen."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tailrace.cli.demo.report import Node, figure_lines, tree_lines
from tailrace.cli.output import Output, printable

if TYPE_CHECKING:
    from tailrace.cli.demo.chaos import ChaosPerformance
    from tailrace.cli.demo.readers import Reader
    from tailrace.cli.demo.stage import Performance


def show(output: Output, performance: "Performance", upstream: str) -> bool:
    """The tree and the figures; whether all readers got the text."""
    if output.json:
        told = _told(performance.job_id, upstream, performance.text, performance.readers)
        output.object(told | {"figures": asdict(performance.figures)})
    else:
        _show_tree(output, performance.tree)
        output.line("\nFigures")
        for name, value in figure_lines(performance.figures):
            output.line(f"  {name:<26} {value}")
    return performance.figures.same_text


def show_chaos(output: Output, performance: "ChaosPerformance", upstream: str) -> bool:
    """The tree, the blows and the promises; whether they were kept."""
    if output.json:
        told = _told(performance.job_id, upstream, performance.text, performance.readers)
        output.object(told | _chaos_fields(performance))
        return performance.kept
    _show_tree(output, performance.tree)
    output.line("\nBlows")
    for number, blow in enumerate(performance.blows, 1):
        output.line(f"  {number}  {printable(blow.told())}")
    if performance.missed:
        output.line(f"  the text was over before {performance.missed} more could fall: ask for a longer one")
    output.line(f"  attempts {performance.attempt_count}, rewinds {performance.rewinds}")
    output.line("\nPromises")
    for check in performance.checks:
        output.line(f"  {check.promise:<34} {'kept' if check.kept else 'BROKEN'}: {check.seen}")
    return performance.kept


def _chaos_fields(performance: "ChaosPerformance") -> dict[str, Any]:
    return {
        "blows": [
            {
                "victim": blow.victim.value,
                "what": blow.what,
                "after_chunks": blow.after_chunks,
                "gap_ms": blow.gap_ms,
                "gaps_ms": blow.gaps_ms,
                "back_ms": blow.back_ms,
            }
            for blow in performance.blows
        ],
        "missed_blows": performance.missed,
        "attempts": performance.attempt_count,
        "rewinds": performance.rewinds,
        "checks": [asdict(check) for check in performance.checks],
    }


def _told(job_id: str, upstream: str, text: str, readers: "tuple[Reader, ...]") -> dict[str, Any]:
    return {
        "job_id": job_id,
        "upstream": upstream,
        "text": text,
        "readers": [
            {
                "name": reader.name,
                "state": reader.state,
                "chunks": len(reader.pieces),
                "connections": reader.connections,
                "same_text": reader.text == text,
            }
            for reader in readers
        ],
    }


def _show_tree(output: Output, tree: Node) -> None:
    output.line("\nThe events of the job")
    ascii_only = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    lines = tree_lines(tree, ascii_only=ascii_only)
    width = max(len(text) for text, _ in lines)
    for text, times in lines:
        output.line(f"  {printable(text):<{width}}  {times}".rstrip())
