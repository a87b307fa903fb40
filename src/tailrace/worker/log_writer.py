"""The pen of one attempt: what is written, what was sent, what the server has acknowledged."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tailrace.joblog import Appends, Claim, End, Ending, Fenced, LogRefusal, Lost
from tailrace.schemas import BrokerUnavailable, BrokerUnsuitable, Position, TailraceError
from tailrace.worker.memory import Line, Memory

if TYPE_CHECKING:
    from tailrace.worker.lane import Lane
    from tailrace.worker.relay import Relay

#: One append blocks the server while it runs (1.4 us a record in a batch): a long one is cut.
APPEND_RECORDS: Final = 500
#: A writer with this many characters not yet acknowledged holds its source back.
WAITING_CHARACTERS: Final = 256 * 1024
_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class LogWriter:
    """One attempt's pen. Made by `Relay.open`; `write` never waits, `ready` and `flushed` do."""

    def __init__(
        self,
        relay: "Relay",
        job_id: str,
        appends: Appends,
        lane: "Lane",
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
        self.lane = lane
        """To the server that has the log."""
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
        self.lane.mark(self)

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
                self.lane.mark(self)
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
        counts, characters = self._relay.counts, 0
        for line in sent:
            characters += len(line.text)
            self.top = line.position or self.top
            if line.target is not None:
                counts.rewinds += 1
        self._characters -= characters
        self.seq += len(sent)
        counts.records += len(sent)
        counts.characters += characters
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
            self._relay.counts.refused(self, refusal)
            self._refused(refusal)

    def _began(self, claimed: Claim) -> None:
        self.memory.add(Line("attempt", "{}", claimed.position))

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()
