"""The hand-off: each ended job to one reader of every group, at least once, until it is acknowledged or given up."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from handoffs import client, consumers, end_job, end_jobs, held, ids, reading
from redis.asyncio import Redis

from engine import engine, wait_until
from tailrace import AsyncEnded, HistoryLost, InvalidRequest, JobNotFound, Status
from tailrace.joblog import Broker
from tailrace.schemas import Keys


async def test_every_group_gets_every_ended_job_once(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_job(redis, keys, "before")
        async with reading(tailrace, "one") as one, reading(tailrace, "two") as two, reading(tailrace, "two") as too:
            await end_jobs(redis, keys, [f"job{number}" for number in range(20)])
            await wait_until("all are there", lambda: len(one) == 21 and len(two) + len(too) == 21)
        expected = {"before", *(f"job{number}" for number in range(20))}
        assert set(ids(one)) == expected
        assert {*ids(two), *ids(too)} == expected
        assert await held(redis, keys, "one") == await held(redis, keys, "two") == 0
        assert await consumers(redis, keys, "one") == set()  # who leaves empty-handed is forgotten


async def test_a_job_that_a_worker_ran_is_handed_off_with_its_result(redis: Redis, namespace: str) -> None:
    async with engine(redis, namespace) as e, aclosing(e.tailrace.ended("indexer")) as ends:
        job = await e.tailrace.submit("hi", tags=["a", "b"], metadata={"user": "u"})
        text = await job.text()
        ended = await anext(ends)
        assert (ended.job_id, ended.status, ended.deliveries) == (job.id, Status.COMPLETED, 1)
        assert (ended.tags, ended.task) == (("a", "b"), None)
        result = await ended.result()
        assert (result.text, result.metadata) == (text, {"user": "u"})
        assert ended.ended_at is not None
        await ended.ack()


async def test_the_result_of_a_failed_job_is_given_and_not_raised(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace, aclosing(tailrace.ended("g")) as ends:
        await end_job(redis, tailrace.settings.keys, "job", Status.FAILED, text="the beginning")
        result = await (await anext(ends)).result()
        assert (result.status, result.text) == (Status.FAILED, "the beginning")
        assert result.error is not None
        assert result.error.message == "it said no"


async def test_a_job_that_is_gone_since_has_no_result(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace, aclosing(tailrace.ended("g")) as ends:
        await end_job(redis, tailrace.settings.keys, "job")
        ended = await anext(ends)
        await tailrace.job("job").delete()
        with pytest.raises((JobNotFound, HistoryLost)):
            await ended.result()
        await ended.ack()


async def test_the_entry_says_nothing_that_readers_may_not_know(redis: Redis, namespace: str) -> None:
    keys = Keys(namespace)
    await end_job(redis, keys, "job", tags=["t"], metadata={"m": "hidden in the log"})
    ((_, fields),) = await Broker(redis).call("XRANGE", keys.ended, "-", "+")
    assert set(fields) == {b"job", b"status", b"incarnation", b"at", b"tags"}
    assert b"secret" not in b"".join(fields.values())
    assert json.loads(fields[b"tags"]) == ["t"]


def begins_with_g(ended: AsyncEnded) -> bool:
    return ended.job_id.startswith("g")


def has_no_tags(ended: AsyncEnded) -> bool:
    return not ended.tags


CHOICES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["bad", "good", "tagged"]),
    ({"statuses": ["failed"]}, ["bad"]),
    ({"statuses": [Status.COMPLETED]}, ["good", "tagged"]),
    ({"tags": ["y", "z"]}, ["tagged"]),
    ({"tasks": ["t"]}, []),
    ({"filter": begins_with_g}, ["good"]),
    ({"statuses": ["completed"], "filter": has_no_tags}, ["good"]),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
async def test_what_a_group_does_not_want_is_acknowledged_at_once(
    redis: Redis, namespace: str, choice: dict[str, Any], expected: list[str]
) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_job(redis, keys, "bad", Status.FAILED)
        await end_job(redis, keys, "good")
        await end_job(redis, keys, "tagged", tags=["x", "y"])
        async with reading(tailrace, ack=False, **choice) as got:

            async def all_seen() -> bool:
                if not await _exists(redis, keys) or (await _group(redis, keys))["entries-read"] != 3:
                    return False
                return len(got) == len(expected) and await held(redis, keys) == len(expected)

            await wait_until("all are seen", all_seen)
        assert ids(got) == expected


async def _group(redis: Redis, keys: Keys) -> dict[str, Any]:
    found: Any = redis
    (group,) = await found.xinfo_groups(keys.ended)
    return dict(group)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"group": "a b"}, "no name of a group"),
        ({"consumer": ""}, "no name of a group"),
        ({"statuses": ["done"]}, "completed"),
        ({"statuses": ["queued"]}, "completed"),
        ({"tags": "x"}, "not one str"),
        ({"takeover": 0}, "takeover"),
        ({"max_deliveries": 0}, "max_deliveries"),
        ({"begin": "then"}, "oldest"),
    ],
)
async def test_what_no_group_can_be_is_refused_before_anything_is_read(
    redis: Redis, namespace: str, wrong: dict[str, Any], says: str
) -> None:
    async with client(redis, namespace) as tailrace:
        with pytest.raises(InvalidRequest, match=says):
            tailrace.ended(wrong.get("group", "g"), **{name: wrong[name] for name in wrong.keys() - {"group"}})


async def test_a_group_that_begins_now_gets_no_history(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_job(redis, keys, "before")
        async with reading(tailrace, begin="now") as got:
            await wait_until("it is there", lambda: _exists(redis, keys))
            await end_job(redis, keys, "after")
            await wait_until("one came", lambda: got)
        assert ids(got) == ["after"]


async def _exists(redis: Redis, keys: Keys) -> bool:
    found: Any = redis
    return bool(await found.exists(keys.ended) and await found.xinfo_groups(keys.ended))


# taken over, given up


async def test_what_is_not_acknowledged_is_taken_over_from_a_reader_that_is_stuck(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_jobs(redis, keys, ["a", "b", "c"])
        async with aclosing(tailrace.ended("g", takeover=0.2, consumer="stuck")) as stuck:
            first = await anext(stuck)  # and two more are in its buffer
            async with reading(tailrace, takeover=0.2) as got:
                await wait_until("all are taken over", lambda: len(got) == 3)
            assert sorted((ended.job_id, ended.deliveries) for ended in got) == [("a", 2), ("b", 2), ("c", 2)]
            assert not await first.hold()
            assert await held(redis, keys) == 0
            await end_job(redis, keys, "d")
            # What was taken over while it was stuck is not handed out by it any more.
            assert (await anext(stuck)).job_id == "d"


async def test_a_reader_that_holds_on_keeps_its_job(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        await end_job(redis, tailrace.settings.keys, "job")
        async with aclosing(tailrace.ended("g", takeover=0.4)) as ends:
            ended = await anext(ends)
            async with reading(tailrace, takeover=0.4) as got:
                for _ in range(12):
                    assert await ended.hold()
                    await asyncio.sleep(0.05)
                assert got == []
                assert ended.deliveries == 1
                await wait_until("it is taken over at last", lambda: got)


async def test_a_reader_that_leaves_gives_back_what_it_did_not_hand_out(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_jobs(redis, keys, ["a", "b", "c"])
        async with aclosing(tailrace.ended("g", consumer="first")) as ends:
            await (await anext(ends)).ack()
            assert await held(redis, keys) == 2
        async with reading(tailrace) as got:
            await wait_until("the others came", lambda: len(got) == 2)
        assert [(ended.job_id, ended.deliveries) for ended in got] == [("b", 1), ("c", 1)]


async def test_a_job_that_is_released_comes_again_at_once(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        await end_job(redis, tailrace.settings.keys, "job")
        async with aclosing(tailrace.ended("g", takeover=4)) as ends:
            await (await anext(ends)).release()
            async with asyncio.timeout(3):
                again = await anext(ends)
            assert (again.job_id, again.deliveries) == ("job", 2)


async def test_what_nobody_can_handle_is_parked_and_can_be_handed_out_again(
    redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_job(redis, keys, "poison", tags=["t"])
        async with reading(tailrace, ack=False, takeover=0.05, max_deliveries=3) as got:
            await wait_until("it is parked", lambda: tailrace.parked("g"))
        assert [ended.deliveries for ended in got] == [1, 2, 3]
        assert await held(redis, keys) == 0
        (parked,) = await tailrace.parked("g")
        assert (parked.job_id, parked.status, parked.deliveries) == ("poison", Status.COMPLETED, 3)
        assert "never acknowledged" in parked.reason
        assert any("'poison' is parked in group 'g'" in line for line in caplog.messages)
        async with reading(tailrace, "other") as other, reading(tailrace) as again:
            await wait_until("the other group has it", lambda: other)
            assert await tailrace.unpark("g", ["none of them"]) == 0
            assert await tailrace.unpark("g") == 1
            await wait_until("it came again", lambda: again)
            await end_job(redis, keys, "next")
            await wait_until("both are there", lambda: len(again) == len(other) == 2)
        assert [(ended.job_id, ended.deliveries, ended.tags) for ended in again] == [
            ("poison", 1, ("t",)),
            ("next", 1, ()),
        ]
        assert ids(other) == ["poison", "next"]  # another group is not told twice
        assert await tailrace.parked("g") == []
        assert await held(redis, keys, "other") == 0


async def test_a_reader_can_park_a_job_itself(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace, aclosing(tailrace.ended("g")) as ends:
        await end_job(redis, tailrace.settings.keys, "job")
        await (await anext(ends)).park("no such customer")
        (parked,) = await tailrace.parked("g")
        assert (parked.job_id, parked.reason, parked.deliveries) == ("job", "no such customer", 1)
        assert await held(redis, tailrace.settings.keys) == 0


async def test_an_entry_that_is_none_of_ours_is_parked_and_stops_nobody(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys, broker = tailrace.settings.keys, Broker(redis)
        await end_job(redis, keys, "before")
        for fields in (
            ["a", "b"],
            ["job", "x y", "status", "completed"],
            ["job", "j", "status", "on fire"],
            ["job", b"\xff"],
        ):
            await broker.call("XADD", keys.ended, "*", *fields)
        await end_job(redis, keys, "after")
        async with reading(tailrace) as got:
            await wait_until("both are there", lambda: len(got) == 2)
        assert ids(got) == ["before", "after"]
        assert len(await tailrace.parked("g")) == 4


async def test_a_consumer_that_died_is_forgotten(redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.consumer.group._LEFT_MS", 50)
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_job(redis, keys, "job")
        await Broker(redis).call("XGROUP", "CREATE", keys.ended, "g", "0")
        await Broker(redis).call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", keys.ended, ">")
        async with reading(tailrace, consumer="alive", takeover=0.1) as got:
            await wait_until("its job is taken over", lambda: got)

            async def forgotten() -> bool:
                return await consumers(redis, keys) == {"alive"}

            await wait_until("it is forgotten", forgotten)


# shards, bounds


async def test_a_group_reads_all_shards(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace, ended_shards=3) as tailrace:
        keys = tailrace.settings.keys
        names = [f"job{number}" for number in range(30)]
        async with reading(tailrace) as got:
            await end_jobs(redis, keys, names)
            await wait_until("all are there", lambda: len(got) == 30)
        assert sorted(ids(got)) == sorted(names)
        assert all([await Broker(redis).call("XLEN", stream) for stream in keys.ended_streams])
        await tailrace.broker.call("DEL", *keys.ended_streams)


async def test_without_a_group_only_so_many_are_kept(redis: Redis, namespace: str) -> None:
    keys = Keys(namespace, ended_kept=10, ended_limit=100)
    await end_jobs(redis, keys, [f"job{number}" for number in range(25)])
    assert await Broker(redis).call("XLEN", keys.ended) == 10


async def test_what_a_group_has_not_acknowledged_is_kept_beyond_that(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace, ended_kept=10, ended_limit=100) as tailrace:
        keys = tailrace.settings.keys
        names = [f"job{number}" for number in range(40)]
        async with aclosing(tailrace.ended("slow")) as slow:
            await end_job(redis, keys, names[0])
            first = await anext(slow)
            await end_jobs(redis, keys, names[1:30])
            async with reading(tailrace, "fast") as fast:
                await wait_until("the fast one has all", lambda: len(fast) == 30)
            await end_job(redis, keys, "another")
            assert await Broker(redis).call("XLEN", keys.ended) == 31
            await first.ack()
            for _ in range(30):
                await (await anext(slow)).ack()
            await end_jobs(redis, keys, names[30:])
            # Ten are kept, and what the fast group (whose reader has left) has not seen.
            assert await Broker(redis).call("XLEN", keys.ended) == 11


async def test_a_group_that_is_read_no_more_does_not_fill_the_server_and_that_is_said(
    redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(namespace, ended_kept=5, ended_limit=20)
    await Broker(redis).call("XGROUP", "CREATE", keys.ended, "forgotten", "0", "MKSTREAM")
    await end_jobs(redis, keys, [f"job{number}" for number in range(19)])
    assert caplog.messages == []
    await end_jobs(redis, keys, ["x", "y", "z"])
    assert await Broker(redis).call("XLEN", keys.ended) == 20
    assert sum("1 ended jobs were dropped" in line and "ended_limit" in line for line in caplog.messages) == 2


async def test_a_group_that_the_server_lost_begins_again_where_its_reader_began(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        await end_job(redis, keys, "before")
        async with reading(tailrace, "all") as everything, reading(tailrace, "new", begin="now") as new:
            await wait_until("it came", lambda: everything)
            await end_job(redis, keys, "one")
            await wait_until("it came", lambda: len(everything) == 2 and new)
            for group in ("all", "new"):
                await tailrace.broker.call("XGROUP", "DESTROY", keys.ended, group)
            await end_job(redis, keys, "two")
            await wait_until("again, then on", lambda: len(everything) == 5 and len(new) == 3)
        assert ids(everything) == ["before", "one", "before", "one", "two"]
        assert ids(new) == ["one", "one", "two"]


async def test_a_stream_whose_time_is_over_is_waited_at_again(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        async with reading(tailrace) as got:
            await wait_until("it waits", lambda: _exists(redis, keys))
            await tailrace.broker.call("DEL", keys.ended)
            await end_job(redis, keys, "job")
            await wait_until("it came", lambda: got)


async def test_a_group_for_which_nothing_ends_leaves_nothing_for_ever(redis: Redis, namespace: str) -> None:
    async with client(redis, namespace) as tailrace:
        keys = tailrace.settings.keys
        async with reading(tailrace):
            await wait_until("it waits", lambda: _exists(redis, keys))
        assert 0 < await tailrace.broker.call("PTTL", keys.ended) <= 3_600_000


async def test_what_raises_in_a_filter_leaves_the_job_in_the_group(redis: Redis, namespace: str) -> None:
    def refuse(ended: AsyncEnded) -> bool:
        raise LookupError(ended.job_id)

    async with client(redis, namespace) as tailrace:
        await end_job(redis, tailrace.settings.keys, "job")
        with pytest.raises(LookupError, match="job"):
            await anext(tailrace.ended("g", filter=refuse))
        assert await held(redis, tailrace.settings.keys) == 1
