"""What `tailrace doctor` says of the jobs and the workers: a report of the sweep in words, and what to do next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tailrace.joblog import Broker
from tailrace.joblog.suitability import Finding
from tailrace.queue import known_queues
from tailrace.schemas import DEFAULT_QUEUE, WIRE_VERSION, BrokerUnsuitable, Keys
from tailrace.worker.checkup import Finding as Found
from tailrace.worker.registry import WorkerCard
from tailrace.worker.scrub import walks
from tailrace.worker.sweep import NEXT_CHECK_MS, SweepReport, sweep_report

_START: Final = "start `tailrace worker` on this server and namespace"
_SHOWN: Final = 3
#: A job that has been due for so long while workers live is worth a word.
_LONG_WAIT_S: Final = 30.0

#: What is wrong with some jobs, and what to do if a worker's sweep cannot be all of it.
_TOLD: Final[Mapping[Found, tuple[str, str]]] = {
    Found.UNQUEUED: (
        "open, but not in the queue",
        "a worker's sweep queues them. If it happens again, the server loses its tail: see `durability`",
    ),
    Found.STUCK: (
        "queued for a time that nothing explains",
        "the server's clock went back: synchronise it. A worker's sweep brings them forward",
    ),
    Found.OVERDUE: (
        "past deadline and grace, not ended",
        "a worker's sweep, or whoever reads them, ends them as expired. Start more workers, or submit with a longer deadline",
    ),
    Found.ENDED: (
        "ended, not handed off yet",
        "a worker's sweep stores their snapshots and hands them off; they can be read meanwhile",
    ),
    Found.DAMAGED: (
        "open, but their first record is gone",
        "find who trims or deletes in the logs (XTRIM, XDEL). A worker's sweep ends them as failed: submit them again",
    ),
    Found.GONE: (
        "in the index of open jobs, but without a log",
        "a worker's sweep forgets them. Unless somebody deleted keys, the server evicts them: see `eviction`",
    ),
}
#: For a moment, every job is one of these on its way.
_PASSING: Final = frozenset({Found.UNQUEUED, Found.ENDED})


@dataclass(frozen=True, slots=True)
class JobsFinding(Finding):
    """A finding with what scripts want to know of it."""

    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


async def jobs_findings(broker: Broker, keys: Keys) -> list[Finding]:
    """What is not in order with jobs and workers. Raises: BrokerUnavailable."""
    try:
        report = await sweep_report(broker, keys)
        return [
            *told(report),
            *versions(report.workers),
            *await _waiting(broker, keys, report),
            *await _scrub(broker, keys, report),
        ]
    except BrokerUnsuitable as error:  # a user that may not look: it need not
        what = f"jobs and workers are not looked at: {str(error).removesuffix(f': {error.cure}')}"
        return [Finding("ok", "not-looked-at", what)]


async def _waiting(broker: Broker, keys: Keys, report: SweepReport) -> list[Finding]:
    """Whether jobs wait although workers are there."""
    alive = [card for card in report.workers if card.alive]
    queues = await known_queues(broker, keys)
    firsts = await broker.queue.many([("ZRANGE", keys.queue_of(name), 0, 0, "WITHSCORES") for name in queues])
    return [
        finding
        for name, first in zip(queues, firsts, strict=True)
        if first and not isinstance(first, Exception)
        for finding in _waits(name, (report.now_ms - float(first[1])) / 1000, alive)
    ]


def _waits(queue: str, waited_s: float, alive: Sequence[WorkerCard]) -> Iterator[Finding]:
    """Of one queue, whose first job has been due for so long (for later: less than nothing)."""
    fields = {"queue": queue, "waited_s": max(0, round(waited_s))}
    crew = [card for card in alive if queue in card.queues]
    if not crew and queue == DEFAULT_QUEUE and not alive:
        return  # that no worker is there is said once
    if not crew:
        cure = f"start `tailrace worker --queue {queue}`, or add it to worker.queues"
        yield JobsFinding(
            "warning", "queue-unserved", f"jobs are in queue {queue}, which no worker serves", cure, fields
        )
    elif waited_s >= _LONG_WAIT_S:
        room = sum(max(0, card.max_jobs - card.jobs) for card in crew)
        what = f"the first job in queue {queue} has been due for {waited_s:.0f} s"
        cure = "all of its workers are full: start more, or raise worker.max_jobs"
        if room:
            what += ", and nobody takes it"
            cure = f"its workers have room for {room} more: look into their logs, and whether they reach the server"
            cure += " (a paused process?)"
        yield JobsFinding("warning", "queue-age", what, cure, fields)


async def _scrub(broker: Broker, keys: Keys, report: SweepReport) -> list[Finding]:
    """Whether jobs may be missing from the queue because its server has lost data."""
    try:
        found = await walks(broker, keys)
    except BrokerUnsuitable:  # a user that is no worker's
        return []
    if found is None:
        return []
    ago_s = max(0, report.now_ms - found.since_ms) / 1000
    fields = {"walks": found.done, "walking": found.walking, "since_s": round(ago_s)}
    what = f"the queue's server is new, or has been another for {ago_s:.0f} s"
    if any(card.alive for card in report.workers):
        doing = "a worker looks through all logs" if found.walking else "workers will look through the logs once more"
        return [JobsFinding("ok", "scrub", f"{what}: {doing} for jobs that it does not know", fields=fields)]
    what += ", and nobody looks for jobs that it does not know"
    return [JobsFinding("warning", "scrub", what, f"{_START}: it looks through the logs", fields)]


def versions(workers: Sequence[WorkerCard]) -> Iterator[Finding]:
    """Whether the workers are of one version, and which others are there."""
    alive = [card for card in workers if card.alive]
    wires = sorted({card.wire for card in alive} - {WIRE_VERSION})
    if wires:
        yield JobsFinding(
            "warning",
            "wire",
            f"workers write wire version {', '.join(map(str, wires))}, this tailrace is of {WIRE_VERSION}",
            "upgrade readers and gateways first, then workers, then producers; do not go back while such jobs are kept",
            {"wires": wires},
        )
    told = sorted({card.version or "unknown" for card in alive})
    if len(told) > 1:
        yield JobsFinding(
            "ok", "versions", f"workers of several versions: {', '.join(told)}", fields={"versions": told}
        )


def told(report: SweepReport) -> Iterator[Finding]:
    """A report in words, the whole first."""
    alive = [card for card in report.workers if card.alive]
    yield _summary(report, alive)
    if report.late:
        yield JobsFinding(
            "warning",
            "late",
            f"{_jobs(report.late)}: the check is overdue by more than {NEXT_CHECK_MS // 1000} s",
            "look into the logs of the workers (their sweeps fail?), or start more of them" if alive else _START,
            {"count": report.late},
        )
    if report.away:
        yield JobsFinding(
            "warning",
            "out-of-reach",
            f"{_jobs(report.away)} open on a server that does not answer: they stand still",
            "bring it back, or its replica; then they go on, or a worker's sweep ends them",
            {"count": report.away},
        )
    on_the_way = bool(alive) and not report.late
    for found, (what, cure) in _TOLD.items():
        count, ids = report.findings.get(found, 0), report.jobs.get(found, ())
        if not count:
            continue
        passing = on_the_way and found in _PASSING
        if passing:
            cure = ""
            what += " (on their way, or healed within half a minute)"
        elif not alive:
            cure = f"{_START}; {cure}"
        named = ", ".join(ids[:_SHOWN]) + (", ..." if count > _SHOWN else "")
        fields = {"count": count, "jobs": list(ids)}
        yield JobsFinding("ok" if passing else "warning", found.value, f"{_jobs(count)} {what}: {named}", cure, fields)
    odd = report.checked - sum(report.findings.values())
    if odd:
        yield JobsFinding(
            "warning",
            "foreign",
            f"{_jobs(odd)} with something in the keys that is none of tailrace's",
            "find who else writes to this namespace, and give one of the two another (TAILRACE_NAMESPACE)",
            {"count": odd},
        )
    yield from _dead(report)


def _summary(report: SweepReport, alive: list[WorkerCard]) -> Finding:
    fields: dict[str, Any] = {"open": report.open, "queued": report.queued, "late": report.late}
    fields |= {"checked": report.checked, "workers": [card.name for card in alive]}
    running = sum(card.jobs for card in alive)
    crew = f"{len(alive)} worker{'' if len(alive) == 1 else 's'}"
    what = f"{_jobs(report.open)} open, {report.queued} in the queue (waiting or running)"
    if report.checked + report.away < report.open:
        what += f"; the {report.checked} whose check is due first were looked at"
    if alive:
        return JobsFinding("ok", "open", f"{what}; {crew} with {_jobs(running)}", fields=fields)
    if report.open:
        return JobsFinding("warning", "open", f"{what}; no worker is there", _START, fields)
    return JobsFinding("ok", "open", f"{what}; no worker is there", fields=fields)


def _dead(report: SweepReport) -> Iterator[Finding]:
    dead = [card for card in report.workers if not card.alive]
    if not dead:
        return
    silent_s = {card.name: max(0, report.now_ms - card.seen_ms) // 1000 for card in dead}
    named = ", ".join(f"{name} ({seconds} s)" for name, seconds in list(silent_s.items())[-_SHOWN:])
    yield JobsFinding(
        "warning",
        "dead-workers",
        f"fell silent within the hour without taking their leave: {named}" + (", ..." if len(dead) > _SHOWN else ""),
        "nothing to do for their jobs, others take them over. Look why they died: their last log lines, the kernel's "
        "(out of memory), their supervisor's; one that hangs or cannot reach the server counts too",
        {"workers": [{"name": name, "silent_s": seconds} for name, seconds in silent_s.items()]},
    )


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"
