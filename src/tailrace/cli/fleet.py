"""One look at everything that runs: workers, queue, streams, what ended last. Four round trips, whatever the number of jobs."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tailrace.joblog import Broker, decode_snapshot, in_our_words
from tailrace.queue import known_queues
from tailrace.schemas import END, FIRST, BrokerUnavailable, HistoryLost, Keys, Position, Status, parse_position
from tailrace.worker.registry import WorkerCard, known_workers

#: Running jobs that one look takes in, and jobs that ended.
STREAMS: Final = 200
_ENDED: Final = 20
_MINUTE_MS: Final = 60_000
#: Ends of the last minute that are counted one by one, in each stream of ended jobs.
_COUNTED: Final = 1000
#: Whoever holds a job renews its lease before that: its place in the queue is that far ahead at most.
_LONGEST_LEASE_MS: Final = 60_000
_PER_QUEUE: Final = 4
_PER_STREAM: Final = 3
#: A server that hangs must not keep one from hearing of the others.
_PATIENCE_S: Final = 2.0
_MEASURABLE_MS: Final = 50


@dataclass(frozen=True, slots=True)
class Running:
    """A job that a worker has."""

    job_id: str
    model: str
    age_ms: int
    """Since it was submitted."""
    attempt_ms: int
    """Since its present attempt began."""
    records: int
    """In its log; a token is one, as a rule."""
    writes: bool
    """Whether something has come of its present attempt but its first event."""

    @property
    def mean_rate(self) -> float:
        """Records a second since the present attempt began."""
        return 1000 * self.records / max(self.attempt_ms, 1)


@dataclass(frozen=True, slots=True)
class EndedLast:
    """A job that ended a moment ago."""

    job_id: str
    status: str
    ago_ms: int
    model: str
    first_ms: int | None
    """From the beginning of its last attempt to its first text."""
    total_ms: int | None
    tokens: int | None

    @property
    def rate(self) -> float | None:
        """Tokens a second between its first text and its end; None if that was no time at all."""
        if self.tokens is None or self.total_ms is None:
            return None
        spent_ms = self.total_ms - (self.first_ms or 0)
        return 1000 * self.tokens / spent_ms if spent_ms >= _MEASURABLE_MS else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queue."""

    jobs: int
    """Waiting or running."""
    due: int
    """Of these, what waits for a worker."""
    oldest_due_ms: int | None
    """How long the first of them has been due."""

    def as_json(self) -> dict[str, Any]:
        return {"jobs": self.jobs, "due": self.due, "oldest_due_ms": self.oldest_due_ms}


@dataclass(frozen=True, slots=True)
class Fleet:
    """What there is at one moment, by the server's clock."""

    now_ms: int
    workers: Sequence[WorkerCard] = ()
    open: int = 0
    queues: Mapping[str, Waiting] = field(default_factory=dict[str, Waiting])
    """What is in each queue, by its name; the default one first."""
    running: Sequence[Running] = ()
    """The oldest first, `STREAMS` at most."""
    ended: Mapping[str, int] = field(default_factory=dict[str, int])
    """Jobs that were handed off within the last minute, by status."""
    ended_all: bool = True
    """Whether that is all of them: there may be more than are counted."""
    last: Sequence[EndedLast] = ()
    memory: int | None = None
    """Bytes that the server uses; None: it does not tell."""
    memory_limit: int = 0
    """0: none."""

    @property
    def queued(self) -> int:
        """Jobs in the queues: waiting or running."""
        return sum(queue.jobs for queue in self.queues.values())

    @property
    def due(self) -> int:
        """Of these, what waits for a worker."""
        return sum(queue.due for queue in self.queues.values())

    @property
    def oldest_due_ms(self) -> int | None:
        """How long the first of them has been due."""
        return max(
            (queue.oldest_due_ms for queue in self.queues.values() if queue.oldest_due_ms is not None), default=None
        )

    @property
    def alive(self) -> list[WorkerCard]:
        return [card for card in self.workers if card.alive]

    @property
    def busy(self) -> int:
        """Jobs that the workers said they run."""
        return sum(card.jobs for card in self.alive)

    def as_json(self) -> dict[str, Any]:
        """One object for scripts."""
        return {
            "time": self.now_ms,
            "open": self.open,
            "queue": Waiting(self.queued, self.due, self.oldest_due_ms).as_json(),
            "queues": {name: queue.as_json() for name, queue in self.queues.items()},
            "workers": [
                {
                    "name": card.name,
                    "host": card.host,
                    "pid": card.pid,
                    "jobs": card.jobs,
                    "max_jobs": card.max_jobs,
                    "queues": list(card.queues),
                    "version": card.version,
                    "alive": card.alive,
                    "silent_ms": max(0, self.now_ms - card.seen_ms),
                }
                for card in self.workers
            ],
            "running": [
                {
                    "job_id": each.job_id,
                    "model": each.model,
                    "age_ms": each.age_ms,
                    "attempt_ms": each.attempt_ms,
                    "records": each.records,
                    "records_per_second": round(each.mean_rate, 1),
                }
                for each in self.running
            ],
            "ended_last_minute": dict(self.ended) | {"all": self.ended_all},
            "last_ended": [
                {
                    "job_id": each.job_id,
                    "status": each.status,
                    "ago_ms": each.ago_ms,
                    "model": each.model,
                    "first_ms": each.first_ms,
                    "total_ms": each.total_ms,
                    "tokens": each.tokens,
                }
                for each in self.last
            ],
            "memory": {"used": self.memory, "limit": self.memory_limit},
        }


