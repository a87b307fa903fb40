"""What earlier attempts at a runnable have left in the log. Pure."""

import json
from collections.abc import Sequence
from typing import Any

from tailrace.schemas import ROOT, JsonObject, chunk_run
from tailrace.views import split_event
from tailrace.worker.memory import Line


class Past:
    """Folded from the lines of a log."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.last_run = ROOT
        self.open: dict[int, str] = {}
        """The kinds of the runs that began and did not end."""
        self.returned: JsonObject | None = None
        """What the job's end event carries, if an attempt has come so far and only its seal was lost."""
        self.usage: list[JsonObject] = []
        """Of each answer of a model."""
        for line in lines:
            self._fold(line)

    def _fold(self, line: Line) -> None:
        if line.field == "event":
            self._fold_event(json.loads(line.text))
        elif line.field in ("delta", "rewind") or chunk_run(line.field) is not None:
            self.last_run = max(self.last_run, line.run)

    def _fold_event(self, fields: Any) -> None:
        kind, phase = split_event(str(fields["event"]))
        run, data = int(fields.get("run", ROOT)), fields.get("data", {})
        self.last_run = max(self.last_run, run)
        if run == ROOT:
            if phase == "end":
                self.returned = data
        elif phase == "start":
            self.open[run] = kind
        elif phase in ("end", "error"):
            self.open.pop(run, None)
            if (used := usage_in(kind, phase, data)) is not None:
                self.usage.append(used)


def usage_in(kind: str, phase: str, data: JsonObject) -> JsonObject | None:
    """What an answer of a chat model says that it used."""
    output = data.get("output")
    used = (
        output.get("usage_metadata") if kind == "chat_model" and phase == "end" and isinstance(output, dict) else None
    )
    return used if isinstance(used, dict) else None
