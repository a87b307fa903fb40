"""Looking through the index of open jobs for what a crash left behind, and healing it. Every worker does it.

    open (jobs that are not finished and handed off, by their next check) -> glance -> finding -> heal

Each due job is taken by one worker, in one script that also sets its next check; a round takes a bounded number. What a
heal writes is decided by scripts that look again, so doing it twice, or a moment too late, does no harm.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from tailrace.joblog import Broker, between_nodes, seal_expired, translated
from tailrace.queue import IN_PROGRESS_PREFIX, Outage, enqueue, forget_old_queues, known_queues
from tailrace.schemas import DEFAULT_QUEUE, BrokerUnavailable, Keys, Status, TailraceError
from tailrace.tasks import Jobs
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Counts
from tailrace.worker.checkup import LONGEST_WAIT_MS, Finding, Glance, glance
from tailrace.worker.registry import WorkerCard, known_workers, with_scores
from tailrace.worker.settle import end_damaged, leave, settle
from tailrace.worker.sweep_scripts import BRING_FORWARD, INDEX, LOOKED_AT, REOPEN, TAKE_DUE, UNSETTLED_FOR

logger = logging.getLogger(__name__)

#: Jobs that are looked at in one round trip: some 10 us of server time each.
AT_ONCE: Final = 100
#: What one worker checks in one round at most; the rest waits for the next round, or another worker.
A_ROUND: Final = 1000
#: How long an open job that is in order is left alone.
NEXT_CHECK_MS: Final = 30_000
#: A job that is due later is checked so long after that, as the submit script has it.
_AFTER_DUE_MS: Final = 10_000
#: A report names so many jobs of each finding.
_NAMED: Final = 10


@dataclass(slots=True)
class Swept:
    """What one sweep has done."""

    checked: int = 0
    queued: int = 0
    """Open jobs that the queue did not know, or kept for a time that never comes: queued."""
    settled: int = 0
    """Jobs that had ended: snapshot stored, handed off."""
    expired: int = 0
    """Jobs past deadline and grace: ended."""
    failed: int = 0
    """Jobs whose log was trimmed from outside: ended, since nobody can run them."""
    dropped: int = 0
    """Ids without a log: forgotten."""
    reopened: int = 0
    """Open jobs that the index had lost and the queue still knew."""
    skipped: int = 0
    """Jobs that could not be checked: somebody else's data under our names."""

    @property
    def healed(self) -> dict[str, int]:
        """What was not in order, with counts."""
        counts = {each.name: int(getattr(self, each.name)) for each in fields(self)}
        return {name: count for name, count in counts.items() if count and name != "checked"}


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep would find; nothing is changed."""

    checked: int
    """Open jobs that were looked at, those first whose check is due first."""
    open: int
    """Jobs in the index."""
    queued: int
    """Jobs in the queues, waiting or running."""
    late: int
    """Checks that are overdue by more than a sweep's pause: nobody sweeps, or there is more than the sweeps can do."""
    findings: Mapping[Finding, int] = field(default_factory=dict[Finding, int])
    """How many of those looked at; Finding.ENDED and UNQUEUED may be on their way for a moment."""
    jobs: Mapping[Finding, tuple[str, ...]] = field(default_factory=dict[Finding, tuple[str, ...]])
    """A few ids of each finding other than Finding.WELL."""
    workers: tuple[WorkerCard, ...] = ()
    """Who has announced itself within the hour; not `.alive` who has not of late, and did not take its leave."""
    now_ms: int = 0
    """The server's clock."""
    away: int = 0
    """Open jobs that could not be looked at: of several servers, theirs does not answer."""


async def sweep_for_ever(
    broker: Broker,
    keys: Keys,
    *,
    every_s: float,
    longest_wait_ms: int = LONGEST_WAIT_MS,
    jobs: Jobs | None = None,
    counts: Counts | None = None,
) -> None:
    """Sweep again and again, until cancelled."""
    counts = counts or Counts(told.WORKER)
    outage = Outage("sweep", logger)
    seen: dict[str, int] = {}
    while True:
        try:
            swept = await sweep(broker, keys, longest_wait_ms=longest_wait_ms, jobs=jobs, counts=counts)
            reopened = 0
            for queue in await known_queues(broker, keys):
                count, seen[queue] = await reopen(broker, keys, seen.get(queue, 0), queue)
                reopened += count
            await forget_old_queues(broker, keys)
            if broker.apart:
                reopened += await reopen_handed_off(broker, keys)
        except TailraceError as error:
            await asyncio.sleep(outage.failed(error))
            continue
        except Exception:
            # Nobody else heals: whatever it was, the next round is tried.
            logger.exception("sweep: a round failed")
            await asyncio.sleep(every_s)
            continue
        outage.over()
        swept.reopened = reopened
        counts.add(told.SWEEP_CHECKED, by=swept.checked)
        for finding, count in swept.healed.items():
            counts.add(told.SWEEP_HEALED, finding, by=count)
        if swept.healed:
            healed = ", ".join(f"{name} {count}" for name, count in swept.healed.items())
            logger.warning("sweep: of %d open jobs checked: %s", swept.checked, healed)
        await asyncio.sleep(every_s)


