"""Readers who share what they read: each gets what a reader of its own would, whatever the others do."""

import asyncio
import gc
import weakref
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_readers import KINDS, MemoryLog, Reader, alone, quiet, shared

from tailrace.client.reading import EventStream, RecordStream, TextStream
from tailrace.consumer import Consumer, tails
from tailrace.schemas import (
    FIRST,
    START,
    BrokerUnavailable,
    JobFailed,
    Position,
    StreamRewound,
    TailraceError,
    parse_position,
)

# Any schedule

_TEXT = st.lists(st.sampled_from(["a", "bc", "def"]), min_size=1, max_size=4)
_WHO = st.integers(0, 5)
_HEARD = st.sampled_from([True, True, True, False])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _TEXT, _HEARD),
        st.tuples(st.just("write"), _TEXT, _HEARD),
        st.tuples(st.just("start"), st.just(0), _HEARD),
        st.tuples(st.just("rewind"), st.integers(0, 5), _HEARD),
        st.tuples(st.just("claim"), st.just(0), _HEARD),
        st.tuples(st.just("lose"), st.integers(1, 6), st.just(True)),
        st.tuples(st.just("look"), st.just(0), st.just(True)),
        st.tuples(st.just("come"), _WHO, st.just(True)),
        st.tuples(st.just("come"), _WHO, st.just(True)),
        st.tuples(st.just("go"), _WHO, st.just(True)),
        st.tuples(st.just("pause"), _WHO, st.just(True)),
        st.tuples(st.just("read on"), _WHO, st.just(True)),
    ),
    min_size=20,
    max_size=60,
)
_NO_PAUSES = _STEPS.map(lambda steps: [step for step in steps if step[0] != "pause"])


class Pairs:
    """Six readers, two of each kind, and for each its double, which shares nothing."""

    def __init__(self, log: MemoryLog, consumer: Consumer, *, behind: bool = False) -> None:
        self.log, self.behind = log, behind
        self.kinds = [KINDS[number % 3] for number in range(6)]
        self.pairs: list[tuple[Reader, Reader]] = [
            (self._sharing(consumer, kind), self._alone(kind)) for kind in self.kinds
        ]

    def _sharing(self, consumer: Consumer, kind: str) -> Reader:
        return Reader(lambda after, on_rewind: shared(consumer, kind, after, on_rewind))

    def _alone(self, kind: str) -> Reader:
        return Reader(lambda after, on_rewind: alone(self.log, kind, after, on_rewind))

    async def step(self, what: str, how: int | list[str], heard: bool) -> None:
        log = self.log
        number, texts = (how, list[str]()) if isinstance(how, int) else (0, how)
        both = self.pairs[number % len(self.pairs)]
        open_log = log.entries[-1].field != "end"
        match what:
            case "write" if open_log:
                log.write(*[("chunk", text) for text in texts], heard=heard)
            case "start" if open_log:
                event = '{"run":0,"event":"on_chat_model_start","run_id":"r","name":"m","ts":1,"data":{}}'
                log.write(("event", event), heard=heard)
            case "rewind" if open_log and len(log.entries) > number + 2:
                log.write(("rewind", f'{{"run":0,"to":"{log.entries[-1 - number].position}"}}'), heard=heard)
            case "claim" if open_log:
                log.claim(heard=heard)
            case "lose" if open_log:
                log.lose(number)
                log.claim()  # until an attempt says what stands, readers may differ in what they have seen of it
            case "look":
                log.look()
            case "come" | "go":
                for reader in both:
                    reader.may_go.set()
                log.look()  # both leave from the same place
                await quiet()
                for reader in both:
                    if what == "come" and not reader.here:
                        reader.come()
                    elif what == "go" and reader.here:
                        await reader.go()
                        if self.behind:
                            # Both have everything; their last items may differ by what is void.
                            reader.after = log.top
            case "pause":
                for reader in both:
                    reader.may_go.clear()
            case "read on":
                for reader in both:
                    reader.may_go.set()
            case _:
                pass
        await quiet()

    async def over(self) -> None:
        for pair in self.pairs:
            for reader in pair:
                reader.may_go.set()
        self.log.look()
        await quiet()
        if self.log.entries[-1].field != "end":
            self.log.end()
        self.log.look()
        await quiet()

    async def leave(self) -> None:
        for pair in self.pairs:
            for reader in pair:
                await reader.go()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=_NO_PAUSES)
