"""What Redis knows of all workers and jobs together: read when somebody scrapes, kept for some seconds.

Some dozen short commands in two round trips, whatever the number of jobs: counts of sorted sets, never a listing. What
this user may not ask for (access lists) is missing among the figures and said in the log once.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import NoPermissionError

from tailrace.joblog import Broker
from tailrace.queue import ask_queues, queues_told
from tailrace.schemas import Keys, TailraceError
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import OTHER, Metric, Sample

logger = logging.getLogger(__name__)

#: Prometheus scrapes every 15 s as a rule; several of them, and people, share a reading.
KEPT_S: Final = 5.0
PATIENCE_S: Final = 2.0
_MOST_WORKERS: Final = 1000
_MOST_GROUPS: Final = 50
_MOST_QUEUES: Final = 50
#: An open job is checked every 30 s (the sweep's NEXT_CHECK_MS).
_LATE_MS: Final = 30_000
_LAST_WRITES: Final = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")

_Answer = Any
"""What Redis answers, or the error that it answers with."""


class Fleet:
    """The figures of all processes that share a Redis and a namespace."""

    def __init__(self, broker: Broker, keys: Keys, *, lease_s: float, kept_s: float = KEPT_S) -> None:
        """`lease_s`: the workers', to tell jobs that run from those that are due later."""
        self._broker, self._keys = broker, keys
        self._lease_ms, self._kept_s = int(lease_s * 1000), kept_s
        self._samples: list[Sample] = []
        self._until = 0.0
        self._lock = asyncio.Lock()
        self._refused = False

    async def read(self) -> Sequence[Sample]:
        """The figures, at most `kept_s` old. Never raises for what Redis does: then it is not up."""
        async with self._lock:
            if time.perf_counter() >= self._until:
                servers = await self._servers()
                found = await asyncio.gather(*(_server(*each) for each in servers.items()), self._fleet())
                self._samples = [sample for samples in found for sample in samples]
                self._until = time.perf_counter() + self._kept_s
            return self._samples

    async def _servers(self) -> Mapping[str, Broker]:
        """By their labels; a cluster's primaries by their addresses: as many as there are, and those that are gone go."""
        broker = self._broker
        if broker.spread:
            with suppress(TailraceError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await broker.look_again()
        logs = dict(broker.parts) if broker.spread else {"logs": broker}
        return logs | ({"queue": broker.queue} if broker.apart else {})

    async def _fleet(self) -> list[Sample]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._read()
        except (TailraceError, TimeoutError, OSError) as error:
            logger.debug("metrics: the queue's server does not answer: %s", error)
            return []

    async def _read(self) -> list[Sample]:
        keys = self._keys
        (seconds, micros), told_queues = await self._ask(("TIME",), ask_queues(keys))
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        leased = now_ms + self._lease_ms
        streams = keys.ended_streams
        queues = queues_told(told_queues)[:_MOST_QUEUES]
        answers = iter(
            await self._ask(
                *(
                    command
                    for queue in map(keys.queue_of, queues)
                    for command in (
                        ("ZCOUNT", queue, "-inf", now_ms),
                        ("ZCOUNT", queue, f"({now_ms}", leased),
                        ("ZCOUNT", queue, f"({leased}", "+inf"),
                        ("ZRANGE", queue, 0, 0, "WITHSCORES"),
                    )
                ),
                ("ZCARD", keys.open),
                ("ZCOUNT", keys.open, "-inf", now_ms - _LATE_MS),
                ("ZRANGE", keys.workers, -_MOST_WORKERS, -1),
                *(("XINFO", "STREAM", stream) for stream in streams),
                *(("XINFO", "GROUPS", stream) for stream in streams),
            )
        )
        samples: list[Sample] = []
        for queue in queues:
            for state in ("due", "running", "delayed"):
                samples += _number(told.QUEUE_JOBS, next(answers), queue, state)
            first = next(answers)
            if not isinstance(first, Exception):
                samples.append(Sample(told.QUEUE_AGE, (queue,), _age_s(first, now_ms)))
        samples += _number(told.OPEN_JOBS, next(answers))
        samples += _number(told.OPEN_UNCHECKED, next(answers))
        names = next(answers)
        kept, groups = [next(answers) for _ in streams], [next(answers) for _ in streams]
        samples += _streams(kept)
        samples += await self._groups(groups)
        if not isinstance(names, Exception):
            samples += await self._workers(names)
        return samples

    async def _workers(self, names: Sequence[bytes]) -> list[Sample]:
        cards = await self._ask(*(("GET", self._keys.worker(name.decode("utf-8", "replace"))) for name in names))
        if any(isinstance(card, Exception) for card in cards):
            return []
        alive = [card for card in cards if card is not None]
        return [
            Sample(told.WORKERS, ("alive",), len(alive)),
            Sample(told.WORKERS, ("silent",), len(cards) - len(alive)),
            Sample(told.WORKER_SLOTS, (), sum(_slots(card) for card in alive)),
        ]

    async def _groups(self, answers: Sequence[_Answer]) -> list[Sample]:
        """Their lag over all streams; of many groups, the rest as one."""
        lags: dict[str, float] = {}
        pending: dict[str, float] = {}
        for answer in answers:
            groups: Sequence[Sequence[Any]] = [] if isinstance(answer, Exception) else answer
            for group in map(_fields, groups):
                name = _text(group.get("name"))
                if name not in pending and len(pending) >= _MOST_GROUPS:
                    name = OTHER
                pending[name] = pending.get(name, 0) + float(group.get("pending") or 0)
                lag = group.get(
                    "lag"
                )  # none after an entry in the middle was deleted, until the group has come past it
                if lag is not None:
                    lags[name] = lags.get(name, 0) + float(lag)
        named = [name for name in pending if name != OTHER]
        # What is parked is not the gateway's to read: there it is missing, and nothing to complain of.
        parked = await self._broker.queue.many([("XLEN", self._keys.parked(name)) for name in named]) if named else []
        return [
            *(Sample(told.HANDOFF_LAG, (name,), value) for name, value in lags.items()),
            *(Sample(told.HANDOFF_PENDING, (name,), value) for name, value in pending.items()),
            *(
                each
                for name, value in zip(named, parked, strict=True)
                for each in _number(told.HANDOFF_PARKED, value, name)
            ),
        ]

    async def _ask(self, *commands: tuple[str | int, ...]) -> list[_Answer]:
        answers = await self._broker.queue.many(commands) if commands else []
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, NoPermissionError) and not self._refused:
                self._refused = True
                logger.warning(
                    "metrics of the fleet are incomplete: Redis refuses %s to this user (docs/security.md has the rights)",
                    command[0],
                )
        return answers


