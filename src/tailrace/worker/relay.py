"""The relay: what writes the logs of all the streams of a process, a lane for each server."""

import asyncio
import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from tailrace.joblog import (
    APPEND,
    Appends,
    Broker,
    Claim,
    End,
    Ending,
    Fenced,
    Gone,
    LogRefusal,
    claim,
    read_whole,
    seal,
)
from tailrace.joblog.tasks import end
from tailrace.schemas import Entry, JobNotFound, Keys, parse_position
from tailrace.telemetry.metrics_counts import Counts
from tailrace.worker.lane import Lane
from tailrace.worker.log_writer import LogWriter
from tailrace.worker.memory import Memory
from tailrace.worker.relay_counts import RelayCounts

logger = logging.getLogger(__name__)

#: Somebody may claim a log between our reading and our claim; not time and again.
_CLAIM_TRIES: Final = 3
#: A server that went back is told once: the writers find out one after the other, within their pauses.
_WENT_BACK_S: Final = 10.0


class Relay:
    """What opens pens, and runs the lanes that they write to."""

    def __init__(self, broker: Broker, keys: Keys, *, worker: str, counts: Counts | None = None) -> None:
        self._broker, self._keys, self._worker = broker, keys, worker
        self.counts = RelayCounts(counts)
        self._lanes: dict[str, Lane] = {}
        self._writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._went_back_at = -_WENT_BACK_S

    async def __aenter__(self) -> Self:
        self._broker.on_change(self._keep_in_lane)
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._tasks)
        for lane in self._lanes.values():
            await lane.close()

    async def open(
        self,
        job_id: str,
        *,
        incarnation: str,
        attempt: int,
        memory: Memory,
        refused: Callable[[LogRefusal], None],
    ) -> LogWriter:
        """Claim a log for an attempt. `memory`: its records, which are made to agree with the log as it was claimed;
        `refused` is called once when the log closes to us.

        Raises: LogRefusal, BrokerUnavailable, BrokerUnsuitable.
        """
        claimed = await self._claim_afresh(job_id, incarnation, attempt, memory)
        lost = memory.go_back(claimed.after)
        if lost is None:
            # Somebody wrote between our reading and our claim. From here on nobody else does: read again.
            memory.know(await self._before(job_id, claimed))
        writer = LogWriter(
            self,
            job_id,
            Appends(self._keys, job_id, incarnation, self._broker.form(APPEND)),
            self._lane_of(job_id),
            incarnation=incarnation,
            attempt=attempt,
            claimed=claimed,
            memory=memory,
            refused=refused,
        )
        self._writers.add(writer)
        if lost:
            self.counts.replays(len(lost))
            # The server went back since: what an earlier attempt said and readers were shown must stand before this one.
            writer.write(*lost)
            await writer.flushed()
        return writer

    def _lane_of(self, job_id: str) -> Lane:
        """The lane to the server that has the job's log."""
        place = self._broker.place(self._keys.log(job_id))
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(
                self._broker, place, worker=self._worker, counts=self.counts, reclaim=self._reclaim
            )
            self._tasks.add(asyncio.create_task(lane.run(), name=f"tailrace-relay {place}".rstrip()))
        return lane

    def _keep_in_lane(self) -> None:
        """Logs may have moved to other servers."""
        for writer in self._writers:
            writer.lane = self._lane_of(writer.job_id)

    async def _claim_afresh(self, job_id: str, incarnation: str, attempt: int, memory: Memory) -> Claim:
        """Claim for a new attempt: over whoever wrote there until now, whom the queue takes for dead.

        Raises: LogRefusal, BrokerUnavailable, BrokerUnsuitable.
        """
        for _ in range(_CLAIM_TRIES):
            with suppress(Fenced):
                return await self._claim(job_id, incarnation, attempt, memory.epoch)
            memory.know(await self._read(job_id))
        raise Fenced

    async def _before(self, job_id: str, claimed: Claim) -> list[Entry]:
        """The log up to a claim of ours. Raises: Gone, BrokerUnavailable."""
        claim_order = parse_position(claimed.position)
        return [entry for entry in await self._read(job_id) if parse_position(entry.position) < claim_order]

    async def _read(self, job_id: str) -> list[Entry]:
        try:
            return await read_whole(self._broker, self._keys, job_id)
        except JobNotFound:
            raise Gone from None

    def went_back(self, job_id: str, lines: int) -> None:
        """The server lost these records of a job; one line in the log for all jobs."""
        self.counts.replays(lines)
        now = asyncio.get_running_loop().time()
        level = logging.WARNING if now - self._went_back_at > _WENT_BACK_S else logging.DEBUG
        self._went_back_at = now
        logger.log(
            level,
            "the server went back in time: what it lost is written again (job %r: %d records)",
            job_id,
            lines,
            extra={"job_id": job_id},
        )

    async def seal(self, writer: LogWriter, end: End) -> Ending:
        self.counts.ended(writer)
        return await seal(self._broker, self._keys, writer.job_id, end, top=writer.top, incarnation=writer.incarnation)

    async def _claim(
        self, job_id: str, incarnation: str, attempt: int, known_epoch: int, *, replay: bool = False
    ) -> Claim:
        return await claim(
            self._broker,
            self._keys,
            job_id,
            incarnation=incarnation,
            attempt=attempt,
            worker=self._worker,
            known_epoch=known_epoch,
            replay=replay,
        )

    async def _reclaim(self, writer: LogWriter) -> None:
        try:
            claimed = await self._claim(writer.job_id, writer.incarnation, writer.attempt, writer.epoch, replay=True)
        except LogRefusal as refusal:
            writer.refuse(refusal)
        else:
            writer.go_on(claimed)
