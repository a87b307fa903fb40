"""A log in memory, what is heard of it, and readers of it in pairs: one that shares a tail, one with a follower of its own."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

from tailrace.client.reading import EventStream, RecordStream, TextStream, ill_end
from tailrace.consumer import Consumer, Stream, Tails
from tailrace.consumer.channels import Channel, Listener, LiveFeed, News
from tailrace.consumer.ear import Ear
from tailrace.consumer.hub import Hub
from tailrace.joblog import Broker, Look, Publication, follow
from tailrace.schemas import (
    END,
    FIRST,
    START,
    Chunk,
    Entry,
    Keys,
    Position,
    StreamRewound,
    TailraceError,
    decode,
    parse_position,
)
from tailrace.views import EventsView, Rewound, TextView

JOB = "job"
#: Turns of the loop after which everybody has done what there is to do: nothing here waits for anything else.
_TURNS = 40


async def quiet() -> None:
    """Let everybody do what there is to do."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class MemoryLog:
    """One log, as a server has it, and its channel. Counts how often it is read."""

    def __init__(self, incarnation: str = "i") -> None:
        self.entries: list[Entry] = []
        self.channels: list[Channel] = []
        self.reads = 0
        self._epoch = 0
        job = {"incarnation": incarnation, "digest": "d", "retention_ms": 1, "api": "chat", "deadline": 2**60}
        self._put(Entry(FIRST, "job", json.dumps(job)))

    # What writes

    @property
    def top(self) -> Position:
        return self.entries[-1].position

    def _put(self, *entries: Entry, heard: bool = True) -> None:
        after = self.top if self.entries else START
        self.entries += entries
        if heard:
            self.tell(Publication(after, list(entries)))

    def claim(self, *, heard: bool = True) -> None:
        # Above every epoch that there was, as the server's clock is.
        self._epoch += 10
        value = {"attempt": 1, "worker": "w", "nonce": "n", "incarnation": "i", "ts": self._epoch, "after": self.top}
        self._put(Entry(Position(f"{self._epoch}-0"), "attempt", json.dumps(value)), heard=heard)

    def write(self, *pairs: tuple[str, str], heard: bool = True) -> None:
        epoch, seq = parse_position(self.top)
        if epoch == 0:
            self.claim(heard=heard)
            epoch, seq = self._epoch, 0
        self._put(
            *[Entry(Position(f"{epoch}-{seq + n}"), field, value) for n, (field, value) in enumerate(pairs, 1)],
            heard=heard,
        )

    def end(self, status: str = "completed", *, heard: bool = True) -> None:
        self._put(Entry(END, "end", json.dumps({"status": status, "last": self.top, "ts": 1})), heard=heard)

    def lose(self, count: int) -> None:
        """The server comes back without its last records."""
        del self.entries[max(1, len(self.entries) - count) :]

    def tell(self, item: News) -> None:
        for channel in tuple(self.channels):
            channel.tell(item)

    def look(self) -> None:
        self.tell(Look(self.top))

    # What reads, as Broker and Hub do

    async def many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        await asyncio.sleep(0)
        self.reads += 1
        return [self._answer(command) for command in commands]

    def _answer(self, command: Sequence[Any]) -> Any:
        match command:
            case ["XRANGE", _, start, "+", "COUNT", count]:
                begin = parse_position(start[1:]) if start != "-" else (0, 0)
                return _raw([entry for entry in self.entries if parse_position(entry.position) > begin][:count])
            case ["XREVRANGE", *_]:
                return _raw(self.entries[-1:])
            case _:
                raise AssertionError(command)

    def listen(self, job_id: str, listener: Listener) -> Channel:
        channel = Channel(job_id, cast("Ear", None))
        channel.listeners[listener] = None
        self.channels.append(channel)
        return channel

    async def confirmed(self, _: Channel) -> None:
        await asyncio.sleep(0)

    def leave(self, channel: Channel, _: Listener) -> None:
        self.channels.remove(channel)

    @property
    def broker(self) -> Broker:
        return cast("Broker", self)

    @property
    def consumer(self) -> Consumer:
        """As much of one as streams need."""
        return cast("Consumer", SimpleNamespace(tails=Tails(self.broker, Keys("t"), cast("Hub", self))))