async def sweep(
    broker: Broker,
    keys: Keys,
    *,
    longest_wait_ms: int = LONGEST_WAIT_MS,
    jobs: Jobs | None = None,
    counts: Counts | None = None,
) -> Swept:
    """Check the open jobs whose check is due, up to A_ROUND, and heal them. Raises: BrokerUnavailable, BrokerUnsuitable."""
    swept = Swept()
    ends = counts or Counts(told.WORKER)
    queues = await known_queues(broker, keys)
    while swept.checked < A_ROUND:
        now_ms, due = await broker.queue.run(TAKE_DUE, [keys.open], [AT_ONCE, NEXT_CHECK_MS])
        job_ids = [job_id.decode("utf-8", "replace") for job_id in due]
        if broker.apart and job_ids:
            now_ms = await broker.now_ms()  # deadlines are by the clock of the log's server
        away: set[str] = set()
        for seen in await _glances(broker, keys, job_ids, queues, swept):
            place = broker.place(keys.log(seen.job_id))
            if place in away:
                continue
            try:
                await _heal(broker, keys, seen, now_ms, swept, longest_wait_ms, jobs, ends)
            except BrokerUnavailable as error:
                if not broker.spread:
                    raise
                # Of several servers this job's has gone away: it is looked at again, with the others there.
                if not between_nodes(error):
                    away.add(place)
                logger.debug("sweep: job %r: %s", seen.job_id, error, extra={"job_id": seen.job_id})
            except (ValueError, TypeError, LookupError) as error:  # what is there is none of ours
                swept.skipped += 1
                logger.debug(
                    "sweep: job %r cannot be checked: %s",
                    seen.job_id,
                    type(error).__name__,
                    extra={"job_id": seen.job_id},
                )
        swept.checked += len(job_ids)
        if len(job_ids) < AT_ONCE:
            break
    return swept


async def _glances(broker: Broker, keys: Keys, job_ids: list[str], queues: list[str], swept: Swept) -> list[Glance]:
    """Raises: as `sweep`. One job whose keys are of another kind does not hide the others."""
    found: list[Glance] = []
    for seen in await glance(broker, keys, job_ids, queues):
        if seen is None:
            swept.skipped += 1
        elif not isinstance(seen, BrokerUnavailable):  # else its server is away: it is looked at again
            found.append(seen)
    return found


async def _heal(
    broker: Broker,
    keys: Keys,
    seen: Glance,
    now_ms: int,
    swept: Swept,
    longest_wait_ms: int,
    jobs: Jobs | None,
    counts: Counts,
) -> None:
    job_id = seen.job_id

    def seen_off(status: Status) -> None:
        counts.add(told.JOBS_ENDED, status.value)

    match seen.finding(now_ms, longest_wait_ms=longest_wait_ms):
        case Finding.WELL:
            last_ms = seen.last_check_ms(now_ms)
            if last_ms < now_ms + NEXT_CHECK_MS:
                await broker.queue.call("ZADD", keys.open, "XX", last_ms, job_id)
        case Finding.UNQUEUED:
            await _queue(broker, keys, seen, now_ms)
            swept.queued += 1
        case Finding.STUCK:
            queued_id, queue = keys.queued(job_id), seen.queue or keys.queue
            names = [queue, IN_PROGRESS_PREFIX + queued_id, keys.wake_of(queue)]
            swept.queued += await broker.queue.run(BRING_FORWARD, names, [queued_id, longest_wait_ms])
        case Finding.OVERDUE:
            await seal_expired(broker, keys, job_id, seen.incarnation)
            await settle(broker, keys, job_id, queue=seen.queue, jobs=jobs, seen_off=seen_off)
            await leave(broker, keys, job_id, queue=seen.queue)
            swept.expired += 1
        case Finding.ENDED:
            if await settle(broker, keys, job_id, queue=seen.queue, jobs=jobs, seen_off=seen_off):
                await leave(broker, keys, job_id, queue=seen.queue)
                swept.settled += 1
        case Finding.DAMAGED:
            await end_damaged(broker, keys, job_id)
            await settle(broker, keys, job_id, queue=seen.queue, jobs=jobs, seen_off=seen_off)
            await leave(broker, keys, job_id, queue=seen.queue)
            swept.failed += 1
        case Finding.GONE:
            await leave(broker, keys, job_id, queue=seen.queue)
            swept.dropped += 1