def _of(answer: _Answer, read: Callable[[Any], list[Sample]]) -> list[Sample]:
    """What an answer tells; nothing, if it is an error."""
    return [] if isinstance(answer, Exception) else read(answer)


def _number(metric: Metric, answer: _Answer, *labels: str) -> list[Sample]:
    return _of(answer, lambda count: [Sample(metric, labels, count)])


def _age_s(first: Sequence[bytes], now_ms: int) -> float:
    return max(0.0, (now_ms - float(first[1])) / 1000) if first else 0.0


async def _server(name: str, broker: Broker) -> list[Sample]:
    """Of one server: whether it answers, and what it says of itself."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            (info,) = await broker.many([("INFO",)])
    except (TailraceError, TimeoutError, OSError) as error:
        logger.debug("metrics: the server of the %s does not answer: %s", name, error)
        return [Sample(told.REDIS_UP, (name,), 0)]
    up = [Sample(told.REDIS_UP, (name,), 1), Sample(told.REDIS_RESPONSE, (name,), time.perf_counter() - began)]
    return up if isinstance(info, Exception) else [*up, *_said(name, info)]


def _said(name: str, info: Mapping[str, Any]) -> Iterator[Sample]:
    """`info` as redis-py parses it."""
    for metric, field in (
        (told.REDIS_MEMORY, "used_memory"),
        (told.REDIS_MEMORY_LIMIT, "maxmemory"),
        (told.REDIS_CLIENTS, "connected_clients"),
        (told.REDIS_CLIENTS_LIMIT, "maxclients"),
        (told.REDIS_EVICTED, "evicted_keys"),
    ):
        value = info.get(field)
        if isinstance(value, int) and not (metric is told.REDIS_MEMORY_LIMIT and value == 0):
            yield Sample(metric, (name,), value)
    yield Sample(told.REDIS_WRITES_FAIL, (name,), any(info.get(field, "ok") != "ok" for field in _LAST_WRITES))


def _streams(answers: Sequence[_Answer]) -> list[Sample]:
    """Of the streams of ended jobs together. One that is not there yet has nothing."""
    known = [_fields(answer) for answer in answers if not isinstance(answer, Exception)]
    absent = sum("no such key" in str(answer) for answer in answers if isinstance(answer, Exception))
    if len(known) + absent < len(answers):
        return []
    return [
        Sample(told.HANDOFF_ENTRIES, (), sum(int(each.get("length") or 0) for each in known)),
        Sample(told.HANDOFF_ADDED, (), sum(int(each.get("entries-added") or 0) for each in known)),
    ]


def _fields(answer: Sequence[Any]) -> dict[str, Any]:
    return {_text(name): value for name, value in zip(answer[::2], answer[1::2], strict=False)}


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _slots(card: bytes) -> int:
    try:
        return int(json.loads(card)["max_jobs"])
    except (ValueError, LookupError, TypeError):  # not written by us
        return 0
