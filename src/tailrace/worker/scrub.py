"""Looking through the logs for jobs that the queue's server has lost, where it is another than theirs.

    watch (is it the server that it was?) -> walk (every primary of the logs) -> back into the index of open jobs -> sweep

A server that failed over, or came back without its last second or without anything, has lost queue entries and places in the
index; the logs stand. Nobody would run those jobs. Each worker asks once a round whether the queue's server has the history
that it had; after a change one of them walks, at once and a minute later once more, for what was still written to a primary
that had been replaced. What it finds goes into the index, and whatever is to be done the ordinary sweep does.
"""

import asyncio
import logging
import re
import secrets
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tailrace.joblog import Broker, Word, in_our_words
from tailrace.queue import Outage
from tailrace.schemas import InvalidRequest, Keys, TailraceError, check_job_id
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Counts
from tailrace.worker.scrub_scripts import STATE, WALKED, WATCH
from tailrace.worker.sweep_scripts import INDEX

logger = logging.getLogger(__name__)

#: Keys that one step looks at: about a millisecond of the server's time.
_STEP: Final = 1000
#: Steps at one server until the queue's server is asked again whether it is still the same, and for leave to go on.
_A_ROUND: Final = 50
#: Between two steps. 100,000 ended jobs (300,000 keys) took 16 s, and 15 % of their server's time in these.
_PAUSE_S: Final = 0.02
#: Servers of the logs that are walked at a time: one that hangs must not keep the others waiting.
_SERVERS: Final = 4
#: Jobs that are looked at in one round trip.
_AT_ONCE: Final = 100
#: After each change; the second one looks for what a primary took after it had been replaced.
_WALKS: Final = 2
#: A walker that has not asked for so long is taken for dead.
_WALKER_MS: Final = 30_000
#: A primary that hung may take writes for some time after it was replaced.
_AGAIN_MS: Final = 60_000
#: Times are of several servers and are noted every few seconds. Only jobs without a trace are handed off again.
_MARGIN_MS: Final = 60_000
#: How long it is remembered that a server's data were looked through, without a worker there.
_REMEMBERED_MS: Final = 24 * 3_600_000
#: Of a snapshot, what tells when its job was submitted, and which job under its id that is.
_HEAD: Final = 512
_SUBMITTED: Final = re.compile(rb'\\"ts\\":(\d{1,16})')
_INCARNATION: Final = re.compile(rb'\\"incarnation\\":\\"(\w{1,64})\\"')


Call = tuple[list[str], list[Word]]
"""A script's keys and arguments."""


class Order(NamedTuple):
    """A walk that is to be done."""

    history: bytes
    """The queue server's."""
    since: bytes
    """When it was first met."""
    number: int
    """The first after a change, or the second."""
    from_ms: int
    """Jobs that were submitted after that may have been handed off, and nobody was told."""


class Walks(NamedTuple):
    """How far the workers are with looking through the logs after the queue's server was another."""

    since_ms: int
    """When they first met its history."""
    done: int
    """Of two."""
    walking: bool
    """Whether one is at it now; between the two nobody is."""


async def walks(broker: Broker, keys: Keys) -> Walks | None:
    """None where nothing is to be looked through: logs and queue share a server, no worker was there yet, or both walks are
    done. Raises: BrokerUnavailable, BrokerUnsuitable."""
    if not broker.apart:
        return None
    since, done, until = await broker.queue.call("HMGET", keys.scrub, "since", "walks", "until")
    if since is None or int(done or 0) >= _WALKS:
        return None
    return Walks(int(since), int(done or 0), await broker.queue.now_ms() < int(until or 0))


@dataclass(slots=True)
class _Place:
    """How far the walk at one server of the logs has come."""

    cursor: Any = 0
    run_id: str | None = None
    """A cursor is good for one process only."""
    done: bool = False


@dataclass(slots=True)
class _Walk:
    order: Order
    places: dict[str, _Place] = field(default_factory=dict[str, _Place])
    looked: int = 0
    found: Counter[str] = field(default_factory=Counter[str])


