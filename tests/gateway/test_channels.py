"""Shared streams: everyone gets every event once and in order, wherever they join and however slowly they read."""

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_logs import MemoryLog, Scripted, a_log, ids

from tailrace.gateway.errors import StreamBroken
from tailrace.gateway.native.encoders import records_kind, text_kind
from tailrace.gateway.streams import Encoded, Kind, Reader, StreamCut
from tailrace.gateway.streams.ring import WRITE_BYTES, Ring
from tailrace.schemas import END, START, BrokerUnavailable, EndRecord, Entry, HistoryLost, Position


async def rest(reader: Reader) -> list[str]:
    """The positions of everything that is left."""
    got: list[str] = []
    async with asyncio.timeout(10):
        while (events := await reader.next()) is not None:
            got += ids(events)
    return got


RECORDS = records_kind("ndjson")


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 60), st.sampled_from([1, 300, 1500, 1_000_000]))
def test_every_reader_gets_every_event_after_its_position_once(
    chance: random.Random, count: int, kept_bytes: int
) -> None:
    log = a_log(count)

    async def play() -> None:
        scripted = Scripted(log, lambda: chance.choice((1, 2, 7, 100)))
        channels = scripted.channels(kept_bytes)

        async def read(after: str) -> list[str]:
            got: list[str] = []
            async with channels.reader("job", RECORDS, after=Position(after)) as reader:
                while (events := await reader.next()) is not None:
                    got += ids(events)
                    assert reader.position == got[-1]
                    for _ in range(chance.choice((0, 0, 3, 30))):
                        await asyncio.sleep(0)
            return got

        scripted.grow(2)
        tasks: dict[asyncio.Task[list[str]], int] = {}
        while not scripted.whole or not tasks:
            if chance.random() < 0.5:
                index = chance.randrange(-1, scripted.there - 1) if scripted.there > 1 else -1
                tasks[asyncio.create_task(read(START if index < 0 else log.entries[index].position))] = index
            scripted.grow(chance.choice((1, 1, 5, 50)))
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            for task, index in tasks.items():
                assert await task == log.positions[index + 1 :]

    asyncio.run(play())


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 25), st.sampled_from([1, 400, 1_000_000]))
def test_text_with_rewinds_and_losses_is_the_same_for_all_readers_and_those_who_come_back(
    chance: random.Random, count: int, kept_bytes: int
) -> None:
    log = MemoryLog()
    log.attempt()
    for number in range(count):
        standing = [entry for entry in log.entries if entry.field == "chunk"]
        if chance.random() < 0.2:
            log.rewind(chance.choice(log.entries[1:]).position)
        elif chance.random() < 0.1 and standing:
            log.attempt()
        log.chunk(f"{number} ")
    log.end()

    async def play() -> None:
        scripted = Scripted(log, lambda: chance.choice((1, 2, 5)))
        channels = scripted.channels(kept_bytes)
        kind = text_kind("ndjson")
        finals: set[str] = set()

        async def read(after: str, text: str, leave: int) -> None:
            """Shows text as a page would, drops the connection after some events and comes back."""
            position = after
            while position != END:
                async with channels.reader("job", kind, after=Position(position)) as reader:
                    for _ in range(leave):
                        if (events := await reader.next()) is None:
                            break
                        for line in map(json.loads, events.splitlines()):
                            if line["event"] == "rewind":
                                text = line["data"]["text_before"]
                            elif line["event"] == "message":
                                text += line["data"]["text"]
                            position = line["id"] or position
                        for _ in range(chance.choice((0, 1, 20))):
                            await asyncio.sleep(0)
            finals.add(text)

        tasks: list[asyncio.Task[None]] = []
        while not scripted.whole:
            tasks += [asyncio.create_task(read(START, "", chance.choice((1, 2, 1000)))) for _ in range(2)]
            scripted.grow(chance.choice((1, 3, 10)))
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)
        assert len(finals) == 1

    asyncio.run(play())


async def test_readers_of_one_stream_share_one_reading_of_the_log() -> None:
    log = a_log(100)
    scripted = Scripted(log)
    scripted.grow(50)
    channels = scripted.channels()
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(channels.reader("job", RECORDS)) for _ in range(20)]
        reading = [asyncio.create_task(rest(reader)) for reader in readers]
        scripted.grow(1000)
        assert await asyncio.gather(*reading) == [log.positions] * 20
    assert scripted.follows == 1


async def test_who_comes_back_to_a_place_that_is_kept_reads_no_log() -> None:
    log = a_log(20)
    scripted = Scripted(log)
    scripted.grow(12)
    channels = scripted.channels()
    async with channels.reader("job", RECORDS) as first:
        while await first.next() and first.position != log.entries[11].position:
            pass
        async with channels.reader("job", RECORDS, after=log.entries[7].position) as second:
            scripted.grow(100)
            assert await rest(second) == log.positions[8:]
    assert scripted.follows == 1


async def test_a_reader_that_fell_behind_reads_the_log_and_then_shares_again() -> None:
    log = a_log(400)
    scripted = Scripted(log, lambda: 10)
    scripted.grow(10)
    channels = scripted.channels(kept_bytes=1024)
    async with channels.reader("job", RECORDS) as quick, channels.reader("job", RECORDS) as slow:
        got = ids(await slow.next())
        scripted.grow(300)
        seen = 0
        while seen < 300:
            seen += len(ids(await quick.next()))
        while len(got) < 310:
            got += ids(await slow.next())
        follows = scripted.follows
        reading = asyncio.gather(rest(quick), rest(slow))
        await asyncio.sleep(0)
        assert scripted.follows == follows >= 2
        # Both wait: the slow one in the shared channel again, or this would read the log another time.
        scripted.grow(5)
        scripted.grow(1000)
        left = (await reading)[1]
    assert got + left == log.positions


