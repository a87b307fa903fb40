"""Following a log with a scripted feed: what a reader takes, when it looks, and what it is told when something is missing."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Final, cast

import pytest
from fed_readers import A_LOOK, Fed, Idle, read, written
from redis.asyncio import Redis

from job_logs import Job, sealed, submitted
from tailrace.joblog import (
    Batch,
    Broker,
    Cursor,
    Look,
    Publication,
    connected,
    encode_snapshot,
    follow,
    store_snapshot,
)
from tailrace.joblog.reading import PAGE, read_page
from tailrace.schemas import (
    END,
    FIRST,
    START,
    BrokerUnavailable,
    Entry,
    HistoryLost,
    Keys,
    Position,
)


async def test_every_position_resumes_to_the_same_records_from_log_and_snapshot(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    await written(job, "a", "b")
    await written(job, "c")
    await sealed(job)
    entries = await job.entries()
    for archived in (False, True):
        if archived:
            blob = encode_snapshot(entries)
            assert await store_snapshot(job.broker, job.keys, "job", incarnation=job.incarnation, blob=blob)
        assert await read(job) == (entries, None)
        for number, entry in enumerate(entries[:-1], 1):
            assert await read(job, after=entry.position) == (entries[number:], None)


async def test_what_stands_before_the_position_comes_first_and_is_not_fresh(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await written(job, "a", "b")
    await sealed(job)
    batches = [batch async for batch in follow(job.broker, job.keys, "job", Fed(), after=Position(f"{pen.epoch}-1"))]
    assert [batch.fresh for batch in batches] == [False, True]
    assert [entry for batch in batches for entry in batch.entries] == await job.entries()


async def test_a_long_log_is_read_in_pages_without_a_seam(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    await pen.write(*[str(number) for number in range(PAGE)])
    await pen.write(*[str(number) for number in range(PAGE)])
    await sealed(job)
    fresh, error = await read(job)
    assert error is None
    assert fresh == await job.entries()


async def test_publications_doubled_late_and_lost_give_each_record_once(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    publications: list[Publication] = []
    for number in range(6):
        before = pen.top
        await pen.write(f"{number}a", f"{number}b")
        publications.append(Publication(before, (await job.entries())[-2:]))
    entries = await job.entries()
    one, two, _, four, five, six = publications

    async def at_the_end() -> Publication:
        await sealed(job)
        return five

    # Read back to the fourth record, so that the first of these are old.
    fresh, error = await read(job, Fed(one, two, one, four, six, five, at_the_end, A_LOOK))
    assert error is None
    assert fresh[:-1] == entries
    assert fresh[-1].position == END


async def test_live_publications_are_taken_without_asking_the_log(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()
    one = Entry(Position(f"{pen.epoch}-1"), "chunk", "only published")
    two = Entry(Position(f"{pen.epoch}-2"), "chunk", "this too")
    fresh, _ = await read(job, Fed(Publication(pen.top, [one]), Publication(one.position, [two])))
    assert fresh[-2:] == [one, two]


async def test_a_hole_in_the_live_channel_is_repaired_from_the_log(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    pen = await job.claim()

    async def two_appends_one_heard() -> Publication:
        await pen.write("a")
        before = pen.top
        await pen.write("b")
        return Publication(before, (await job.entries())[-1:])

    fresh, _ = await read(job, Fed(two_appends_one_heard))
    assert [entry.value for entry in fresh[-2:]] == ["a", "b"]


async def test_a_log_that_grows_while_it_is_looked_at_is_no_loss(redis: Redis, namespace: str) -> None:
    """XRANGE finds nothing new, XREVRANGE does: another client's append came in between."""
    job = await submitted(redis, namespace)
    pen = await written(job, "a")

    class Slow(Broker):
        async def many(self, commands: Any) -> list[Any]:
            answers: list[Any] = []
            for command in commands:
                answers += await super().many([command])
                if command[0] == "XRANGE" and not answers[-1]:
                    await pen.write("b")
            return answers

    reader = Job(Slow(redis), job.keys, "job", job.incarnation)
    fresh, error = await read(reader, Fed())
    assert isinstance(error, Idle)
    fresh, error = await read(reader, Fed(A_LOOK))
    assert isinstance(error, Idle)
    assert fresh == (await job.entries())[: len(fresh)]
    assert len(fresh) >= 4


# A server that is away