def _raw(entries: Sequence[Entry]) -> list[Any]:
    return [(entry.position.encode(), {entry.field.encode(): entry.value.encode()}) for entry in entries]


KINDS = ("text", "records", "events")


def shared(consumer: Consumer, kind: str, after: Position, on_rewind: Callable[[StreamRewound], object]) -> Stream[Any]:
    match kind:
        case "text":
            return TextStream(consumer, JOB, after, on_rewind)
        case "records":
            return RecordStream(consumer, JOB, after)
        case _:
            return EventStream(consumer, JOB, "v2", after, {})


async def alone(
    log: MemoryLog, kind: str, after: Position, on_rewind: Callable[[StreamRewound], object]
) -> AsyncGenerator[Any]:
    """What a reader with a follower and a view of its own gets."""
    view: Any = TextView() if kind == "text" else EventsView(JOB)
    feed, end, resumed = LiveFeed(), None, False
    channel = log.listen(JOB, feed)
    try:
        await log.confirmed(channel)
        async with aclosing(follow(log.broker, Keys("t"), JOB, feed, after=after)) as batches:
            async for batch in batches:
                if kind == "records":
                    for entry in batch.entries if batch.fresh else ():
                        yield decode(entry)
                else:
                    if batch.fresh and not resumed:
                        resumed = True
                        view.resume(after)
                    for item in view.feed(batch.entries, show=batch.fresh):
                        if isinstance(item, Rewound):
                            on_rewind(StreamRewound(JOB, item.position, item.text_before))
                        else:
                            yield item
                if batch.entries[-1].position == END:
                    end = decode(batch.entries[-1])
        error = ill_end(JOB, cast("Any", end))
        if error is not None:
            raise error
    finally:
        log.leave(channel, feed)


class Reader:
    """Reads, pauses, leaves, comes back; keeps what it was given, and what it would show of it."""

    def __init__(self, begin: Callable[[Position, Callable[[StreamRewound], object]], AsyncGenerator[Any]]) -> None:
        self._begin = begin
        self.got: list[Any] = []
        self.outcome: tuple[object, ...] | None = None
        self.after: Position = START
        self.stands: list[tuple[str, str]] = []
        self.text = ""
        self.may_go = asyncio.Event()
        self.may_go.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def here(self) -> bool:
        return self._task is not None

    def come(self) -> None:
        self.outcome = None
        self._task = asyncio.create_task(self._read())

    async def go(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async with aclosing(self._begin(self.after, self._rewound)) as items:
                async for item in items:
                    self._take(item)
                    await self.may_go.wait()
            self.outcome = ("ended",)
        except TailraceError as error:
            fields = sorted((name, str(value)) for name, value in vars(error).items())
            self.outcome = (type(error), *fields)

    def _take(self, item: Any) -> None:
        self.got.append(item)
        if isinstance(item, Chunk):
            self.text += item
            self.after = item.position
        elif isinstance(item, dict):
            self.after = cast("dict[str, Any]", item)["position"]
        else:
            self._fold(item)
            self.after = item.position

    def _fold(self, record: Any) -> None:
        """What of the records stands: an attempt voids what is not before it."""
        if record.kind == "attempt":
            known = [position for position, _ in self.stands]
            assert record.after in known, f"{record} stands on what was never given"
            del self.stands[known.index(record.after) + 1 :]
        self.stands.append((record.position, record.value()))

    def _rewound(self, error: StreamRewound) -> None:
        self.got.append((error.position, error.text_before))
        self.text, self.after = error.text_before, error.position
