"""The result: the log folded into one object."""

from collections.abc import Sequence
from typing import Never

from pydantic import JsonValue

from tailrace.schemas import CHUNK, ROOT, EndRecord, Entry, Position, Result, Status, follow_up_id
from tailrace.views._fields import JsonObject, json_dict, json_object, number, read_end, run_of, string, strings
from tailrace.views._output import output_of
from tailrace.views._standing import DELTA, END_RECORD, EVENT, JOB, REWIND, STANDS_AT, Cursor, drop_after, standing

_KEPT = frozenset({CHUNK, DELTA, REWIND})


class ResultView:
    """Shows nothing while it is fed; `result()` tells what stands, before the end too."""

    __slots__ = ("_attempts", "_cursor", "_job", "_kept", "end", "job_id")

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.end: EndRecord | None = None
        self._job: JsonObject = {}
        self._attempts = 0
        self._cursor = Cursor()
        self._kept: list[Entry] = []

    def resume(self, position: Position) -> None:
        self._cursor.resume(position)

    def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Never]:  # noqa: ARG002 - the View protocol's
        for entry in entries:
            kind = entry.field
            if kind in _KEPT or (kind == EVENT and self._job.get("api") == "task"):
                self._kept.append(entry)
            elif kind in STANDS_AT:
                fields = json_object(entry.value)
                top = self._cursor.lost(fields.get(STANDS_AT[kind]))
                if top is not None:
                    drop_after(self._kept, top)
                if kind == END_RECORD:
                    self.end = read_end(entry)
                else:
                    self._attempts = number(fields.get("attempt"), self._attempts)
            elif kind == JOB:
                self._job = json_object(entry.value)
            self._cursor.at = entry.position
        return []

    def result(self) -> Result:
        """What stands of the job's output. Before the end its status is queued or in_progress."""
        end = self.end
        output = output_of(standing(self._kept, ROOT))
        going = Status.IN_PROGRESS if self._attempts else Status.QUEUED
        return Result(
            job_id=self.job_id,
            status=end.status if end else going,
            text=output.first.text,
            choices=output.choices,
            finish_reason=(end and end.finish_reason) or output.first.finish_reason,
            usage=end.usage if end else None,
            error=end.error if end else None,
            attempts=end.attempts if end and end.attempts is not None else self._attempts,
            timings=end.timings if end else None,
            model=string(self._job.get("model")),
            metadata=json_dict(self._job.get("metadata")),
            tags=strings(self._job.get("tags")),
            output=self._returned() if end else None,
            native=output.native,
            follow_up=self._follow_up(end),
            last=end.last if end else self._cursor.at,
        )

    def _follow_up(self, end: EndRecord | None) -> str | None:
        job = self._job
        if end is None or not end.status.well or not job.get("then"):
            return None
        return follow_up_id(str(job.get("incarnation")), self.job_id)

    def _returned(self) -> JsonValue:
        """What a task has returned: its root run's end says it."""
        for entry in reversed(self._kept):
            if entry.field == EVENT:
                fields = json_object(entry.value)
                if run_of(fields) == ROOT and fields.get("event") == "on_chain_end":
                    data = fields.get("data")
                    return data.get("output") if isinstance(data, dict) else None
        return None


def result_of(job_id: str, entries: Sequence[Entry]) -> Result:
    """The result that a whole log gives."""
    view = ResultView(job_id)
    view.feed(entries)
    return view.result()
