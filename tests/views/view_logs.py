"""Logs for tests: written as a worker would, with a server that can lose its last records."""

from collections.abc import Iterable

from pydantic import JsonValue, ValidationError

from tailrace.schemas import (
    END,
    FIRST,
    ROOT,
    AttemptRecord,
    ChunkRecord,
    Delta,
    DeltaRecord,
    EndRecord,
    Entry,
    ErrorDetail,
    EventRecord,
    JobRecord,
    Position,
    RewindRecord,
    Status,
    chunk_field,
    decode,
    parse_position,
    position,
)
from tailrace.views import Rewound

RUN_ID = "run-{}"


class Log:
    """`entries` is what the server has, `seen` what a reader who never left was sent."""

    def __init__(self, api: str = "completions", model: str = "gpt-3.5-turbo-instruct") -> None:
        job = JobRecord(
            position=FIRST,
            digest="d",
            incarnation="i",
            retention_ms=1,
            api=api,
            model=model,
            ts=1,
            metadata={"user": "u1"},
            tags=["song"],
        )
        self.entries = [Entry(FIRST, "job", job.value())]
        self.seen = list(self.entries)
        self.attempts = 0
        self._epoch, self._seq = 0, 1

    @property
    def top(self) -> Position:
        return self.entries[-1].position

    def raw(self, field: str, value: str) -> Entry:
        self._seq += 1
        return self._add(Entry(position(self._epoch, self._seq), field, value))

    def _add(self, entry: Entry) -> Entry:
        self.entries.append(entry)
        self.seen.append(entry)
        return entry

    def attempt(self, *, replay: bool = False) -> Entry:
        self.attempts += not replay
        self._epoch, self._seq = self._epoch + 1000, 0
        at = position(self._epoch, 0)
        record = AttemptRecord(
            position=at,
            attempt=self.attempts,
            worker="w",
            nonce="n",
            incarnation="i",
            ts=self._epoch,
            after=self.top,
            replay=replay,
        )
        return self._add(Entry(at, "attempt", record.value()))

    def chunk(self, text: str, run: int = ROOT) -> Entry:
        return self.raw(chunk_field(run), text)

    def delta(self, delta: Delta, run: int = ROOT) -> Entry:
        return self.raw("delta", DeltaRecord(position=END, run=run, delta=delta).value())

    def event(
        self,
        event: str,
        run: int = ROOT,
        *,
        name: str | None = None,
        run_id: str | None = None,
        parents: list[int] | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, JsonValue] | None = None,
        data: dict[str, JsonValue] | None = None,
        ts: int = 7,
    ) -> Entry:
        record = EventRecord(
            position=END,
            run=run,
            event=event,
            name=name,
            run_id=run_id,
            parents=parents,
            tags=tags,
            metadata=metadata,
            data=data or {},
            ts=ts,
        )
        return self.raw("event", record.value())

    def start(self, kind: str = "llm", run: int = ROOT, *, parents: list[int] | None = None) -> Entry:
        return self.event(
            f"on_{kind}_start",
            run,
            name=f"{kind}-{run}",
            run_id=RUN_ID.format(run),
            parents=parents,
            tags=[f"tag-{run}"],
            metadata={"step": run},
        )

    def rewind(self, to: Position, run: int = ROOT) -> Entry:
        return self.raw("rewind", RewindRecord(position=END, run=run, to=to).value())

    def lose(self, after: Position) -> None:
        """The server comes back without what follows `after`."""
        while parse_position(self.top) > parse_position(after):
            self.entries.pop()

    def end(
        self,
        status: Status = Status.COMPLETED,
        *,
        finish_reason: str | None = None,
        usage: dict[str, JsonValue] | None = None,
        error: ErrorDetail | None = None,
    ) -> Entry:
        record = EndRecord(status=status, last=self.top, ts=99, finish_reason=finish_reason, usage=usage, error=error)
        return self._add(Entry(END, "end", record.value()))


def what_stands(entries: list[Entry]) -> list[Entry]:
    """The log without void records and rewinds, straight from the definition: a record is void if any later rewind of
    its run goes back behind it."""
    decoded = [(entry, _decoded(entry)) for entry in entries]

    def void(i: int) -> bool:
        run = getattr(decoded[i][1], "run", None)
        return run is not None and any(
            isinstance(later, RewindRecord)
            and later.run == run
            and parse_position(later.to) < parse_position(decoded[i][0].position)
            for _, later in decoded[i + 1 :]
        )

    return [entry for i, (entry, record) in enumerate(decoded) if not isinstance(record, RewindRecord) and not void(i)]


def answer_by_models(entries: Iterable[Entry]) -> str:
    """The root's text of choice 0, by way of the models."""
    text: list[str] = []
    answering = True
    for entry in entries:
        match _decoded(entry):
            case ChunkRecord(run=0) as chunk if answering:
                text.append(chunk.text)
            case DeltaRecord(run=0) as record if record.delta.type == "open":
                answering = record.delta.part == "text" and record.delta.choice == 0
            case _:
                pass
    return "".join(text)


def shown_text(items: Iterable[str | Rewound], before: str = "") -> str:
    """What a reader's screen says after these items."""
    for item in items:
        before = item.text_before if isinstance(item, Rewound) else before + item
    return before


def _decoded(entry: Entry) -> object:
    try:
        return decode(entry)
    except ValidationError:  # what a newer writer wrote
        return None