class Away(Broker):
    """Does not answer, so many times."""

    def __init__(self, redis: Redis, times: int) -> None:
        super().__init__(redis)
        self.times = times

    async def many(self, commands: Any) -> list[Any]:
        if self.times > 0:
            self.times -= 1
            raise BrokerUnavailable("away")
        return await super().many(commands)


async def test_a_reader_that_has_read_nothing_is_told_at_once(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    away = Job(Away(redis, 1), job.keys, "job", job.incarnation)
    assert isinstance((await read(away))[1], BrokerUnavailable)


async def test_a_reader_that_has_read_something_waits_for_the_server(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    away = Away(redis, 0)

    async def leave() -> Look:
        await sealed(job)
        away.times = 3
        return A_LOOK

    fresh, error = await read(Job(away, job.keys, "job", job.incarnation), Fed(leave))
    assert error is None
    assert fresh == await job.entries()


async def test_a_reader_does_not_wait_for_ever_for_the_server(redis: Redis, namespace: str) -> None:
    job = await submitted(redis, namespace)
    away = Away(redis, 0)

    async def leave() -> Look:
        away.times = 10**6
        return A_LOOK

    batches: AsyncGenerator[Batch] = follow(away, job.keys, "job", Fed(leave), patience_s=0.1)
    async with aclosing(batches), asyncio.timeout(5):
        await anext(batches)
        with pytest.raises(BrokerUnavailable):
            await anext(batches)


async def test_beyond_the_end_there_is_nothing_to_ask_for(namespace: str) -> None:
    async with connected("redis://127.0.0.1:1") as nobody:
        assert await read_page(nobody, Keys(namespace), "job", after=END) == ([], END)


class Swallowing:
    """A client, its pool and its connection, as redis-py is on Python 3.11 now and then: a cancellation is lost in it."""

    response_callbacks: Final[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.connection_pool = self

    async def get_connection(self) -> "Swallowing":
        self.asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return self

    async def send_packed_command(self, *_: object, **__: object) -> None: ...

    async def read_response(self) -> str:
        return "answer"


async def test_a_cancellation_that_the_client_swallows_ends_the_call_all_the_same() -> None:
    client = Swallowing()
    call: asyncio.Task[Any] = asyncio.create_task(Broker(cast("Redis", client)).call("PING"))
    await client.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Broker(cast("Redis", Swallowing())).call("PING")


# The cursor alone


def test_a_cursor_takes_nothing_after_the_end() -> None:
    cursor = Cursor("job")
    end = Entry(END, "end", '{"last":"0-1"}')
    first = Entry(FIRST, "job", "{}")
    assert cursor.take_live(START, [first]) == [first]
    assert cursor.take_live(FIRST, [end]) == [end]
    assert cursor.ended
    assert cursor.take_live(FIRST, [end]) == []
    assert cursor.take_live(END, [end]) == []


def test_an_end_after_another_top_is_a_reason_to_read_the_log() -> None:
    cursor = Cursor("job")
    cursor.take_live(START, [Entry(FIRST, "job", "{}")])
    end = Entry(END, "end", '{"last":"5-1"}')
    assert cursor.take_live(Position("5-1"), [end]) is None
    assert cursor.take_read([end]) is None
    with pytest.raises(HistoryLost):
        cursor.take_whole([Entry(FIRST, "job", "{}"), end])


def attempt(position: str, after: str) -> Entry:
    return Entry(Position(position), "attempt", f'{{"after":"{after}"}}')


def test_a_doubled_publication_is_no_reason_to_read_the_log() -> None:
    cursor = Cursor("job")
    first, claimed, text = Entry(FIRST, "job", "{}"), attempt("5-0", FIRST), Entry(Position("5-1"), "chunk", "a")
    cursor.take_read([first, claimed, text])
    assert cursor.take_live(FIRST, [claimed]) == []
    assert cursor.take_live(Position("5-0"), [text]) == []
    assert cursor.last == "5-1"


def test_an_attempt_on_top_of_one_below_the_cursor_is_read_from_where_they_part() -> None:
    cursor = Cursor("job")
    first, lost = Entry(FIRST, "job", "{}"), attempt("50-0", FIRST)
    cursor.take_read([first, lost])
    below, above = attempt("20-0", FIRST), attempt("60-0", "20-0")
    assert cursor.take_read([above]) is None
    assert cursor.take_whole([first, below, above]) == [below, above]
    assert not cursor.stood(lost.position)
    assert not cursor.knows_epoch(lost.position)
    assert cursor.last == above.position
