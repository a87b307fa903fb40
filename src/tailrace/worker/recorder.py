"""What one attempt writes into its job's log: output of its runs, within the limit, and events. Pure but for the writer."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Final

from tailrace.schemas import RETRY_EVENT, ROOT, ErrorDetail, EventRecord, JsonObject, Position
from tailrace.worker.job import Job
from tailrace.worker.log_writer import LogWriter
from tailrace.worker.memory import Line, chunk
from tailrace.worker.sources import Item

_RUN_IDS: Final = uuid.UUID("6c0f5c1e-7b1a-5f5e-9a3e-0d1c7a11ace5")
#: The name of the root run among those that run ids are made of.
ROOT_NAME: Final = "root"


class OutputLimit(Exception):  # a limit, not a fault of ours
    """The job has said more than it may."""


class Recorder:
    """The pen of an attempt, and what it knows of the job: its identity, the server's clock, how much it may say."""

    def __init__(self, job: Job, writer: LogWriter, *, clock_ahead_ms: float, output_bytes: int) -> None:
        self.job, self.writer = job, writer
        self.rewound: Callable[[Line], list[Line]] | None = None
        """What is to be written again after a rewind, because it goes with what is void."""
        self._clock_ahead_ms, self._limit = clock_ahead_ms, output_bytes
        self._said = 0

    def write(self, *lines: Line) -> None:
        """Append soon. Raises: the refusal that an earlier append met."""
        if self.rewound is not None and lines and lines[0].field == "rewind":
            lines = (lines[0], *self.rewound(lines[0]), *lines[1:])
        self.writer.write(*lines)

    def said(self, text: str) -> None:
        """Count what belongs to the job's output. Raises: OutputLimit."""
        self._said += len(text) if text.isascii() else len(text.encode())
        self.check()

    def check(self) -> None:
        """Raises: OutputLimit if the job has said too much, however often it was told."""
        if self._said > self._limit:
            raise OutputLimit

    def item(self, item: Item, run: int = ROOT) -> Line:
        """The line of a piece of a run's output. Raises: OutputLimit."""
        if isinstance(item, str):
            line = chunk(item, run)
        else:
            line = Line("delta", json.dumps({"run": run, "delta": item.model_dump(mode="json", exclude_none=True)}))
        self.said(line.text)
        return line

    def run_id(self, name: str = ROOT_NAME) -> str:
        """The id of a run: the same in every attempt, of no other job."""
        return str(uuid.uuid5(_RUN_IDS, f"{self.job.record.incarnation}/{self.job.job_id}/{name}"))

    def start(self) -> Line:
        """The root run's start event: the one that stands, else a new one, written."""
        stands = self.job.start_line()
        if stands is not None:
            return stands
        event, name = self.job.start_event()
        record = self.job.record
        line = self.event(
            event, name=name, run_id=self.run_id(), parents=[], tags=record.tags, metadata=record.metadata
        )
        self.write(line)
        return line

    def retry(self, *, counted: bool, error: ErrorDetail | None = None, run: int = ROOT) -> Line:
        """The event that says that something is tried again."""
        data: JsonObject = {"counted": counted, "reason": "failed" if error else "drain"}
        if error is not None:
            data["error"] = error.model_dump(mode="json")
        return self.event("on_custom_event", run=run, name=RETRY_EVENT, data=data)

    def event(
        self,
        event: str,
        *,
        run: int = ROOT,
        name: str | None = None,
        run_id: str | None = None,
        parents: list[int] | None = None,
        tags: list[str] | None = None,
        metadata: JsonObject | None = None,
        data: JsonObject | None = None,
        step: str | None = None,
    ) -> Line:
        record = EventRecord(
            position=Position(""),
            run=run,
            event=event,
            name=name,
            run_id=run_id,
            parents=parents,
            tags=tags,
            metadata=metadata,
            data=data or {},
            step=step,
            ts=round(time.time() * 1000 - self._clock_ahead_ms),
        )
        return Line("event", record.value())
