"""The relay: one group commit for all the streams of a process.

A writer's records go out at once when the relay is idle, else with the next flush, at most one flush a millisecond; one
flush holds one append of every writer that has something. Each append names the top it expects, so it may be sent again
when its answer was lost, and never lands twice or behind a newer attempt.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from redis.exceptions import NoScriptError

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
    Lost,
    claim,
    in_our_words,
    read_whole,
    refuse,
    seal,
    translated,
)
from tailrace.joblog.tasks import end
from tailrace.queue import Outage
from tailrace.schemas import (
    BrokerUnavailable,
    BrokerUnsuitable,
    Entry,
    JobNotFound,
    Keys,
    Position,
    TailraceError,
    parse_position,
)
from tailrace.worker.memory import Line, Memory

logger = logging.getLogger(__name__)

#: Nearly all of what group commit gains comes at 1 ms; more only adds latency.
SPACING_S: Final = 0.001
#: One append blocks the server while it runs (1.4 us a record in a batch): a long one is cut.
APPEND_RECORDS: Final = 500
#: A writer with this many characters not yet acknowledged holds its source back.
WAITING_CHARACTERS: Final = 256 * 1024
_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: Somebody may claim a log between our reading and our claim; not time and again.
_CLAIM_TRIES: Final = 3
#: A server that went back is told once: the writers find out one after the other, within their pauses.
_WENT_BACK_S: Final = 10.0


class LogWriter:
    """One attempt's pen. Made by `Relay.open`; `write` never waits, `ready` and `flushed` do."""

    def __init__(
        self,
        relay: "Relay",
        job_id: str,
        appends: Appends,
        *,
        incarnation: str,
        attempt: int,
        claimed: Claim,
        memory: Memory,
        refused: Callable[[LogRefusal], None],
    ) -> None:
        self.job_id = job_id
        self.incarnation = incarnation
        self.attempt = attempt
        self.memory = memory
        self.epoch = claimed.epoch
        self.seq = 0
        self.top: Position = claimed.position
        self.refusal: LogRefusal | TailraceError | None = None
        self.pauses = 0
        self.held = False
        self.lost = False
        self.sent: list[Line] = []
        self.pending: list[Line] = []
        self._characters = 0
        self._relay, self._appends = relay, appends
        self._refused = refused
        self._moved = asyncio.Event()
        self._began(claimed)

    def write(self, *lines: Line) -> None:
        """Append these records, in this order, soon. Raises: the refusal that an earlier append met."""
        if self.refusal is not None:
            raise self.refusal
        if not lines:
            return
        self.pending += lines
        for line in lines:
            self._characters += len(line.text)
        self._relay.mark(self)

    @property
    def has_room(self) -> bool:
        """Whether the source may go on; else `ready` waits until it may."""
        return self._characters <= WAITING_CHARACTERS

    async def ready(self) -> None:
        """Wait until there is room for more. Raises: as `write`."""
        while not self.has_room and self.refusal is None:
            await self._move()
        if self.refusal is not None:
            raise self.refusal

    async def flushed(self) -> None:
        """Wait until everything written is acknowledged by the server. Raises: as `write`."""
        while (self.pending or self.sent or self.lost) and self.refusal is None:
            await self._move()
        if self.refusal is not None:
            raise self.refusal

    async def seal(self, end: End) -> Ending:
        """End the log here, after everything written. Raises: the refusal (Sealed is none: the end that stands counts)."""
        while True:
            await self.flushed()
            try:
                return await self._relay.seal(self, end)
            except Lost:
                self.lost = True
                self._relay.mark(self)
            except (BrokerUnavailable, BrokerUnsuitable):
                await asyncio.sleep(self.pause())

    def pause(self) -> float:
        """How long to wait before the next try, longer each time."""
        pause = _PAUSES_S[min(self.pauses, len(_PAUSES_S) - 1)]
        self.pauses += 1
        return pause

    def take(self) -> bytes | None:
        """The command to send now, None if there is nothing; the same again until it is acknowledged."""
        if not self.sent:
            if not self.pending:
                return None
            self.sent, self.pending = self.pending[:APPEND_RECORDS], self.pending[APPEND_RECORDS:]
            for seq, line in enumerate(self.sent, self.seq + 1):
                line.position = Position(f"{self.epoch}-{seq}")
        pairs: list[str] = []
        for line in self.sent:
            pairs += (line.field, line.value)
        return self._appends.command(pairs, top=self.top, epoch=self.epoch, seq=self.seq + 1)

    def acknowledged(self) -> None:
        """The server has what was sent."""
        self.pauses = 0
        sent, self.sent = self.sent, []
        self.memory.add(*sent)
        for line in sent:
            self._characters -= len(line.text)
            self.top = line.position or self.top
        self.seq += len(sent)
        self._moved.set()

    def go_on(self, claimed: Claim) -> None:
        """Write again, under a new claim, what the server lost; then what it has not seen yet."""
        again = self.memory.go_back(claimed.after)
        if again is None:
            # Somebody else wrote there: not ours to repair. A new run reads the log afresh.
            self.refuse(Fenced())
            return
        self._relay.went_back(self.job_id, len(again))
        self.pending = [*again, *self.sent, *self.pending]
        self._characters = sum(len(line.text) for line in self.pending)
        self.sent = []
        self.lost = False
        self.epoch, self.seq, self.top = claimed.epoch, 0, claimed.position
        self._began(claimed)
        self._moved.set()

    def refuse(self, refusal: LogRefusal | TailraceError) -> None:
        """The log takes nothing more from this writer."""
        self.refusal = refusal
        self.sent, self.pending, self.lost = [], [], False
        self._moved.set()
        if isinstance(refusal, LogRefusal):
            self._refused(refusal)

    def _began(self, claimed: Claim) -> None:
        self.memory.add(Line("attempt", "{}", claimed.position))

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()