async def _queue(broker: Broker, keys: Keys, seen: Glance, now_ms: int) -> None:
    """Queue it as submit did: one that has not begun may be due only later."""
    last_ms = seen.last_check_ms(now_ms)
    due_ms = now_ms
    if not seen.begun:
        stored = await broker.call("GET", keys.request(seen.job_id))
        request: Any = json.loads(stored)["request"] if stored else {}
        due_ms = max(now_ms, _ms((seen.job or {}).get("ts")) + round(1000 * float(request.get("delay_s", 0))))
    delay_ms = min(due_ms - now_ms, last_ms - now_ms - 1000)
    with translated():
        redis, ttl_ms = broker.queue.redis, max(1000, last_ms - now_ms)
        await enqueue(redis, keys, seen.job_id, delay_ms=max(0, delay_ms), ttl_ms=ttl_ms, queue=seen.queue_name)
    if due_ms > now_ms:
        await broker.queue.call("ZADD", keys.open, "XX", due_ms + _AFTER_DUE_MS, seen.job_id)


def _ms(value: object) -> int:
    return value if isinstance(value, int) else 0


async def reopen(broker: Broker, keys: Keys, start: int, queue: str = DEFAULT_QUEUE) -> tuple[int, int]:
    """Put open jobs that only the queue of that name knows back into the index, from its `start`-th on; how many, and where
    to go on. A hundred a round, in turn: the index is written with the log, so this heals what was evicted or deleted.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    found = await broker.queue.call("ZRANGE", keys.queue_of(queue), start, start + AT_ONCE - 1, "WITHSCORES")
    scored = {keys.job_of(queued_id): score for queued_id, score in with_scores(found)}
    job_ids = [job_id for job_id in scored if job_id is not None]
    scores = await broker.queue.many([("ZSCORE", keys.open, job_id) for job_id in job_ids]) if job_ids else []
    now_ms = await broker.queue.now_ms() if None in scores else 0
    count = 0
    for job_id, score in zip(job_ids, scores, strict=True):
        if score is None:
            next_check = int(max(now_ms, scored[job_id])) + _AFTER_DUE_MS
            count += await _reopen(broker, keys, job_id, next_check)
    return count, start + AT_ONCE if len(found) == 2 * AT_ONCE else 0


async def reopen_handed_off(broker: Broker, keys: Keys) -> int:
    """Put jobs back into the index whose log has lost its end since they left it: the log's server went back, and the queue's
    did not go back with it. How many; the others are forgotten.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    count = 0
    away: set[str] = set()
    while True:
        now_ms, due = await broker.queue.run(TAKE_DUE, [keys.handed], [AT_ONCE, NEXT_CHECK_MS])
        for entry in due:
            name = entry.decode("utf-8", "replace").partition(":")[0]
            place = broker.place(keys.log(name))
            if place in away or broker.hangs(keys.log(name)):
                continue
            try:
                count += await _reopen(broker, keys, name, now_ms)
            except BrokerUnavailable:  # of several servers, this one: it is looked at again
                away.add(place)
                continue
            await broker.queue.run(LOOKED_AT, [keys.handed], [entry, now_ms + NEXT_CHECK_MS])
        if len(due) < AT_ONCE:
            return count


async def _reopen(broker: Broker, keys: Keys, job_id: str, next_check_ms: int) -> int:
    """Put a job back into the index if its log is open, or of two servers' also if its end is not settled; how many."""
    if not broker.apart:
        return int(await broker.run(REOPEN, [keys.log(job_id), keys.open], [job_id, next_check_ms]))
    ttl_ms = await broker.run(UNSETTLED_FOR, [keys.log(job_id)], [])
    return int(await broker.queue.run(INDEX, [keys.open], [job_id, next_check_ms, ttl_ms])) if ttl_ms else 0


async def sweep_report(broker: Broker, keys: Keys, *, limit: int = A_ROUND) -> SweepReport:
    """What is not in order among the open jobs, up to `limit` of them; changes nothing.

    Raises: BrokerUnavailable, BrokerUnsuitable.
    """
    now_ms = await broker.queue.now_ms()
    log_ms = await broker.now_ms() if broker.apart else now_ms
    due = with_scores(await broker.queue.call("ZRANGE", keys.open, 0, limit - 1, "WITHSCORES"))
    queues = await known_queues(broker, keys)
    queued = await broker.queue.many([("ZCARD", keys.queue_of(name)) for name in queues])
    away = 0
    counts: Counter[Finding] = Counter()
    jobs: dict[Finding, tuple[str, ...]] = {}
    for start in range(0, len(due), AT_ONCE):
        job_ids = [job_id for job_id, _ in due[start : start + AT_ONCE]]
        for seen in await glance(broker, keys, job_ids, queues):
            if isinstance(seen, BrokerUnavailable):
                away += 1
            if seen is None or isinstance(seen, BrokerUnavailable):
                continue
            finding = seen.finding(log_ms)
            counts[finding] += 1
            named = jobs.get(finding, ())
            if finding is not Finding.WELL and len(named) < _NAMED:
                jobs[finding] = (*named, seen.job_id)
    return SweepReport(
        checked=len(due) - away,
        away=away,
        open=await broker.queue.call("ZCARD", keys.open),
        queued=sum(count for count in queued if isinstance(count, int)),
        late=sum(score < now_ms - NEXT_CHECK_MS for _, score in due),
        findings=counts,
        jobs=jobs,
        workers=tuple(await known_workers(broker, keys)),
        now_ms=now_ms,
    )
