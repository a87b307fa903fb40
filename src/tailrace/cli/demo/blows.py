"""What was done to the machinery, and what the readers noticed of it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final

from tailrace.cli.demo.readers import Reader
from tailrace.schemas import START, AttemptRecord, EndRecord, Position, Record, UnknownRecord, parse_position


class Victim(StrEnum):
    """What a blow hits."""

    WORKER = "worker"
    SERVER = "server"


#: What is hit, and after which part of the text that is expected.
PLAN: Final = ((Victim.WORKER, 0.25), (Victim.SERVER, 0.5), (Victim.WORKER, 0.75))


@dataclass
class Blow:
    """One kill -9, and what followed."""

    victim: Victim
    what: str
    """Who it was."""
    after_chunks: int
    """Of the first reader."""
    at: float
    """When, in seconds of this machine's clock."""
    epoch: int
    """Of the attempt that wrote when it fell."""
    back_at: float | None = None
    """When the server answered again, or when the next attempt said that it goes on."""
    gaps_ms: dict[str, float] = field(default_factory=dict[str, float])
    """The longest silence of each reader around the blow; of those that got text after it."""

    @property
    def gap_ms(self) -> float | None:
        """What the reader saw who waited longest. None: the text was over before anyone had to wait."""
        return max(self.gaps_ms.values(), default=None)

    @property
    def back_ms(self) -> float | None:
        return None if self.back_at is None else (self.back_at - self.at) * 1000

    def first_after(self, reader: Reader) -> Position | None:
        """The chunk that shows the reader to be past it: the next attempt's, or one that the restarted server brought."""
        for position, came in reader.arrivals.items():
            if self.victim is Victim.WORKER:
                if parse_position(position)[0] > self.epoch:
                    return position
            elif self.back_at is not None and came > self.back_at:
                return position
        return None

    def measure(self, readers: Iterable[Reader]) -> bool:
        """Note the gaps of the readers that are past it; whether all of them are."""
        behind = False
        for reader in readers:
            first = self.first_after(reader)
            if first is None:
                behind = True
            else:
                self.gaps_ms[reader.name] = 1000 * silence(reader.arrivals, since=self.at, until=first)
        return not behind

    def told(self) -> str:
        """For people, in one line."""
        gap = "no gap (the text was over)" if self.gap_ms is None else f"gap {self.gap_ms:,.0f} ms"
        back = ""
        if self.back_ms is not None and self.victim is Victim.SERVER:
            back = f"; it answered again after {self.back_ms:,.0f} ms"
        elif self.back_ms is not None:
            back = f"; next attempt after {self.back_ms:,.0f} ms, which wrote again, unseen, what the readers have"
        return f"{gap}: {self.what} after {self.after_chunks} chunks{back}"


def silence(arrivals: dict[Position, float], *, since: float, until: Position) -> float:
    """The longest time without a new chunk, in seconds, from the last one before `since` to the chunk `until`."""
    times: list[float] = []
    for position, came in arrivals.items():
        if came <= since:
            times.clear()
        times.append(came)
        if position == until:
            break
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, looked at after the end."""

    promise: str
    kept: bool
    seen: str


def checks(
    readers: Sequence[Reader],
    *,
    late: str,
    result: str | None,
    records: Sequence[Record | UnknownRecord],
    refused: bool,
) -> list[Check]:
    """What must hold whatever was killed. `late`: the text of a reader who came after the end; `refused`: the log was
    asked to take one more record, and did not."""
    differ = [reader.name for reader in readers if reader.text != readers[0].text]
    broken = break_in(records)
    ends = [isinstance(record, EndRecord) for record in records]
    return [
        Check(
            "the three readers hold one text",
            not differ,
            f"{', '.join(differ)} differs from {readers[0].name}" if differ else f"{len(readers[0].text)} characters",
        ),
        Check(
            "it is the text of the log",
            late == readers[0].text,
            "a reader who came after the end got the same" if late == readers[0].text else "a late reader got another",
        ),
        Check(
            "it is the result's text",
            result == readers[0].text,
            "job.result().text is the same" if result == readers[0].text else "job.result().text is another",
        ),
        Check("positions are contiguous", broken is None, broken or f"{len(records)} records, no hole, no repeat"),
        Check(
            "one end record, nothing after it",
            ends.count(True) == 1 and ends[-1] and refused,
            f"{ends.count(True)} end records; one more record was {'refused' if refused else 'TAKEN'}",
        ),
    ]


def break_in(records: Sequence[Record | UnknownRecord]) -> str | None:
    """Where the positions are not contiguous; None if they are.

    Within an attempt they count up by one from its own record; an attempt says which record stands before it, and so does
    the end.
    """
    before: Position = START
    for record in records:
        epoch, seq = parse_position(before)
        if isinstance(record, AttemptRecord):
            follows = record.after == before and parse_position(record.position) > (epoch, seq)
        elif isinstance(record, EndRecord):
            follows = record.last == before
        else:
            follows = parse_position(record.position) == (epoch, seq + 1)
        if not follows:
            return f"{record.kind} record {record.position} does not follow {before}"
        before = record.position
    return None