async def test_the_stream_is_followed_only_while_somebody_reads_it() -> None:
    log = a_log(5)
    scripted = Scripted(log)
    scripted.grow(3)
    channels = scripted.channels()
    before = asyncio.all_tasks()
    async with channels.reader("job", RECORDS):
        assert asyncio.all_tasks() != before
    assert asyncio.all_tasks() == before


async def test_what_is_skipped_is_counted_in_events_wherever_it_is_read_from() -> None:
    log = a_log(300)
    for kept_bytes in (1024, 1024 * 1024):
        scripted = Scripted(log, lambda: 50)
        scripted.grow(200)
        channels = scripted.channels(kept_bytes)
        async with channels.reader("job", RECORDS) as first:
            await first.next()
            for skip in (0, 1, 10, 199, 250):
                async with channels.reader("job", RECORDS, skip=skip) as reader:
                    reading = asyncio.create_task(rest(reader))
                    for _ in range(50):  # until it waits for more
                        await asyncio.sleep(0)
                    if skip == 250:
                        scripted.grow(3)
                        for _ in range(50):
                            await asyncio.sleep(0)
                        scripted.grow(1000)
                        assert await reading == log.positions[skip:]
                    else:
                        reading.cancel()
                        await asyncio.gather(reading, return_exceptions=True)


async def test_more_can_be_skipped_than_is_ever_kept() -> None:
    log = MemoryLog()
    log.attempt()
    for _ in range(300):
        log.chunk("x" * 2000)
    log.end()
    scripted = Scripted(log, lambda: 20)
    scripted.grow(1000)
    channels = scripted.channels(kept_bytes=1024)
    async with channels.reader("job", RECORDS) as first:
        await first.next()
        async with channels.reader("job", RECORDS, skip=290) as reader:
            assert await rest(reader) == log.positions[290:]


async def test_who_was_shown_what_the_server_lost_is_told_what_stands() -> None:
    log = MemoryLog()
    log.attempt()
    log.chunk("one ")
    log.attempt()
    log.chunk("two")
    log.end()
    scripted = Scripted(log, lambda: 1)
    scripted.grow(3)
    async with scripted.channels().reader("job", text_kind("ndjson"), after=Position("1000-9")) as reader:
        scripted.grow(100)
        lines = (await reader.next() or b"").splitlines()
    assert json.loads(lines[0])["event"] == "rewind"
    assert json.loads(lines[0])["data"] == {"text_before": "one "}


async def test_a_loss_before_there_is_anything_to_read_is_raised_when_the_reader_is_opened() -> None:
    scripted = Scripted(a_log(1))
    scripted.fail(BrokerUnavailable("away"))
    with pytest.raises(BrokerUnavailable, match="away"):
        async with scripted.channels().reader("job", RECORDS):
            pass


async def test_a_loss_in_mid_stream_breaks_every_reader_after_what_it_could_read() -> None:
    log = a_log(5)
    scripted = Scripted(log)
    scripted.grow(4)
    channels = scripted.channels()
    async with channels.reader("job", RECORDS) as one, channels.reader("job", RECORDS) as two:
        scripted.fail(HistoryLost("job", after=START, until=END))
        for reader in (one, two):
            with pytest.raises(StreamBroken, match="lost"):
                await rest(reader)
            assert reader.position == log.entries[3].position
        # Whoever comes now is not told what happened to others, but tries.
        scripted.failure = None
        async with channels.reader("job", RECORDS) as three:
            scripted.grow(100)
            assert await rest(three) == log.positions


async def test_an_encoder_can_say_why_before_the_connection_is_dropped() -> None:
    class Refusing:
        end: EndRecord | None = None

        def resume(self, position: Position) -> None: ...

        def feed(self, entries: Sequence[Entry], *, show: bool = True) -> list[Encoded]:  # noqa: ARG002 - a View
            raise StreamCut("cannot take that back", [Encoded(entries[-1].position, b"sorry")])

    scripted = Scripted(a_log(1))
    scripted.grow(2)
    async with scripted.channels().reader("job", Kind("refusing", lambda _: Refusing())) as reader:
        assert await reader.next() == b"sorry"
        with pytest.raises(StreamBroken, match="cannot take that back"):
            await reader.next()


def test_one_write_never_ends_between_two_events_of_a_record() -> None:
    ring = Ring(10 * WRITE_BYTES, START)
    big = b"x" * (WRITE_BYTES // 2)
    ring.extend([Encoded(Position(f"{number // 4}-1"), big) for number in range(12)], Position("2-1"))
    number, cuts = 0, list[int]()
    while number < ring.next:
        _, number = ring.read(number)
        cuts.append(number)
    assert cuts == [4, 8, 12]


def test_a_ring_keeps_no_more_than_it_may_and_forgets_where_nobody_can_join_any_more() -> None:
    ring = Ring(1000, START)
    for number in range(1, 500):
        at = Position(f"1-{number}")
        ring.extend([Encoded(at, b"x" * 10)], at)
        ring.trim()
        assert (ring.next - ring.first) * 10 <= 1000
    assert ring.joint(START) is None
    assert ring.joint(Position("1-499")) == ring.next
    assert ring.joint(Position(f"1-{ring.first}")) == ring.first
    assert ring.joint(Position(f"1-{ring.first - 1}")) is None
