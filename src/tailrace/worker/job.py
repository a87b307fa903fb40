"""What a worker knows of a job before it runs it: the request, the log, the attempts so far. Pure but for `load`."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

from tailrace.joblog import Broker, Cursor, read_whole
from tailrace.schemas import (
    RETRY_EVENT,
    ROOT,
    START,
    ErrorDetail,
    HistoryLost,
    JobNotFound,
    JobRecord,
    JobRequest,
    Keys,
    decode,
)
from tailrace.worker.memory import Line, Memory

#: The root run's events, and its name when the request names no model.
_ROOT_RUN: Final = {
    "completions": ("on_llm_start", "OpenAI"),
    "chat": ("on_chat_model_start", "ChatOpenAI"),
    "responses": ("on_chat_model_start", "ChatOpenAI"),
    "task": ("on_chain_start", "task"),
}


#: An error tells of so many attempts.
_TOLD: Final = 20


@dataclass(slots=True)
class _Fate:
    """What became of an attempt."""

    number: int
    worker: str
    word: str | None = None
    """The last that it said; None: nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its log has it when a worker takes it."""

    job_id: str
    record: JobRecord
    request: JobRequest
    memory: Memory
    ended: bool
    now_ms: float
    """The server's clock when it was read."""
    trace: object = None
    """The trace context of its submission, as it was found there."""

    def next_attempt(self) -> int:
        """The number of the attempt to come. A replay, and the attempt after a hand-back, keep the number."""
        number, counts = 0, True
        for line in self.memory.lines:
            if line.field == "attempt":
                number = int(json.loads(line.text).get("attempt", number))
                counts = True
            elif line.field == "event":
                counts = counts and not _is_hand_back(line)
        return number + 1 if counts else number

    def died(self) -> str:
        """What became of the attempts so far, for people: one that left no word died with its worker."""
        told = [
            f"attempt {fate.number} by worker {fate.worker!r}" + (f": {fate.word}" if fate.word else " died with it")
            for fate in self._fates()
        ]
        if len(told) > _TOLD:
            told[: len(told) - _TOLD] = ["..."]
        return "; ".join(told)

    def deaths(self) -> int:
        """How many of the attempts left no word: their workers died, or were taken for dead."""
        return sum(fate.word is None for fate in self._fates())

    def _fates(self) -> list[_Fate]:
        fates: list[_Fate] = []
        for line in self.memory.lines:
            fields: Any = json.loads(line.text) if line.field in ("attempt", "event") else {}
            if line.field == "attempt":
                if not fields.get("replay"):
                    fates.append(_Fate(int(fields.get("attempt", 0)), str(fields.get("worker", "?"))))
            elif fields.get("name") == RETRY_EVENT and line.run == ROOT and fates:  # a step's is none of the attempt's
                data = fields.get("data", {})
                counted = data.get("counted", True)
                fates[-1].word = data.get("error", {}).get("type", "failed") if counted else "handed back"
        return fates

    def start_line(self) -> Line | None:
        """The root run's start event, if it stands."""
        for line in self.memory.lines:
            if line.field == "event" and line.run == 0 and str(json.loads(line.text)["event"]).endswith("_start"):
                return line
        return None

    def start_event(self) -> tuple[str, str]:
        """The root run's start event and name."""
        event, name = _ROOT_RUN[self.request.api]
        return event, self.request.task or self.request.model or name


class RequestLost(Exception):  # a finding, not a fault of ours
    """The log is there, the request is not, or not one that this worker can read: `detail` says it to readers."""

    def __init__(self, incarnation: str, detail: ErrorDetail) -> None:
        super().__init__(detail.type)
        self.incarnation, self.detail = incarnation, detail


async def load(broker: Broker, keys: Keys, job_id: str) -> Job:
    """Read a job. Raises: JobNotFound if its log is gone, HistoryLost if records of it are missing, RequestLost,
    BrokerUnavailable."""
    # Side by side: it all stands between a prompt and its first token.
    entries, (stored, time) = await asyncio.gather(
        read_whole(broker, keys, job_id), broker.many([("GET", keys.request(job_id)), ("TIME",)])
    )
    if not entries:
        raise JobNotFound(job_id)
    ended = entries[-1].field == "end"
    if not ended:
        Cursor(job_id).take_whole(entries)
    record = decode(entries[0])
    if not isinstance(record, JobRecord):
        raise HistoryLost(job_id, after=START, until=entries[0].position)
    if not isinstance(stored, bytes):
        message = "the server no longer has the job's request: does it evict keys (maxmemory-policy)?"
        raise RequestLost(record.incarnation, ErrorDetail(type="request_lost", message=message, retryable=True))
    try:
        envelope = json.loads(stored)
        request, trace = JobRequest.model_validate(envelope["request"]), envelope.get("trace")
    except (ValueError, TypeError, LookupError, RecursionError):
        # Not the error's own words: they quote the request.
        message = "this worker cannot read the job's request: was it written by a later version, or by hand?"
        raise RequestLost(record.incarnation, ErrorDetail(type="request_unreadable", message=message)) from None
    return Job(
        job_id=job_id,
        record=record,
        request=request,
        memory=Memory(entries),
        ended=ended,
        now_ms=int(time[0]) * 1000 + int(time[1]) / 1000,
        trace=trace,
    )


def _is_hand_back(line: Line) -> bool:
    fields = json.loads(line.text)
    return fields.get("name") == RETRY_EVENT and not fields.get("data", {}).get("counted", True)