async def look_around(broker: Broker, keys: Keys) -> Fleet:
    """What there is now. Raises: BrokerUnavailable, BrokerUnsuitable."""
    now_ms = await broker.queue.now_ms()
    queues = await known_queues(broker, keys)
    ended_streams = [
        ("XREVRANGE", stream, "+", str(now_ms - _MINUTE_MS), "COUNT", _COUNTED) for stream in keys.ended_streams
    ]
    answers = await broker.queue.many(
        [
            ("ZCARD", keys.open),
            *(
                command
                for queue in map(keys.queue_of, queues)
                for command in (
                    ("ZCARD", queue),
                    ("ZCOUNT", queue, "-inf", now_ms),
                    ("ZRANGE", queue, 0, 0, "WITHSCORES"),
                    ("ZRANGEBYSCORE", queue, f"({now_ms}", now_ms + _LONGEST_LEASE_MS, "LIMIT", 0, STREAMS),
                )
            ),
            *ended_streams,
        ]
    )
    memory, limit = await _memory(broker)
    for answer in answers:
        if isinstance(answer, Exception):
            raise in_our_words(answer) or answer
    opened, *rest = answers
    asked = [rest[begin : begin + _PER_QUEUE] for begin in range(0, _PER_QUEUE * len(queues), _PER_QUEUE)]
    ended = rest[_PER_QUEUE * len(queues) :]
    held = [each for *_, running in asked for each in running][:STREAMS]
    entries = sorted((entry for stream in ended for entry in stream), key=_entry_order, reverse=True)
    job_ids = [job_id for each in held if (job_id := keys.job_of(each.decode(errors="replace"))) is not None]
    last_ids = list(dict.fromkeys(_text(fields, b"job") for _, fields in entries[:_ENDED]))
    streams, ends = await _looks(broker, keys, job_ids, last_ids)
    running = [
        each for job_id, found in zip(job_ids, streams, strict=True) if (each := _running(job_id, found, now_ms))
    ]
    return Fleet(
        now_ms=now_ms,
        workers=await known_workers(broker, keys),
        open=opened,
        queues={
            name: Waiting(queued, due, int(now_ms - float(first[1])) if first and float(first[1]) <= now_ms else None)
            for name, (queued, due, first, _) in zip(queues, asked, strict=True)
        },
        running=sorted(running, key=lambda each: -each.age_ms),
        ended=_counted(entries),
        ended_all=all(len(stream) < _COUNTED for stream in ended),
        last=[over for job_id, found in zip(last_ids, ends, strict=True) if (over := _ended(job_id, found, now_ms))],
        memory=memory,
        memory_limit=limit,
    )


