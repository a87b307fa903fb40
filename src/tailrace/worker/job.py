"""What a worker knows of a job before it runs it: the request, the log, the attempts so far. Pure but for `load`."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

from tailrace.joblog import Broker, Cursor, read_log
from tailrace.schemas import (
    RETRY_EVENT,
    START,
    Entry,
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


_DIED: Final = " died with it"
#: An error tells of so many attempts.
_TOLD: Final = 20


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
        told: list[str] = []
        for line in self.memory.lines:
            fields: Any = json.loads(line.text) if line.field in ("attempt", "event") else {}
            if line.field == "attempt":
                number, worker = int(fields.get("attempt", 0)), str(fields.get("worker", "?"))
                if fields.get("replay"):
                    continue
                told.append(f"attempt {number} by worker {worker!r}{_DIED}")
            elif fields.get("name") == RETRY_EVENT and told:
                data = fields.get("data", {})
                why = data.get("error", {}).get("type", "failed") if data.get("counted", True) else "handed back"
                told[-1] = f"{told[-1].removesuffix(_DIED)}: {why}"
        if len(told) > _TOLD:
            told[: len(told) - _TOLD] = ["..."]
        return "; ".join(told)

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
    """The log is there, the request is not: the server has evicted it."""

    def __init__(self, incarnation: str) -> None:
        super().__init__(incarnation)
        self.incarnation = incarnation


async def load(broker: Broker, keys: Keys, job_id: str) -> Job:
    """Read a job. Raises: JobNotFound if its log is gone, HistoryLost if records of it are missing, RequestLost,
    BrokerUnavailable."""
    # Side by side: it all stands between a prompt and its first token.
    entries, (stored, time) = await asyncio.gather(
        _entries(broker, keys, job_id), broker.many([("GET", keys.request(job_id)), ("TIME",)])
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
        raise RequestLost(record.incarnation)
    fields: Any = json.loads(stored)
    return Job(
        job_id=job_id,
        record=record,
        request=JobRequest.model_validate(fields["request"]),
        memory=Memory(entries),
        ended=ended,
        now_ms=int(time[0]) * 1000 + int(time[1]) / 1000,
    )


async def _entries(broker: Broker, keys: Keys, job_id: str) -> list[Entry]:
    return [entry async for page in read_log(broker, keys, job_id) for entry in page]


def _is_hand_back(line: Line) -> bool:
    fields = json.loads(line.text)
    return fields.get("name") == RETRY_EVENT and not fields.get("data", {}).get("counted", True)
