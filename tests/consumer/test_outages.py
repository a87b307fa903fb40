"""Readers and the connections and servers that go away beneath them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from running_readers import heard, read, reading, unreachable

from job_logs import attached, request, sealed, submitted, wait_until
from scripted_server import scripted, words
from tailrace.consumer import Consumer, ear
from tailrace.consumer.channels import LiveFeed
from tailrace.consumer.hub import Hub
from tailrace.joblog import (
    Broker,
    End,
    connected,
    seal,
)
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.producer import Producer
from tailrace.schemas import (
    BrokerUnavailable,
    Entry,
    Keys,
    Status,
    TailraceError,
    parse_position,
)

TEST_S = 20.0


# Connections and servers that go away


async def kill_subscribers(broker: Broker) -> int:
    return int(await broker.call("CLIENT", "KILL", "TYPE", "pubsub"))


async def test_a_cut_connection_in_mid_stream_loses_and_repeats_nothing(real_redis: Redis, namespace: str) -> None:
    job = await submitted(real_redis, namespace)
    pen = await job.claim()
    other = await submitted(real_redis, namespace, "other")
    # Never looked at: only what is published, and what is read after a new connection.
    never = Consumer(job.broker, job.keys, look_s=3600)
    async with never as consumer, reading(consumer, readers=3) as readers:
        for number in range(3):
            await heard(job)
            await pen.write(f"{number}a")
            assert await kill_subscribers(job.broker) == 1
            await pen.write(f"{number}b")
            # Who comes now waits for the next connection instead of being turned away.
            assert await read(consumer, "other", limit=1) == await other.entries()
        assert await kill_subscribers(job.broker) == 1
        await sealed(job)
        for got in await asyncio.gather(*readers):
            assert got == await job.entries()


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server that the test may kill."""
    with EmbeddedServer(private=True, extra_config={"appendfsync": "always"}) as server:
        yield server


async def test_a_server_that_is_killed_and_started_again_loses_no_reader(own_server: EmbeddedServer) -> None:
    keys = Keys()
    async with connected(own_server.url) as broker, Consumer(broker, keys) as consumer:
        await Producer(broker, keys).submit(request(), job_id="job")
        job = await attached(broker, keys, "job")
        pen = await job.claim()
        await pen.write("before")
        async with reading(consumer, readers=2) as readers:
            await heard(job)
            await asyncio.to_thread(own_server.kill)
            with pytest.raises(BrokerUnavailable):
                await read(consumer, "other")
            await asyncio.to_thread(own_server.start)
            await pen.write("after")
            await sealed(job)
            for got in await asyncio.gather(*readers):
                assert got == await job.entries()


async def test_a_reader_comes_back_after_the_server_was_away(own_server: EmbeddedServer) -> None:
    """What was true of the server when the last reader came is not told to the next one."""
    keys = Keys()
    async with connected(own_server.url) as broker, Consumer(broker, keys) as consumer:
        await Producer(broker, keys).submit(request(), job_id="job")
        await seal(broker, keys, "job", End(Status.COMPLETED))
        await asyncio.to_thread(own_server.kill)
        with pytest.raises(BrokerUnavailable):
            await read(consumer)
        await asyncio.to_thread(own_server.start)

        async def served() -> bool:
            try:
                return len(await read(consumer)) == 2
            except BrokerUnavailable:
                return False

        # The hub's own pause between two tries is the longest that a stale answer may last.
        await wait_until("the reader is served", served, 3)


async def test_a_server_that_went_back_in_time_is_told_to_living_readers(real_redis: Redis, namespace: str) -> None:
    job = await submitted(real_redis, namespace)
    pen = await job.claim()
    await pen.write("a")
    dump = await job.dump()
    async with Consumer(job.broker, job.keys) as consumer, reading(consumer) as [reader]:
        await heard(job)
        await pen.write("b", "c")
        await job.restore(dump)
        again = await job.claim(known_epoch=pen.epoch)
        await again.write("b", "c", "d")
        await sealed(job)
        got = await reader
    stands: list[Entry] = []
    for entry in got:
        if entry.field == "attempt" and f'"after":"{pen.epoch}-1"' in entry.value:
            stands = [known for known in stands if parse_position(known.position) <= (pen.epoch, 1)]
        stands.append(entry)
    assert stands == await job.entries()


async def test_a_server_that_cannot_be_reached_is_told_at_once() -> None:
    async with unreachable() as broker, Consumer(broker, Keys()) as consumer:
        async with asyncio.timeout(2):
            with pytest.raises(BrokerUnavailable):
                await read(consumer)
        with pytest.raises(BrokerUnavailable):
            await consumer.look("job")


async def test_a_refused_channel_says_what_to_change(real_redis: Redis, server_url: str, namespace: str) -> None:
    await submitted(real_redis, namespace)
    admin = Broker(real_redis)
    await admin.call("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    try:
        async with connected(server_url) as broker:
            pool: Any = broker.redis.connection_pool
            pool.connection_kwargs.update(username="deaf", password="secret")
            async with Consumer(broker, Keys(namespace)) as consumer:
                with pytest.raises(TailraceError, match="user"):
                    await read(consumer)
    finally:
        await admin.call("ACL", "DELUSER", "deaf")


async def test_a_hub_that_nobody_asked_anything_opens_no_connection(real_redis: Redis, namespace: str) -> None:
    broker = Broker(real_redis)
    before = str(await broker.call("CLIENT", "LIST")).count("addr")
    async with Hub(broker, Keys(namespace)):
        await asyncio.sleep(0)
        assert str(await broker.call("CLIENT", "LIST")).count("addr") == before


@pytest.mark.parametrize("answers_pings", [True, False])
async def test_a_connection_that_answers_no_ping_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch, *, answers_pings: bool
) -> None:
    monkeypatch.setattr(ear, "SILENCE_S", 0.05)
    subscribed, pinged = asyncio.Event(), asyncio.Event()
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pings = 0
        while command := await words(reader):
            if command[0] == b"SUBSCRIBE":
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(command[1]), command[1]))
                connections.append(len(connections))
                if len(connections) == 2:
                    subscribed.set()
            elif command[0] == b"PING":
                pings += 1
                if pings == 3:
                    pinged.set()
                if answers_pings:
                    writer.write(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
            else:
                writer.write(b"+OK\r\n")

    async with scripted(serve) as (url, _), connected(url) as broker, Hub(broker, Keys()) as listening:
        feed = LiveFeed()
        channel = listening.listen("job", feed)
        async with asyncio.timeout(5):
            await (pinged if answers_pings else subscribed).wait()
        assert len(connections) == (1 if answers_pings else 2)
        listening.leave(channel, feed)


async def test_a_hub_whose_last_listener_left_closes_its_connection_and_opens_another_for_the_next(
    real_redis: Redis, namespace: str
) -> None:
    broker = Broker(real_redis)

    async def connections() -> int:
        return str(await broker.call("CLIENT", "LIST")).count(" addr=")

    before = await connections()

    async def left() -> bool:
        return await connections() == before

    async with Hub(broker, Keys(namespace)) as listening:
        for _ in range(2):
            feed = LiveFeed()
            channel = listening.listen("job", feed)
            await listening.confirmed(channel)
            assert await connections() == before + 1
            listening.leave(channel, feed)
            await wait_until("the connection is closed", left)