async def _looks(
    broker: Broker, keys: Keys, running: Sequence[str], ended: Sequence[str]
) -> tuple[list[Sequence[Any]], list[Any]]:
    """Of each that runs its first record, its last one and how many there are; of each that ended its snapshot."""
    commands: list[tuple[str | int, ...]] = []
    for job_id in running:
        log = keys.log(job_id)
        commands += [("XRANGE", log, FIRST, FIRST), ("XREVRANGE", log, "+", "-", "COUNT", 1), ("XLEN", log)]
    commands += [("XRANGE", keys.log(job_id), END, END) for job_id in ended]
    commands += [("GET", keys.snapshot(job_id)) for job_id in ended]
    answers = await broker.many(commands) if commands else []
    cut = _PER_STREAM * len(running)
    return (
        [answers[begin : begin + _PER_STREAM] for begin in range(0, cut, _PER_STREAM)],
        list(zip(answers[cut : cut + len(ended)], answers[cut + len(ended) :], strict=True)),
    )


def _running(job_id: str, found: Sequence[Any], now_ms: int) -> Running | None:
    """None for one that is not in progress, or none of ours."""
    try:
        first, top, records = found
        job: Any = json.loads(first[0][1][b"job"])
        position = Position(top[0][0].decode())
        epoch, seq = parse_position(position)
        if position in (FIRST, END):
            return None
        return Running(
            job_id=job_id,
            model=_model(job),
            age_ms=max(0, now_ms - int(job["ts"])),
            # An epoch is the microsecond in which its attempt began.
            attempt_ms=max(0, now_ms - epoch // 1000),
            records=int(records),
            writes=seq > 1,
        )
    except (ValueError, LookupError, TypeError):
        return None


def _ended(job_id: str, found: Any, now_ms: int) -> EndedLast | None:
    entry, blob = found
    job: Any
    end: Any
    try:
        if isinstance(blob, bytes):
            entries = decode_snapshot(job_id, blob)
            job, end = json.loads(entries[0].value), json.loads(entries[-1].value)
        else:
            job, end = {}, json.loads(entry[0][1][b"end"])
        timings: dict[str, Any] = end.get("timings") or {}
        usage: dict[str, Any] = end.get("usage") or {}
        return EndedLast(
            job_id=job_id,
            status=Status(end["status"]).value,
            ago_ms=max(0, now_ms - int(end["ts"])),
            model=_model(job),
            first_ms=timings.get("first_chunk_ms"),
            total_ms=timings.get("total_ms"),
            tokens=usage.get("completion_tokens", usage.get("output_tokens")),
        )
    except (HistoryLost, ValueError, LookupError, TypeError, AttributeError):  # deleted since, or none of ours
        return None


def _model(job: Mapping[str, Any]) -> str:
    return str(job.get("model") or job.get("task") or job.get("api") or "")


def _counted(entries: Sequence[Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, fields in entries:
        status = _text(fields, b"status")
        counts[status] = counts.get(status, 0) + 1
    return counts


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode(errors="replace")


def _entry_order(entry: Any) -> tuple[int, int]:
    epoch, _, seq = entry[0].partition(b"-")
    return int(epoch), int(seq)


async def _memory(broker: Broker) -> tuple[int | None, int]:
    """What the servers of the logs use together, those that fill up, and how much they may (0: no limit). Of several, those
    that answer."""
    said = await asyncio.gather(
        *(_info(part, _PATIENCE_S if broker.spread else None) for part in broker.parts.values()), return_exceptions=True
    )
    known: list[tuple[int, int]] = []
    for each in said:
        if isinstance(each, BaseException) and not (
            broker.spread and isinstance(each, BrokerUnavailable | TimeoutError)
        ):
            raise each
        if not isinstance(each, BaseException) and (told := _told(each[0])) is not None:
            known.append(told)
    limits = [limit for _, limit in known]
    return (sum(used for used, _ in known) if known else None), (sum(limits) if all(limits) else 0)


async def _info(server: Broker, patience_s: float | None) -> list[Any]:
    async with asyncio.timeout(patience_s):
        return await server.many([("INFO", "memory")])


def _told(info: Any) -> tuple[int, int] | None:
    try:
        return int(info["used_memory"]), int(info.get("maxmemory", 0))
    except (LookupError, ValueError, TypeError, AttributeError):  # refused
        return None
