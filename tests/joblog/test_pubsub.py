"""Messages where they arrive: all of them, in order; a connection that is over says so, whoever ended it."""

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from scripted_server import scripted, words
from tailrace.joblog import Broker, connected
from tailrace.joblog.wire import Wire

PATIENCE_S = 5.0


class Heard:
    """What came, and a way to wait for more of it."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._more = asyncio.Event()

    def take(self, message: Any) -> None:
        self.messages.append(message)
        self._more.set()

    async def until(self, count: int) -> list[Any]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.messages) < count:
                self._more.clear()
                await self._more.wait()
        return self.messages


def soon() -> float:
    return asyncio.get_running_loop().time() + PATIENCE_S


async def test_messages_come_in_order_whole_and_unchanged(redis: Redis) -> None:
    broker, heard = Broker(redis), Heard()
    pubsub = await broker.pubsub(heard.take)
    pubsub.say("SUBSCRIBE", "a", "b")
    assert await heard.until(2) == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]
    sent = [bytes([number % 256]) * (1 + number * 97 % 5000) + b"\r\n$1\r\n" for number in range(300)]
    for number, payload in enumerate(sent):
        await broker.call("PUBLISH", "ab"[number % 2], payload)
    messages = (await heard.until(302))[2:]
    assert messages == [
        [b"message", b"ab"[number % 2 : number % 2 + 1], payload] for number, payload in enumerate(sent)
    ]
    pubsub.say("UNSUBSCRIBE", "a")
    assert (await heard.until(303))[-1] == [b"unsubscribe", b"a", 1]
    await pubsub.close()


async def test_waiting_ends_at_its_moment_or_when_nothing_more_is_wanted(redis: Redis) -> None:
    pubsub = await Broker(redis).pubsub(Heard().take)
    assert await pubsub.waited(0.0) is False
    waiting = asyncio.create_task(pubsub.waited(soon()))
    await asyncio.sleep(0)
    pubsub.leave()
    assert await waiting is True
    await pubsub.close()


async def test_a_message_moves_the_moment_that_anything_was_heard(redis: Redis) -> None:
    heard = Heard()
    pubsub = await Broker(redis).pubsub(heard.take)
    before = pubsub.heard_at
    pubsub.say("SUBSCRIBE", "a")
    await heard.until(1)
    assert pubsub.heard_at > before
    await pubsub.close()


async def test_a_server_that_closes_is_an_error_for_who_waits_and_who_asks_later() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await words(reader):
            if command[0] == b"SUBSCRIBE":
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
                return
            writer.write(b"+OK\r\n")

    heard = Heard()
    async with scripted(serve) as (url, _), connected(url) as broker:
        pubsub = await broker.pubsub(heard.take)
        pubsub.say("SUBSCRIBE", "a")
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                await pubsub.waited(soon())
        assert heard.messages == [[b"subscribe", b"a", 1]]
        pubsub.say("SUBSCRIBE", "b")  # nobody hears it
        await pubsub.close()


async def test_what_is_no_answer_of_redis_ends_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await words(reader):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" if command[0] == b"SUBSCRIBE" else b"+OK\r\n")

    heard = Heard()
    async with scripted(serve) as (url, _), connected(url) as broker:
        pubsub = await broker.pubsub(heard.take)
        pubsub.say("SUBSCRIBE", "a")
        with pytest.raises(RedisConnectionError):
            await pubsub.waited(soon())
        assert heard.messages == []
        await pubsub.close()


async def test_a_refused_subscription_is_its_own_error(real_redis: Redis, server_url: str) -> None:
    admin = Broker(real_redis)
    await admin.call("ACL", "SETUSER", "muted", "on", ">secret", "~*", "+@all", "resetchannels")
    try:
        async with connected(server_url) as broker:
            pool: Any = broker.redis.connection_pool
            pool.connection_kwargs.update(username="muted", password="secret")
            pubsub = await broker.pubsub(Heard().take)
            pubsub.say("SUBSCRIBE", "a")
            with pytest.raises(NoPermissionError):
                await pubsub.waited(soon())
            await pubsub.close()
    finally:
        await admin.call("ACL", "DELUSER", "muted")


class Transport(asyncio.Transport):
    """Remembers whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = True

    def get_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        self.read = True


class Deaf(Wire):
    def hear(self, answer: Any) -> None: ...

    def lost(self, cause: Exception | None) -> None: ...


async def test_who_is_sent_much_at_once_lets_others_have_their_turn() -> None:
    transport = Transport()
    wire = Deaf(transport, cast("asyncio.StreamWriter", None))
    message = b"$%d\r\n%b\r\n" % (50_000, bytes(50_000))
    for _ in range(2):
        for _ in range(2):
            wire.data_received(message)
            assert transport.read
        wire.data_received(message)
        assert not transport.read
        await asyncio.sleep(0)
        assert transport.read