async def test_who_shares_and_keeps_up_is_given_exactly_what_a_reader_of_its_own_is(steps: list[Any]) -> None:
    log = MemoryLog()
    consumer = log.consumer
    async with consumer.tails:
        pairs = Pairs(log, consumer)
        try:
            for step in steps:
                await pairs.step(*step)
                for kind, (sharing, own) in zip(pairs.kinds, pairs.pairs, strict=True):
                    assert (kind, sharing.got, sharing.outcome) == (kind, own.got, own.outcome)
            await pairs.over()
            for sharing, own in pairs.pairs:
                assert own.outcome or not own.here
                assert (sharing.got, sharing.outcome) == (own.got, own.outcome)
        finally:
            await pairs.leave()
        assert not log.channels, "nobody reads, and somebody listens"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tails that keep next to nothing: readers are cut off, tails wait and read the log all the time."""
    monkeypatch.setattr(tails, "_MOST", 2000)
    monkeypatch.setattr(tails, "_AHEAD", 500)
    monkeypatch.setattr(tails, "_BEGINNING", 300)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(steps=_STEPS)
async def test_who_falls_behind_has_in_the_end_what_a_reader_of_its_own_has(small: None, steps: list[Any]) -> None:
    log = MemoryLog()
    consumer = log.consumer
    async with consumer.tails:
        pairs = Pairs(log, consumer, behind=True)
        try:
            for step in steps:
                await pairs.step(*step)
            await pairs.over()
            for sharing, own in pairs.pairs:
                assert own.outcome or not own.here
                assert sharing.outcome == own.outcome
                assert sharing.text == own.text
                assert sharing.stands == own.stands
        finally:
            await pairs.leave()
        assert not log.channels, "nobody reads, and somebody listens"


# Shared, and nobody's business


async def read(stream: Any, into: list[Any]) -> None:
    async with aclosing(stream) as items:
        async for item in items:
            into.append(item)  # noqa: PERF401  # also what came before an error


def text(consumer: Consumer, after: Position = START) -> TextStream:
    return TextStream(consumer, "job", after, "raise")


async def test_a_thousand_readers_who_come_together_read_the_log_once() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"))
    consumer = log.consumer
    got: list[list[str]] = [[] for _ in range(1000)]
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        for into in got:
            tasks.create_task(read(text(consumer), into))
        await quiet()
        assert (log.reads, len(log.channels)) == (1, 1)
        log.write(("chunk", "b"))
        log.end()
    assert got == [["a", "b"]] * 1000


async def test_what_all_have_read_is_kept_for_nobody_once_the_beginning_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_BEGINNING_S", 0.0)
    log = MemoryLog()
    log.write(("chunk", "0 "))
    consumer = log.consumer
    got, late = list[str](), list[str]()
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        tasks.create_task(read(text(consumer), got))
        await quiet()
        links: list[weakref.ref[Any]] = []
        for number in range(1, 20):
            log.write(("chunk", f"{number} "))
            (tail,) = consumer.tails.opened
            links.append(weakref.ref(tail.ends[0]))
            await quiet()
        assert sum(link() is not None for link in links) == 1, "the one at which its reader waits"
        tasks.create_task(read(text(consumer), late))
        await quiet()
        log.end()
    assert got == late == [f"{number} " for number in range(20)]


async def test_readers_who_come_one_by_one_and_resume_share_a_tail_as_soon_as_they_are_at_one_record() -> None:
    log = MemoryLog()
    consumer = log.consumer
    got: list[list[str]] = [[] for _ in range(3)]
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        for number in range(200):  # so much that nobody keeps the beginning
            log.write(("chunk", f"{number} "))
        places = [START, log.entries[50].position, log.entries[150].position]
        for after, into in zip(places, got, strict=True):
            tasks.create_task(read(text(consumer, after), into))
            await quiet()
        assert len(log.channels) == 1
        log.end()
    assert got[0] == [str(entry.value) for entry in log.entries if entry.field == "chunk"]
    assert got[1] == got[0][-len(got[1]) :]
    assert got[2] == got[0][-len(got[2]) :]
    assert [len(each) for each in got] == [200, 151, 51]


async def test_a_cancelled_step_takes_nothing_and_disturbs_nobody() -> None:
    log = MemoryLog()
    log.claim()
    consumer = log.consumer
    got: list[str] = []
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        tasks.create_task(read(text(consumer), got))
        async with aclosing(text(consumer)) as impatient:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await anext(impatient)
            log.write(("chunk", "a"))
            assert await anext(impatient) == "a"
        log.end()
    assert got == ["a"]


async def test_the_last_reader_to_leave_ends_the_subscription_however_it_leaves() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"))
    consumer = log.consumer
    async with consumer.tails:
        closed = text(consumer)
        assert await anext(closed) == "a"
        await closed.aclose()
        assert [item async for item in closed] == []
        forgotten = RecordStream(consumer, "job", START)
        async for _ in forgotten:
            break
        assert len(log.channels) == 1
        del forgotten
        gc.collect()
        await quiet()
        assert not log.channels
        cancelled = asyncio.create_task(read(text(consumer), []))
        await quiet()
        assert len(log.channels) == 1
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert not log.channels


async def test_what_a_reader_does_to_its_events_and_records_shows_nowhere_else() -> None:
    log = MemoryLog()
    event = '{"run":0,"event":"on_chain_start","run_id":"r","name":"n","metadata":{"k":["v"]},"ts":1,"data":{}}'
    log.write(("event", event))
    consumer = log.consumer
    async with consumer.tails:
        events = [EventStream(consumer, "job", "v2", START, {}) for _ in range(2)]
        one, other = [await anext(stream) for stream in events]
        one["metadata"]["k"] = one["data"]["mine"] = "changed"
        assert (other["metadata"], other["data"]) == ({"k": ["v"]}, {})
        streams = [RecordStream(consumer, "job", START) for _ in range(2)]
        records: list[list[Any]] = [[await anext(stream) for _ in range(3)] for stream in streams]
        records[0][-1].metadata["k"] = "changed"
        assert records[1][-1].metadata == {"k": ["v"]}
        for stream in events:
            await stream.aclose()
        for records_of_one in streams:
            await records_of_one.aclose()


async def test_who_takes_nothing_is_kept_no_more_than_the_bound_and_misses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tails, "_MOST", 20_000)
    log = MemoryLog()
    log.write(("chunk", "0 "))
    consumer = log.consumer
    slow, got = text(consumer), list[str]()
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        shown = [await anext(slow)]
        tasks.create_task(read(text(consumer), got))
        await quiet()
        links: list[weakref.ref[Any]] = []
        for number in range(1, 500):
            log.write(("chunk", f"{number} "))
            (tail,) = consumer.tails.opened
            links.append(weakref.ref(tail.ends[0]))
            await asyncio.sleep(0)
            assert len(got) > number - 2, "the other reader waits"
        # A record weighs 256 and a little.
        assert sum(link() is not None for link in links) <= 20_000 // 256 + 1
        reads = log.reads
        log.end()
        shown += [item async for item in slow]
        assert log.reads > reads, "it has read the log again"
    assert shown == got == [f"{number} " for number in range(500)]


async def test_a_tail_that_nobody_keeps_up_with_waits_for_the_first_who_wants_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tails, "_MOST", 20_000)
    log = MemoryLog()
    log.write(("chunk", "0 "))
    consumer = log.consumer
    slow = text(consumer)
    async with consumer.tails:
        shown = [await anext(slow)]
        for number in range(1, 500):
            log.write(("chunk", f"{number} "))
        await quiet()
        (tail,) = consumer.tails.opened
        assert not tail.live
        assert parse_position(tail.at)[1] < 20_000 // 256
        reads = log.reads
        log.end()
        shown += [item async for item in slow]
        assert log.reads == reads + 1, "from where it stood, in one page"
    assert shown == [f"{number} " for number in range(500)]


async def test_every_reader_gets_an_error_of_its_own_after_what_came() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"))
    consumer = log.consumer

    async def failed(stream: Any) -> tuple[list[str], Exception]:
        got: list[str] = []
        try:
            await read(stream, got)
        except Exception as error:
            return got, error
        raise AssertionError("no error")

    async with consumer.tails:
        for kind in (BrokerUnavailable, JobFailed):
            readers = [asyncio.create_task(failed(text(consumer))) for _ in range(2)]
            await quiet()
            if kind is JobFailed:
                log.end("failed")
            else:
                log.tell(BrokerUnavailable("away"))
            (one, error), (other, another) = await asyncio.gather(*readers)
            assert one == other == ["a"]
            assert type(error) is type(another) is kind
            assert error is not another


async def test_who_comes_late_is_not_bothered_with_what_was_taken_back() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"))
    consumer = log.consumer
    early, late, told = list[str](), list[str](), list[StreamRewound]()
    async with consumer.tails:
        first = asyncio.create_task(read(TextStream(consumer, "job", START, told.append), early))
        await quiet()
        stands = log.top
        log.write(("chunk", "void"))
        await quiet()
        log.write(("rewind", f'{{"run":0,"to":"{stands}"}}'))
        log.write(("chunk", "b"))
        second = asyncio.create_task(read(text(consumer), late))
        await quiet()
        log.end()
        await asyncio.gather(first, second)
    assert (early, late) == (["a", "void", "b"], ["a", "b"])
    assert [error.text_before for error in told] == ["a"]


async def test_a_client_that_closes_tells_its_readers() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"))
    consumer = log.consumer
    async with consumer.tails:
        reader = asyncio.create_task(read(text(consumer), []))
        await quiet()
    with pytest.raises(TailraceError, match="closed"):
        await reader
    assert not log.channels


# Where sharing must wait


async def test_tails_at_different_records_stay_apart_until_they_are_at_one() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"))
    consumer = log.consumer
    one, other = list[str](), list[str]()
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        tasks.create_task(read(text(consumer), one))
        await quiet()
        log.write(("chunk", "b"), heard=False)
        tasks.create_task(read(text(consumer, FIRST), other))
        await quiet()
        assert (one, other, len(log.channels)) == (["a"], ["a", "b"], 2)
        log.write(("chunk", "c"))
        await quiet()
        assert (one, other, len(log.channels)) == (["a", "b", "c"], ["a", "b", "c"], 1)
        log.end()


@pytest.mark.parametrize("resumes", [False, True])
async def test_who_comes_to_a_tail_that_has_missed_something_gets_it_at_once(resumes: bool) -> None:
    log = MemoryLog()
    log.write(("chunk", "a"))
    after = log.top if resumes else START
    consumer = log.consumer
    one, other = list[str](), list[str]()
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        tasks.create_task(read(text(consumer), one))
        await quiet()
        log.write(("chunk", "b"), heard=False)
        tasks.create_task(read(text(consumer, after), other))
        await quiet()
        assert (one, other, len(log.channels)) == (["a", "b"], ["b"] if resumes else ["a", "b"], 1)
        log.end()


async def test_who_waits_for_a_lost_position_is_told_what_stands_though_others_are_at_that_record() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"), ("chunk", "b"))
    lost = log.top
    log.lose(1)
    consumer = log.consumer
    got: list[str] = []
    async with consumer.tails:
        others = asyncio.create_task(read(text(consumer), got))
        await quiet()
        waits = asyncio.create_task(read(text(consumer, lost), []))
        await quiet()
        log.claim()
        log.write(("chunk", "c"))
        log.end()
        with pytest.raises(StreamRewound) as told:
            await waits
        await others
    assert told.value.text_before == "a"
    assert got == ["a", "c"]


async def test_nobody_joins_a_tail_that_has_seen_what_was_lost() -> None:
    log = MemoryLog()
    log.write(("chunk", "a"), ("chunk", "b"))
    consumer = log.consumer
    early, late, later = list[Any](), list[Any](), list[Any]()
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        tasks.create_task(read(RecordStream(consumer, "job", START), early))
        await quiet()
        log.lose(1)
        log.claim()
        await quiet()
        for into in (late, later):
            tasks.create_task(read(RecordStream(consumer, "job", START), into))
            await quiet()
        assert len(log.channels) == 2
        log.end()
    assert [record.kind for record in early] == ["job", "attempt", "chunk", "chunk", "attempt", "end"]
    assert [record.kind for record in late] == ["job", "attempt", "chunk", "attempt", "end"]
    assert late == later


async def test_what_comes_while_a_tail_waits_for_its_reader_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_AHEAD", 100)
    log = MemoryLog()
    log.write(("chunk", "a"), ("chunk", "b"))
    consumer = log.consumer
    async with consumer.tails, aclosing(text(consumer)) as slow, asyncio.timeout(5):
        shown = [await anext(slow)]
        await quiet()
        log.write(("chunk", "c"))
        await quiet()
        shown += [await anext(slow), await anext(slow)]
    assert shown == ["a", "b", "c"]


async def test_what_comes_while_the_log_is_read_is_not_missed() -> None:
    class Growing(MemoryLog):
        async def many(self, commands: Any) -> list[Any]:
            answers = await super().many(commands)
            if self.reads == 1:
                self.write(("chunk", "b"))
            return answers

    log = Growing()
    log.write(("chunk", "a"))
    consumer = log.consumer
    async with consumer.tails, aclosing(text(consumer)) as stream, asyncio.timeout(5):
        assert [await anext(stream), await anext(stream)] == ["a", "b"]
        assert log.reads == 1


async def test_who_was_cut_off_is_told_what_stands_though_the_server_has_lost_its_whole_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tails, "_MOST", 20_000)
    log = MemoryLog()
    log.write(("chunk", "a"))
    consumer = log.consumer
    told: list[StreamRewound] = []
    slow, got = TextStream(consumer, "job", START, told.append), list[str]()
    async with consumer.tails, asyncio.TaskGroup() as tasks:
        tasks.create_task(read(TextStream(consumer, "job", START, print), got))
        await quiet()
        before = len(log.entries)
        log.claim()
        log.write(("chunk", "b"))
        assert [await anext(slow), await anext(slow)] == ["a", "b"]
        for _ in range(200):
            log.write(("chunk", "x"))
            await asyncio.sleep(0)
        log.lose(len(log.entries) - before)
        log.claim()
        log.write(("chunk", "c"))
        log.end()
        rest = [item async for item in slow]
    assert [error.text_before for error in told] == ["a"]
    assert rest[-1] == "c"