class Relay:
    """The one writer of a process: opens pens, gathers what they write, flushes."""

    def __init__(self, broker: Broker, keys: Keys, *, worker: str) -> None:
        self._broker, self._keys, self._worker = broker, keys, worker
        self._pipe = broker.pipe()
        self._dirty: dict[LogWriter, None] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outage = Outage(f"worker {worker!r}, append not taken", logger)
        self._waiting: set[LogWriter] = set()
        self._went_back_at = -_WENT_BACK_S

    async def __aenter__(self) -> Self:
        self._tasks = {asyncio.create_task(self._flush_for_ever(), name="tailrace-relay")}
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._tasks)
        await self._pipe.close()

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
            Appends(self._keys, job_id, incarnation),
            incarnation=incarnation,
            attempt=attempt,
            claimed=claimed,
            memory=memory,
            refused=refused,
        )
        if lost:
            # The server went back since: what an earlier attempt said and readers were shown must stand before this one.
            writer.write(*lost)
            await writer.flushed()
        return writer

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

    def mark(self, writer: LogWriter) -> None:
        """This writer has something to send."""
        if not writer.held:
            self._dirty[writer] = None
            self._wake.set()

    def went_back(self, job_id: str, lines: int) -> None:
        """The server lost these records of a job; one line in the log for all jobs."""
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

    async def _flush_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = loop.time()
            writers, self._dirty = list(self._dirty), {}
            try:
                await self._flush(writers)
            except TailraceError as error:
                self._later(writers, error)
            except Exception as error:
                # One writer's trouble must not stop the others: all of this flush is sent again, after a pause.
                logger.exception("relay: a flush failed")
                self._later(writers, BrokerUnavailable(type(error).__name__))
            if self._dirty:
                await asyncio.sleep(max(0.0, SPACING_S - (loop.time() - began)))

    async def _flush(self, writers: Iterable[LogWriter]) -> None:
        sending: list[LogWriter] = []
        commands: list[bytes] = []
        for writer in writers:
            if writer.refusal is not None:
                continue
            if writer.lost:
                await self._reclaim(writer)
            command = writer.take()
            if command is not None:
                sending.append(writer)
                commands.append(command)
        if not commands:
            return
        for writer, answer in zip(sending, await self._ask(commands), strict=True):
            if isinstance(answer, NoScriptError):
                await self._broker.load(APPEND)
                self.mark(writer)
            elif isinstance(answer, Exception):
                self._failed(writer, answer)
            else:
                self._answered(writer, answer)
            if writer.pending and writer.refusal is None:
                self.mark(writer)

    async def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        with translated():
            return await self._pipe.ask(commands)

    def _answered(self, writer: LogWriter, answer: list[bytes]) -> None:
        try:
            refuse(answer)
        except Lost:
            writer.lost = True
            self.mark(writer)
        except LogRefusal as refusal:
            writer.refuse(refusal)
        else:
            writer.acknowledged()
        if self._waiting:
            self._waiting.discard(writer)
            if all(waiting.refusal is not None for waiting in self._waiting):
                self._waiting.clear()
                self._outage.over()

    def _failed(self, writer: LogWriter, error: Exception) -> None:
        ours = in_our_words(error)
        if ours is None:
            raise error
        self._later([writer], ours)

    def _later(self, writers: Iterable[LogWriter], error: TailraceError) -> None:
        """Nobody knows whether it landed, or there is no room for it now: the very same again, after a pause."""
        self._outage.failed(error)
        for writer in writers:
            if writer.refusal is None:
                self._waiting.add(writer)
                writer.held = True
                asyncio.get_running_loop().call_later(writer.pause(), self._release, writer)

    def _release(self, writer: LogWriter) -> None:
        writer.held = False
        self.mark(writer)

    async def _reclaim(self, writer: LogWriter) -> None:
        try:
            claimed = await self._claim(writer.job_id, writer.incarnation, writer.attempt, writer.epoch, replay=True)
        except LogRefusal as refusal:
            writer.refuse(refusal)
        else:
            writer.go_on(claimed)
