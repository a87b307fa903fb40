"""The play with blows: worker processes are killed with -9 while the readers read, and so is the server."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import Any, Final

from redis.exceptions import ResponseError

from tailrace import AsyncTailrace
from tailrace.cli.demo.blows import PLAN, Blow, Check, Victim, checks
from tailrace.cli.demo.readers import Change, Reader, Readers
from tailrace.cli.demo.report import Node, event_tree
from tailrace.cli.demo.screen import Screen
from tailrace.cli.demo.stage import first_error, gathered
from tailrace.cli.demo.workers import Workers
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import END, AttemptRecord, EndRecord, JobEnded, Result, RewindRecord, Settings, parse_position

#: One writes, one can take over: as under `tailrace worker --processes 2`.
WORKERS: Final = 2
#: Recovery does not hang on it: a dead worker's jobs are handed back. But should the demo itself be killed, server and all,
#: a worker in the middle of a job ends after two leases.
_LEASE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ChaosPerformance:
    """What the demo has to tell after the blows."""

    job_id: str
    text: str
    """Of the result."""
    readers: tuple[Reader, Reader, Reader]
    tree: Node
    blows: list[Blow]
    missed: int
    """Blows that found no text left."""
    attempt_count: int
    rewinds: int
    checks: list[Check]
    ended: JobEnded | None
    """Why the job did not end well."""

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(check.kept for check in self.checks)


async def perform_chaos(
    server: EmbeddedServer, settings: Settings, request: dict[str, Any], screen: Screen, *, chunks: int
) -> ChaosPerformance:
    """Run it all; returns when the job has ended, every reader has read it, and the log was looked at.

    `chunks`: how many are expected, for when to strike.
    """
    try:
        async with asyncio.TaskGroup() as house:
            brief = settings.worker.model_copy(update={"drain_s": 0.0, "lease_s": _LEASE_S})
            workers = Workers(settings.model_copy(update={"worker": brief}), WORKERS, screen.note)
            working = house.create_task(workers.run())
            await workers.all_ready()
            async with AsyncTailrace(settings=settings) as tailrace:
                performance = await _play(tailrace, server, workers, request, screen, chunks)
            working.cancel()
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    return performance


async def _play(
    tailrace: AsyncTailrace,
    server: EmbeddedServer,
    workers: Workers,
    request: dict[str, Any],
    screen: Screen,
    chunks: int,
) -> ChaosPerformance:
    job = await tailrace.submit(**request)
    director = _Director(server, workers, screen)
    readers = Readers(tailrace.settings, job.id, director.changed)
    with screen.showing(readers.all):
        async with asyncio.TaskGroup() as group:
            group.create_task(director.watch(tailrace, job.id))
            group.create_task(readers.read_late())
            group.create_task(readers.read_cut())
            group.create_task(director.strike(readers, chunks))
            await readers.read_first(lambda _: None)
    return await _told(tailrace, job.id, readers, director)


class _Director:
    """Strikes when it is time, and watches what comes of it."""

    def __init__(self, server: EmbeddedServer, workers: Workers, screen: Screen) -> None:
        self._server, self._workers, self._screen = server, workers, screen
        self._moved = asyncio.Event()
        self._writer: AttemptRecord | None = None
        self.blows: list[Blow] = []

    def changed(self, reader: Reader, change: Change) -> None:
        self._screen.changed(reader, change)
        self._moved.set()

    async def watch(self, tailrace: AsyncTailrace, job_id: str) -> None:
        """Follow the log for what readers of text are not told: who writes."""
        with suppress(JobEnded):  # the readers know it too
            async for record in tailrace.job(job_id).records():
                if isinstance(record, AttemptRecord):
                    self._take_over(record)
                elif isinstance(record, RewindRecord):
                    self._screen.note(
                        f"rewind: what stands after {record.to} is void, the new attempt went another way"
                    )

    def _take_over(self, attempt: AttemptRecord) -> None:
        self._writer = attempt
        self._moved.set()
        blow = self.blows[-1] if self.blows else None
        if blow is not None and blow.victim is Victim.WORKER and blow.back_at is None:
            blow.back_at = time()
        again = " again, because the server lost records" if attempt.replay else ""
        # A new attempt asks the upstream anew, and is silent while its text is what the readers have already.
        goes_on = "" if blow is None else f", goes on after {attempt.after}"
        self._screen.note(f"attempt {attempt.attempt}{again} by worker {attempt.worker}{goes_on}")

    async def strike(self, readers: Readers, chunks: int) -> None:
        """The blows, each when the readers are over the one before."""
        first, everyone = readers.first, readers.all
        for victim, share in PLAN:
            due = round(chunks * share)

            def is_time(due: int = due) -> bool:
                reading = all(reader.pieces and not reader.away for reader in everyone)
                return first.over or (reading and self._writer is not None and len(first.arrivals) >= due)

            await self._until(is_time)
            if first.over:
                return
            blow = await (self._kill_worker(first) if victim is Victim.WORKER else self._restart_server(first))

            def is_past(blow: Blow = blow) -> bool:
                return blow.measure(everyone) or all(reader.over for reader in everyone)

            await self._until(is_past)
            self._screen.note(f"blow {len(self.blows)}: {blow.told()}")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._moved.clear()
            await self._moved.wait()

    async def _kill_worker(self, first: Reader) -> Blow:
        writer = self._writer
        assert writer is not None  # noqa: S101  # waited for
        blow = self._blow(Victim.WORKER, f"worker {writer.worker} killed", first)
        pid = self._workers.kill(writer.worker)
        self._screen.note(f"KILL -9 of process {pid}: worker {writer.worker}, in the middle of its sentence")
        return blow

    async def _restart_server(self, first: Reader) -> Blow:
        blow = self._blow(Victim.SERVER, "server killed and started again", first)
        self._screen.note(f"KILL -9 of process {self._server.pid}: the Redis server")
        # A thread is not cancelled with its waiter; the loop's end waits for it, so the server's owner finds it settled.
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)
        blow.back_at = time()
        self._moved.set()
        self._screen.note(f"the server runs again, on the data that the dead one left: process {self._server.pid}")
        return blow

    def _blow(self, victim: Victim, what: str, first: Reader) -> Blow:
        epoch = parse_position(self._writer.position)[0] if self._writer is not None else 0
        blow = Blow(victim, what, len(first.arrivals), time(), epoch)
        self.blows.append(blow)
        return blow


async def _told(tailrace: AsyncTailrace, job_id: str, readers: Readers, director: _Director) -> ChaosPerformance:
    job = tailrace.job(job_id)
    events, _ = await gathered(job.stream_events())
    records, _ = await gathered(job.records())
    late, _ = await gathered(job.stream())
    ended: JobEnded | None = None
    result: Result | None
    try:
        result = await job.result()
    except JobEnded as error:
        ended, result = error, error.result
    kept = checks(
        readers.all,
        late="".join(late),
        result=result.text if result is not None else None,
        records=records,
        refused=await _refuses_more(tailrace, job_id),
    )
    for blow in director.blows:
        blow.measure(readers.all)
    return ChaosPerformance(
        job_id=job_id,
        text=result.text if result is not None else "",
        readers=readers.all,
        tree=event_tree(records, events, readers.first.arrivals),
        blows=director.blows,
        missed=len(PLAN) - len(director.blows),
        attempt_count=sum(isinstance(record, AttemptRecord) for record in records),
        rewinds=sum(isinstance(record, RewindRecord) for record in records),
        checks=kept,
        ended=ended,
    )


async def _refuses_more(tailrace: AsyncTailrace, job_id: str) -> bool:
    """Whether Redis refuses an end record more, asked without any of our scripts."""
    end = EndRecord.model_fields["kind"].default
    log = tailrace.settings.keys.log(job_id)
    (answer,) = await tailrace.broker.many([("XADD", log, "NOMKSTREAM", END, end, "{}")])
    return isinstance(answer, ResponseError)
