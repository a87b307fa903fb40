"""One connection for all callers: nobody gets another's answer, whoever gives up, whatever breaks."""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from scripted_server import scripted, words
from tailrace.joblog import Broker, connected, in_our_words, pipe
from tailrace.joblog.pipe import Pipe
from tailrace.joblog.wire import Wire, pack
from tailrace.schemas import BrokerUnavailable


@pytest.fixture
async def real(real_redis: Redis) -> AsyncGenerator[Pipe]:
    opened = Pipe(real_redis.connection_pool)
    yield opened
    await opened.close()


async def test_answers_come_in_the_order_of_the_commands(redis: Redis) -> None:
    opened = Pipe(redis.connection_pool)
    assert await opened.ask([pack(["ECHO", str(number)]) for number in range(5)]) == [b"0", b"1", b"2", b"3", b"4"]
    assert await opened.ask([]) == []
    await opened.close()


async def test_an_error_is_the_answer_of_its_command_only(redis: Redis) -> None:
    opened = Pipe(redis.connection_pool)
    one, bad, two = await opened.ask([pack(["ECHO", "1"]), pack(["XRANGE", "k"]), pack(["ECHO", "2"])])
    assert (one, two) == (b"1", b"2")
    assert isinstance(bad, ResponseError)
    await opened.close()


async def test_a_thousand_callers_get_their_own_answers_also_when_others_give_up(real: Pipe) -> None:
    chance = random.Random(7)

    async def ask(number: int) -> list[Any]:
        words = [f"{number}-{part}" * chance.randrange(1, 2000) for part in range(chance.randrange(1, 4))]
        answers = await real.ask([pack(["ECHO", word]) for word in words])
        assert answers == [word.encode() for word in words]
        return answers

    callers = [asyncio.create_task(ask(number)) for number in range(1000)]
    for caller in chance.sample(callers, 300):
        asyncio.get_running_loop().call_later(chance.random() * 0.02, caller.cancel)
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(end, list | asyncio.CancelledError) for end in ended)
    assert sum(isinstance(end, list) for end in ended) >= 700


async def test_callers_of_one_turn_are_sent_in_one_write(real: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    await real.ask([pack(["PING"])])
    writes: list[int] = []
    write = Wire.write

    def counted(wire: Wire, packed: bytes) -> None:
        writes.append(packed.count(b"PING"))
        write(wire, packed)

    monkeypatch.setattr(Wire, "write", counted)
    await asyncio.gather(*[real.ask([pack(["PING"])]) for _ in range(50)])
    assert writes == [50]


async def test_a_connection_that_breaks_fails_all_its_callers_and_the_next_has_a_new_one() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await words(reader):
            if command[0] == b"CLIENT":
                writer.write(b"+OK\r\n")
                continue
            asked.append(command[-1])
            if command[-1] == b"break":
                return
            writer.write(b"$%d\r\n%b\r\n" % (len(command[-1]), command[-1]))

    async with scripted(serve) as (url, connections), connected(url) as broker:
        opened = broker.pipe()
        assert await opened.ask([pack(["ECHO", "fine"])]) == [b"fine"]
        ended = await asyncio.gather(
            *[opened.ask([pack(["ECHO", word])]) for word in ("before", "break", "behind")], return_exceptions=True
        )
        assert ended[0] == [b"before"]
        assert all(isinstance(end, RedisConnectionError) for end in ended[1:])
        assert await opened.ask([pack(["ECHO", "again"])]) == [b"again"]
        assert len(connections) == 2
        await opened.close()


async def test_a_connection_that_died_while_idle_costs_seconds_not_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_IDLE_S", -1.0)
    monkeypatch.setattr(pipe, "_IDLE_ANSWER_S", 0.05)
    opened: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(len(opened))
        number = opened[-1]
        while command := await words(reader):
            if command[0] == b"CLIENT" or number > 0 or command[-1] == b"one":  # the first falls silent after "one"
                writer.write(b"+OK\r\n")

    async with scripted(serve) as (url, _), connected(url) as broker, asyncio.timeout(5):
        assert await broker.call("ECHO", "one")
        assert await broker.call("ECHO", "two")
    assert len(opened) == 2


async def test_a_server_that_never_answers_is_told_after_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "ANSWER_TIMEOUT_S", 0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await words(reader):
            if command[0] == b"CLIENT":
                writer.write(b"+OK\r\n")

    async with scripted(serve) as (url, _), connected(url) as broker:
        with pytest.raises(BrokerUnavailable):
            await broker.call("ECHO", "x")


async def test_what_is_no_redis_is_unavailable_at_once() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await words(reader):
            writer.write(b"+OK\r\n" if command[0] == b"CLIENT" else b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with scripted(serve) as (url, _), connected(url) as broker:
        async with asyncio.timeout(5):
            with pytest.raises(BrokerUnavailable):
                await broker.call("ECHO", "x")


async def test_closing_the_client_closes_the_connection(server_url: str) -> None:
    async with connected(server_url) as broker:
        assert await broker.call("PING")
        wire = broker.shared_pipe._wire  # pyright: ignore[reportPrivateUsage]
        assert wire is not None
        assert not wire.closed
    assert wire.closed


async def test_answers_mean_what_redis_py_makes_of_them(redis: Redis, namespace: str) -> None:
    broker = Broker(redis)
    key = f"{namespace}:s"
    await broker.call("XADD", key, "1-1", "field", "value")
    assert await broker.call("XRANGE", key, "-", "+") == [(b"1-1", {b"field": b"value"})]
    seconds, micros = await broker.call("TIME")
    assert isinstance(seconds, int)
    assert isinstance(micros, int)
    (ranged, time) = await broker.many([("XRANGE", key, "-", "+"), ("TIME",)])
    assert ranged == [(b"1-1", {b"field": b"value"})]
    assert isinstance(time[0], int)
    await broker.call("DEL", key)


async def test_an_error_that_is_its_own_cause_is_put_into_our_words_all_the_same() -> None:
    first, second = RedisConnectionError("lost"), RedisConnectionError("refused")
    first.__cause__, second.__cause__ = second, first
    assert isinstance(in_our_words(first), BrokerUnavailable)
