"""A reader that believes nothing: it follows a job in two ways at once, live, and then holds everything that tailrace
promises its readers against what it saw and against the log as it stands afterwards.

It folds the records by rules of its own, so that a mistake in tailrace's cursor or views cannot hide itself.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import pytest

from tailrace import (
    END,
    START,
    AsyncTailrace,
    HistoryLost,
    Position,
    PositionLost,
    Status,
    StreamRewound,
    TailraceError,
)
from tailrace.client import AsyncJob
from tailrace.schemas import (
    ROOT,
    AttemptRecord,
    ChunkRecord,
    EndRecord,
    JobEnded,
    JobRecord,
    Record,
    Result,
    RewindRecord,
    UnknownRecord,
)

#: No reader waits longer than this for the next record of a job that a living fleet works on, whatever was done to it.
#: Generous: leases of 1 s, pauses of up to 5 s and a busy machine fit in; a hang does not.
SILENCE_S: Final = 20.0

AnyRecord = Record | UnknownRecord
WELL: Final = (Status.COMPLETED, Status.INCOMPLETE)


class Witness:
    """What one pair of live readers of a job saw. Made by `watching`."""

    def __init__(self, tailrace: AsyncTailrace, job: AsyncJob) -> None:
        self.tailrace = tailrace
        self.job = tailrace.job(job.id)
        self.records: list[AnyRecord] = []
        self.chunks: list[tuple[Position, str]] = []
        self.rewinds: list[StreamRewound] = []
        self.errors: dict[str, TailraceError] = {}
        self.longest_silence_s = 0.0
        self._shown: list[str] = []
        self._after_end = 0
        self._heard_at = 0.0
        self._moved = asyncio.Condition()

    # Watching.

    async def read_records(self) -> None:
        try:
            async with aclosing(self.job.records()) as records:
                async for record in records:
                    self.records.append(record)
                    await self._heard()
        except TailraceError as error:
            self.errors["records"] = error
        await self._heard()

    async def read_text(self) -> None:
        try:
            async with aclosing(self.job.stream(on_rewind=self._rewound)) as stream:
                async for chunk in stream:
                    self.chunks.append((chunk.position, str(chunk)))
                    self._shown.append(str(chunk))
                    await self._heard()
        except TailraceError as error:
            self.errors["stream"] = error
        await self._heard()

    def _rewound(self, rewound: StreamRewound) -> None:
        self.rewinds.append(rewound)
        self._shown = [rewound.text_before]

    async def _heard(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._heard_at:
            self.longest_silence_s = max(self.longest_silence_s, now - self._heard_at)
        self._heard_at = now
        async with self._moved:
            self._moved.notify_all()

    @property
    def shown(self) -> str:
        """What stands on the stream reader's screen."""
        return "".join(self._shown)

    async def until_chunks(self, count: int, *, within_s: float = SILENCE_S) -> None:
        """Wait until the stream reader has seen so many chunks."""
        await self._until(lambda: len(self.chunks) >= count, f"{count} chunks, not {len(self.chunks)}", within_s)

    async def until_records(self, count: int, *, within_s: float = SILENCE_S) -> None:
        """Wait until the record reader has seen so many records."""
        await self._until(lambda: len(self.records) >= count, f"{count} records, not {len(self.records)}", within_s)

    async def until_attempt(self, number: int, *, within_s: float = SILENCE_S) -> None:
        """Wait until so many attempts have claimed the log (replays count)."""
        await self._until(lambda: len(self.attempts) >= number, f"{number} attempts", within_s)

    async def _until(self, condition: Any, what: str, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s), self._moved:
                await self._moved.wait_for(lambda: condition() or self.errors)
        except TimeoutError:
            pytest.fail(f"no {what} within {within_s} s; {self}")
        assert condition(), f"no {what}, but {self.errors}"

    @property
    def attempts(self) -> list[AttemptRecord]:
        """The attempt records seen."""
        return [record for record in self.records if isinstance(record, AttemptRecord)]

    def __repr__(self) -> str:
        kinds = [record.kind for record in self.records]
        return f"Witness({kinds[:3]}...{kinds[-3:]}, {len(self.chunks)} chunks, {self.errors})"

    @property
    def end(self) -> EndRecord:
        """The end record."""
        record = self.records[-1]
        assert isinstance(record, EndRecord)
        return record

    @property
    def begun(self) -> JobRecord:
        """The job record."""
        record = self.records[0]
        assert isinstance(record, JobRecord)
        return record

    # Judging.

    async def check(
        self,
        expected: str | Sequence[str] | None,
        *,
        status: Status = Status.COMPLETED,
        silence_s: float = SILENCE_S,
        rewinds: bool = False,
        may_differ: bool = False,
    ) -> list[AnyRecord]:
        """Everything that is promised to the readers of a job that has ended; the log as it stands.

        `expected`: what the accepted attempt's upstream sent (one of these); None: not known. `rewinds`: whether text
        may have been taken back. `may_differ`: the server lost an end that readers had seen, so that the log may stand
        otherwise now.
        """
        standing = stand(self.records)
        self._check_end(status)
        text = text_of(standing)
        assert self.shown == text, "the two live readers differ"
        assert len({position for position, _ in self.chunks}) == len(self.chunks), "a chunk was shown twice"
        if not rewinds:
            assert not self.rewinds, f"text was taken back: {self.rewinds}"
            assert [chunk for _, chunk in self.chunks] == chunks_of(standing)
        if expected is not None:
            texts = [expected] if isinstance(expected, str) else expected
            assert text in texts, _difference(text, texts[0])
        assert self.longest_silence_s < silence_s, f"readers heard nothing for {self.longest_silence_s:.1f} s"
        late = await self.read_late(status)
        if not may_differ:
            assert late == standing, "who comes late reads another log than who was there"
            await self._check_late_text(text, status)
            await self._check_resuming(late)
        return late

    def _check_end(self, status: Status) -> None:
        ends = [record for record in self.records if isinstance(record, EndRecord)]
        assert len(ends) == 1, f"{len(ends)} ends; {self}"
        assert self.records[-1] is ends[0], "something after the end"
        assert ends[0].status == status, f"{ends[0]}"
        well = status in WELL
        assert (not self.errors) == well, f"ended as {status}, errors {self.errors}"
        assert well or len(self.errors) == 2, f"only one reader was told: {self.errors}"

    async def read_late(self, status: Status) -> list[AnyRecord]:
        """The whole log, as a reader of its own client gets it who comes after the end."""
        late: list[AnyRecord] = []
        told: TailraceError | None = None
        try:
            async with asyncio.timeout(SILENCE_S):
                async for record in self.job.records():
                    late.append(record)  # noqa: PERF401  # what came before an error counts
        except TailraceError as error:
            told = error
        assert (told is None) == (status in WELL), f"ended as {status}, and {told!r}"
        assert isinstance(late[-1], EndRecord)
        return stand(late)

    async def _check_late_text(self, text: str, status: Status) -> None:
        chunks: list[str] = []
        rewound: list[StreamRewound] = []
        try:
            async for chunk in self.job.stream(on_rewind=rewound.append):
                chunks.append(chunk)  # noqa: PERF401  # what came before an error counts
        except TailraceError:
            pass
        assert not rewound, "a late reader is not bothered with what was void before it came"
        assert "".join(chunks) == text, _difference("".join(chunks), text)
        result: Result | None = None
        try:
            result = await self.job.result(timeout=SILENCE_S)
        except JobEnded as ended:
            result = ended.result
        assert result is not None, "no partial result with the error"
        assert result.text == text
        assert result.status == status

    async def _check_resuming(self, late: list[AnyRecord]) -> None:
        """From any position that stands, exactly the rest."""
        marks = sorted({0, 1, len(late) // 3, len(late) // 2, len(late) - 2, len(late) - 1} & set(range(len(late))))
        for number in marks:
            rest: list[AnyRecord] = []
            try:
                async for record in self.job.records(after=late[number].position):
                    rest.append(record)  # noqa: PERF401  # what came before an error counts
            except TailraceError:
                pass
            assert rest == late[number + 1 :], f"resuming after record {number} of {len(late)}"


@asynccontextmanager
async def watching(tailrace: AsyncTailrace, job: AsyncJob) -> AsyncGenerator[Witness]:
    """A witness of a job, from the block's beginning on; at its end it waits for the readers to end by themselves."""
    witness = Witness(tailrace, job)
    readers = [asyncio.create_task(witness.read_records()), asyncio.create_task(witness.read_text())]
    try:
        await witness.until_records(1)
        yield witness
        done, waiting = await asyncio.wait(readers, timeout=2 * SILENCE_S)
        for reader in done:
            reader.result()
        if waiting:
            pytest.fail(f"a reader waits in silence; {witness}")
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def resumes_truly(tailrace: AsyncTailrace, job: AsyncJob, after: str, before: str, text: str) -> None:
    """Who resumes from a position that may be lost gets the rest, or is told by an error; never a wrong text."""
    shown = before
    try:
        async for chunk in tailrace.job(job.id).stream(after):
            shown += chunk
    except StreamRewound as rewound:
        shown = rewound.text_before + "".join([c async for c in tailrace.job(job.id).stream(rewound.position)])
    except (PositionLost, HistoryLost):
        return
    assert shown == text


def stand(records: Sequence[AnyRecord]) -> list[AnyRecord]:
    """Check that records follow one another without gap and repeat, and leave out what a loss of the server's voided.

    Records that a `rewind` voids are still records of the log: they stay.
    """
    standing: list[AnyRecord] = []
    seen: set[Position] = set()
    for record in records:
        last = standing[-1].position if standing else START
        assert record.position not in seen, f"{record.position} came twice"
        seen.add(record.position)
        if isinstance(record, JobRecord):
            assert not standing
            assert record.position == "0-1"
        elif isinstance(record, AttemptRecord):
            after = record.after
            assert _epoch(record) > max(_epoch(known) for known in standing[:-1] or standing), "epochs do not grow"
            assert record.position.endswith("-0")
            if after != last:
                positions = [known.position for known in standing]
                assert after in positions, f"an attempt follows {after}, which nobody has seen"
                del standing[positions.index(after) + 1 :]
        elif isinstance(record, EndRecord):
            assert record.position == END
            assert record.last == last, f"the end follows {record.last}, the reader stands at {last}"
        else:
            epoch, _, seq = last.partition("-")
            assert record.position == f"{epoch}-{int(seq) + 1}", f"{record.position} after {last}"
        standing.append(record)
    return standing


def _epoch(record: AnyRecord) -> int:
    return int(record.position.partition("-")[0])


def chunks_of(standing: Sequence[AnyRecord]) -> list[str]:
    """The pieces of the job's own answer that stand."""
    order = {record.position: number for number, record in enumerate(standing)}
    pieces: list[tuple[int, str]] = []
    for number, record in enumerate(standing):
        if isinstance(record, ChunkRecord) and record.run == ROOT:
            pieces.append((number, record.text))
        elif isinstance(record, RewindRecord) and record.run == ROOT:
            edge = order[record.to]
            pieces = [piece for piece in pieces if piece[0] <= edge]
    return [text for _, text in pieces]


def text_of(standing: Sequence[AnyRecord]) -> str:
    """The answer that stands."""
    return "".join(chunks_of(standing))


def _difference(text: str, expected: str) -> str:
    same = next((at for at, (one, other) in enumerate(zip(text, expected, strict=False)) if one != other), None)
    at = min(len(text), len(expected)) if same is None else same
    return json.dumps(
        {"at": at, "text": text[max(0, at - 40) : at + 40], "expected": expected[max(0, at - 40) : at + 40]}
    )