async def scrub_for_ever(
    broker: Broker, keys: Keys, *, every_s: float, lease_s: float, counts: Counts | None = None
) -> None:
    """Watch the queue's server, and walk when it has changed, until cancelled. Where logs and queue share a server there is
    nothing to do: what it loses it loses of both."""
    if not broker.apart:
        return
    scrub = Scrub(broker, keys, lease_s=lease_s, counts=counts)
    outage = Outage("scrub", logger)
    while True:
        try:
            walking = await scrub.round()
        except TailraceError as error:
            await asyncio.sleep(max(every_s, outage.failed(error)))
            continue
        except Exception:
            logger.exception("scrub: a round failed")
            walking = False
        else:
            outage.over()
        await asyncio.sleep(_PAUSE_S if walking else every_s)


class Scrub:
    """One worker's part in it."""

    def __init__(self, broker: Broker, keys: Keys, *, lease_s: float, counts: Counts | None = None) -> None:
        self._broker, self._keys, self._lease_ms = broker, keys, int(lease_s * 1000)
        self._counts = counts or Counts(told.WORKER)
        self._token = secrets.token_hex(8)
        self._seen_before = False
        self._walk: _Walk | None = None
        self._ended = _Ended(broker, keys)

    async def round(self) -> bool:
        """Ask whether the queue's server is the one that it was; walk some way if it is not. Whether there is more to walk now.

        Raises: BrokerUnavailable, BrokerUnsuitable.
        """
        order = await self._asked()
        if order is None:
            self._walk = None
            return False
        if self._walk is None or self._walk.order != order:
            self._walk = _Walk(order)
            self._ended.forget()
            logger.info(
                "scrub: the queue's server is new, or another than before: looking through all logs for jobs that it does "
                "not know%s",
                "" if order.number == 1 else ", once more",
            )
        walk = self._walk
        await self._broker.look_again()
        free = asyncio.Semaphore(_SERVERS)
        left = {place: part for place, part in self._broker.parts.items() if not self._place(walk, place).done}
        errors = await asyncio.gather(*(self._some(walk, place, part, free) for place, part in left.items()))
        if any(error is None for error in errors):
            return True
        for error in errors:
            if error is not None:
                raise error  # those that are left are all away
        await self._through(walk)
        return False

    async def _asked(self) -> Order | None:
        names = [self._keys.scrub, *self._keys.ended_streams]
        seen_before = "1" if self._seen_before else "0"
        answer = await self._broker.queue.run(
            WATCH, names, [self._token, _WALKER_MS, _REMEMBERED_MS, seen_before, _MARGIN_MS, _AGAIN_MS]
        )
        self._seen_before = True
        if answer[0] != b"walk":
            return None
        _, history, since, number, from_ms = answer
        return Order(history, since, number, int(from_ms))

    def _place(self, walk: _Walk, place: str) -> _Place:
        return walk.places.setdefault(place, _Place())

    async def _some(self, walk: _Walk, place: str, part: Broker, free: asyncio.Semaphore) -> TailraceError | None:
        """Some steps at one server; the error if it is away."""
        at = self._place(walk, place)
        async with free:
            try:
                for _ in range(_A_ROUND):
                    await self._step(walk, at, part)
                    if at.done:
                        break
                    await asyncio.sleep(_PAUSE_S)
            except TailraceError as error:
                logger.debug("scrub: %s: %s", place or "the logs", error)
                return error
        return None

    async def _step(self, walk: _Walk, at: _Place, part: Broker) -> None:
        before, _, behind = self._keys.log("*").partition("*")
        scan = ("SCAN", at.cursor, "MATCH", self._keys.log("*"), "COUNT", _STEP)
        info, scanned = _well(await part.many([("INFO", "server"), scan]))
        run_id = str(info.get("run_id", ""))
        if at.run_id not in (None, run_id):
            at.cursor, at.run_id = 0, run_id  # another process: its keys are in another order
            return
        at.run_id = run_id
        cursor, names = scanned
        job_ids = dict.fromkeys(
            name.decode(errors="replace").removeprefix(before).removesuffix(behind) for name in names
        )
        ours = [job_id for job_id in job_ids if _is_job_id(job_id)]
        for start in range(0, len(ours), _AT_ONCE):
            await self._look(walk, part, ours[start : start + _AT_ONCE])
        # Only now: these are looked at again if a server went away meanwhile.
        at.cursor, at.done = cursor, not int(cursor)

    async def _look(self, walk: _Walk, part: Broker, job_ids: Sequence[str]) -> None:
        keys, queue = self._keys, self._broker.queue
        walk.looked += len(job_ids)
        # The index first: a job is in it before its log is stored, and until its end is told.
        scores = _well(await queue.many([("ZSCORE", keys.open, job_id) for job_id in job_ids]))
        missing = [job_id for job_id, score in zip(job_ids, scores, strict=True) if score is None]
        if not missing:
            return
        calls: list[Call] = [([keys.log(job_id), keys.snapshot(job_id)], [_HEAD]) for job_id in missing]
        states = await part.run_many(STATE, calls)
        lost: dict[str, int] = {}
        begun: dict[str, int] = {}
        settled: dict[tuple[str, bytes], int] = {}
        for job_id, state in zip(missing, states, strict=True):
            if isinstance(state, Exception):  # on its way to another server, or somebody else's data under our names
                continue
            word, ttl_ms, head = state
            if word in (b"open", b"ended"):
                lost[job_id] = ttl_ms
            elif word == b"begun":
                begun[job_id] = ttl_ms
            elif word == b"settled" and (submitted := _submitted(head)) and submitted[0] > walk.order.from_ms:
                settled[job_id, submitted[1]] = ttl_ms
        untold = await self._ended.without(settled, walk.order.from_ms) if settled else {}
        # Who runs it finds its lease lost at the next renewal, and says that it lives: before another worker claims the log.
        for kind, found, after_ms in (("lost", lost, 0), ("lost", begun, self._lease_ms), ("untold", untold, 0)):
            count = await self._index(found, after_ms)
            walk.found[kind] += count
            self._counts.add(told.SWEEP_HEALED, kind, by=count)

    async def _index(self, found: dict[str, int], after_ms: int) -> int:
        """Put jobs into the index of open ones, to be looked at by a sweep after that; how many were not there."""
        if not found:
            return 0
        queue = self._broker.queue
        check_ms = await queue.now_ms() + after_ms
        calls: list[Call] = [([self._keys.open], [job_id, check_ms, ttl_ms]) for job_id, ttl_ms in found.items()]
        return sum(_well(await queue.run_many(INDEX, calls)))

    async def _through(self, walk: _Walk) -> None:
        found = ", ".join(f"{kind} {count}" for kind, count in walk.found.items() if count)
        level = logging.WARNING if found else logging.INFO
        logger.log(
            level, "scrub: of %d logs looked at: %s", walk.looked, found or "the queue's server knows all it should"
        )
        await self._broker.queue.run(WALKED, [self._keys.scrub], [*walk.order[:3]])
        self._walk = None
        self._ended.forget()


