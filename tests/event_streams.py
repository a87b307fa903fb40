"""What must be true of the events of every job that has ended, whatever happened to it."""

from collections import Counter
from collections.abc import Sequence

from tailrace import StreamEvent
from tailrace.schemas import RETRY_EVENT, REWIND_EVENT


def check_events(events: Sequence[StreamEvent], *, told_once: bool = True) -> None:
    """Well-formed: parents before children, nothing of a run after its end, exactly one end or error for each."""
    begun: dict[str, list[str]] = {}
    over: Counter[str] = Counter()
    for event in events:
        run, kind = event["run_id"], event["event"]
        if kind.endswith("_start"):
            assert run not in begun
            assert all(parent in begun and not over[parent] for parent in event["parent_ids"])
            begun[run] = event["parent_ids"]
        else:
            assert run in begun
            assert not over[run], (event, "after its run's end")
            over[run] += kind.endswith(("_end", "_error"))
    assert all(over[run] == 1 for run in begun)
    told = Counter(
        (event["run_id"], event["name"], str(event["data"]))
        for event in events
        if event["event"] == "on_custom_event" and event["name"] not in (RETRY_EVENT, REWIND_EVENT)
    )
    assert not told_once or set(told.values()) <= {1}, told
