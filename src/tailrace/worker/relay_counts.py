"""What the relay tells of itself. The hot path adds to plain attributes, which are read when somebody scrapes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tailrace.joblog import Fenced, Gone, LogRefusal
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Counts
from tailrace.worker.pauses import Pauses

if TYPE_CHECKING:
    from tailrace.worker.log_writer import LogWriter


class RelayCounts:
    """Of all writers of a process."""

    def __init__(self, counts: Counts | None = None) -> None:
        counts = counts or Counts(told.WORKER)
        self.records = self.characters = self.rewinds = self.appends = 0
        """What the server has acknowledged, and how many appends were sent."""
        self.flushes = counts.distribution(told.FLUSH)
        """Seconds."""
        self._counts = counts
        self._pauses = Pauses(counts.distribution(told.CHUNK_GAP))
        self._held: set[LogWriter] = set()
        counts.watch(told.RECORDS, lambda: self.records)
        counts.watch(told.CHARACTERS, lambda: self.characters)
        counts.watch(told.REWINDS, lambda: self.rewinds)
        counts.watch(told.APPENDS, lambda: self.appends)
        counts.watch(told.WRITERS_HELD, lambda: len(self._held))

    def flushed(self, writers: "Mapping[LogWriter, None]", now: float) -> None:
        """These writers had something to send."""
        self._pauses.flushed(writers, now)

    def again(self, writer: "LogWriter") -> None:
        """An append is sent once more, after a pause."""
        self._counts.add(told.APPENDS_AGAIN)
        self._held.add(writer)

    def answered(self, writer: "LogWriter") -> None:
        """The server has taken an append, or never will."""
        if self._held:
            self._held.discard(writer)

    def ended(self, writer: "LogWriter") -> None:
        """Nothing more is written."""
        self._pauses.forget(writer)
        self._held.discard(writer)

    def refused(self, writer: "LogWriter", refusal: LogRefusal) -> None:
        self.ended(writer)
        reason = "fenced" if isinstance(refusal, Fenced) else "gone" if isinstance(refusal, Gone) else "sealed"
        self._counts.add(told.REFUSALS, reason)

    def replays(self, lines: int) -> None:
        """So many records were lost by the server, and are written again."""
        self._counts.add(told.REPLAYS)
        self._counts.add(told.REPLAYED_RECORDS, by=lines)