class _Ended:
    """The jobs that the hand-off's streams tell of, read once and then on. A job that was lost and submitted again under its id
    is another one."""

    def __init__(self, broker: Broker, keys: Keys) -> None:
        self._broker, self._keys = broker, keys
        self._jobs: set[tuple[str, bytes]] = set()
        self._last: dict[str, str] = {}

    def forget(self) -> None:
        self._jobs, self._last = set(), {}

    async def without(self, jobs: dict[tuple[str, bytes], int], from_ms: int) -> dict[str, int]:
        """Those of these jobs, by id and incarnation, of whose end the streams do not tell.

        Raises: BrokerUnavailable, BrokerUnsuitable.
        """
        for stream in self._keys.ended_streams:
            last = self._last.get(stream, str(max(0, from_ms - _MARGIN_MS)))
            while page := await self._broker.queue.call("XRANGE", stream, last, "+", "COUNT", _STEP):
                self._jobs |= {
                    (fields.get(b"job", b"").decode(errors="replace"), fields.get(b"incarnation", b""))
                    for _, fields in page
                }
                last = self._last[stream] = f"({page[-1][0].decode()}"
        return {which[0]: ttl_ms for which, ttl_ms in jobs.items() if which not in self._jobs}


def _well(answers: list[Any]) -> list[Any]:
    """The answers, none of which is an error. Raises: the first one that is."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise in_our_words(answer) or answer
    return answers


def _is_job_id(text: str) -> bool:
    try:
        check_job_id(text)
    except InvalidRequest:
        return False
    return True


def _submitted(head: bytes) -> tuple[int, bytes] | None:
    """When the job of a snapshot was submitted, and its incarnation, by the snapshot's beginning; None if there is none."""
    try:
        text = zlib.decompressobj().decompress(head[1:], _HEAD)
    except zlib.error:
        return None
    found, incarnation = _SUBMITTED.search(text), _INCARNATION.search(text)
    return (int(found[1]), incarnation[1] if incarnation else b"") if found else None
