"""The control channel: well-formed words arrive, junk does not, and it heals."""

import asyncio

import pytest
from queue_workers import AnyRedis

from engine import wait_until
from tailrace.queue import CANCEL, Control, control_message
from tailrace.queue.control import read_control_message
from tailrace.schemas.errors import InvalidRequest
from tailrace.schemas.keys import Keys


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


JUNK = [b"", b"cancel", b"cancel ", b"cancel a b", b"stop a", b"cancel a\n", b"\xff\xfe a", b"cancel " + b"a" * 10**5]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_no_word(junk: bytes) -> None:
    assert read_control_message(junk) is None


def test_words_survive_the_way() -> None:
    assert read_control_message(control_message(CANCEL, "x" * 128).encode()) == (CANCEL, "x" * 128)


@pytest.mark.parametrize(("word", "job_id"), [("stop", "a"), (CANCEL, "a b"), (CANCEL, "")])
def test_only_sound_words_are_written(word: str, job_id: str) -> None:
    with pytest.raises(InvalidRequest):
        control_message(word, job_id)


async def test_words_arrive_in_order_among_junk_and_failing_listeners(redis: AnyRedis, keys: Keys) -> None:
    heard: list[tuple[str, str]] = []

    def on_word(word: str, job_id: str) -> None:
        heard.append((word, job_id))
        if job_id == "bad":
            raise ValueError(job_id)

    async with Control(on_word, keys=keys, redis=redis, worker_name="w") as control:
        await asyncio.wait_for(control.subscribed.wait(), 5)
        for junk in JUNK:
            await redis.publish(keys.worker("w"), junk)
        await redis.publish(keys.worker("other"), control_message(CANCEL, "theirs"))
        for job_id in ("bad", "good"):
            await redis.publish(keys.worker("w"), control_message(CANCEL, job_id))
        await wait_until("both arrived", lambda: len(heard) == 2)
    assert heard == [(CANCEL, "bad"), (CANCEL, "good")]


async def test_a_quiet_connection_is_asked_whether_it_lives_and_stays(redis: AnyRedis, keys: Keys) -> None:
    heard: list[str] = []
    async with Control(
        lambda _, job_id: heard.append(job_id), keys=keys, redis=redis, worker_name="w", quiet_s=0.02
    ) as control:
        await asyncio.wait_for(control.subscribed.wait(), 5)
        await asyncio.sleep(0.15)
        assert control.subscribed.is_set()
        await redis.publish(keys.worker("w"), control_message(CANCEL, "a"))
        await wait_until("it is heard", lambda: heard)


async def test_a_killed_connection_is_subscribed_anew(real_redis: AnyRedis, keys: Keys) -> None:
    heard: list[str] = []
    others = {connection["id"] for connection in await real_redis.client_list(_type="pubsub")}
    async with Control(lambda _, job_id: heard.append(job_id), keys=keys, redis=real_redis, worker_name="w") as control:
        await asyncio.wait_for(control.subscribed.wait(), 5)
        own = {connection["id"] for connection in await real_redis.client_list(_type="pubsub")} - others
        assert len(own) == 1
        await real_redis.client_kill_filter(_id=own.pop())
        await wait_until("the loss is noticed", lambda: not control.subscribed.is_set())
        await asyncio.wait_for(control.subscribed.wait(), 5)
        await real_redis.publish(keys.worker("w"), control_message(CANCEL, "a"))
        await wait_until("it is heard", lambda: heard)
