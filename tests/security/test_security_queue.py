"""Whoever can write to Redis can not make a worker execute anything."""

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from secure_runs import command

from engine import engine, wait_until
from tailrace import AsyncTailrace, Settings, Status
from tailrace.queue import queue_payload
from tailrace.schemas import Keys


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def arq_job(function: str, *args: Any) -> bytes:
    """A job as stock arq writes it."""
    return pickle.dumps({"t": None, "f": function, "a": args, "k": {}, "et": int(time.time() * 1000)})


def test_the_bomb_goes_off_where_pickles_are_read(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "hit")))
    assert (tmp_path / "hit").exists()


async def test_nothing_that_is_planted_in_redis_executes(
    real_redis: Any, server_url: str, namespace: str, tmp_path: Path
) -> None:
    redis, keys, hit = real_redis, Keys(namespace), tmp_path / "hit"
    bomb = pickle.dumps(Bomb(hit))
    soon = int(time.time() * 1000) - 1000
    payloads = {
        "bomb": bomb,
        "bomb0": pickle.dumps(Bomb(hit), protocol=0),
        "args": arq_job("tailrace", Bomb(hit)),
        "function": arq_job("os.system", f"mkdir {hit}"),
        "json-function": json.dumps({"t": None, "f": "os.system", "a": [f"mkdir {hit}"], "k": {}, "et": 1}).encode(),
        "json-reduce": json.dumps({"py/object": "os.system", "py/reduce": [f"mkdir {hit}"]}).encode(),
        "tail": queue_payload(0) + bomb,
        "yaml": f"!!python/object/apply:os.system ['mkdir {hit}']".encode(),
        "huge": b"\x80\x05" + b"A" * 5_000_000,
        "nothing": b"",
        "nul": b"\x00",
    }
    settings = Settings(redis_url=server_url, namespace=namespace)
    async with AsyncTailrace(settings=settings) as tailrace:
        # Requests, logs and snapshots of jobs that were accepted are exchanged for bombs as well.
        exchanged = [await tailrace.submit("hello", job_id=f"x{number}", deadline=5) for number in range(3)]
        await redis.set(keys.request("x0"), bomb, keepttl=True)
        await redis.xadd(keys.log("x1"), {"event": bomb}, id="5-0")
        await redis.xadd(keys.log("x1"), {bomb: bomb}, id="6-0")
        await redis.set(keys.snapshot("x2"), bomb, px=60_000)
        await redis.delete(keys.log("x2"))
        for name, payload in payloads.items():
            await redis.set(f"arq:job:{keys.queued(name)}", payload, px=60_000)
            await redis.zadd(keys.queue, {keys.queued(name): soon})
        for member in (bomb, b"arq:queue", f"{namespace}:../../x".encode(), b"\xff" * 200, namespace.encode()):
            await redis.zadd(keys.queue, {member: soon})
            await redis.zadd(keys.open, {member: soon})
        await redis.set(f"arq:job:{bomb!r}", bomb, px=60_000)
        await redis.set(f"arq:retry:{keys.queued('bomb')}", bomb, px=60_000)
        await redis.rpush(keys.wake, bomb)
        await redis.pexpire(keys.wake, 60_000)
        where = ["--redis-url", server_url, "--namespace", namespace]
        with command("worker", "--rehearsal", "--json", *where, env={}) as worker:
            worker.wait_for('"ready"')
            name = json.loads(next(line for line in worker.said.splitlines() if line.startswith('{"ready"')))["worker"]
            await wait_until("the worker listens", lambda: redis.publish(keys.worker(name), bomb))
            job = await tailrace.submit("hello", model="rehearsal")
            assert await job.text(timeout=20)

            async def only_ours() -> bool:
                left = [member.decode() for member in await redis.zrange(keys.queue, 0, -1)]
                return set(left) <= {keys.queued(each.id) for each in exchanged}

            await wait_until("everything planted is dropped", only_ours)
            worker.wait_for("no control word")
            assert worker.process.poll() is None, worker.said
        assert await job.status() is Status.COMPLETED
    assert not hit.exists()
    assert "os.system" not in worker.said, "what was planted is not repeated"
    await redis.delete(keys.queue, keys.open)  # their time to live is what a planted member left


@pytest.mark.parametrize("where", ["payload", "queue", "wake", "open"])
async def test_a_key_of_another_type_does_not_stop_the_worker(redis: Any, namespace: str, where: str) -> None:
    keys = Keys(namespace)
    planted = {"payload": f"arq:job:{keys.queued('p')}", "queue": keys.queue, "wake": keys.wake, "open": keys.open}[
        where
    ]
    if where == "payload":
        await redis.zadd(keys.queue, {keys.queued("p"): 1})
        await redis.pexpire(keys.queue, 60_000)
        await redis.rpush(planted, "x")
        await redis.pexpire(planted, 60_000)
    else:
        await redis.set(planted, "x", px=300)
    async with engine(redis, namespace) as e:

        async def gone() -> bool:
            return where == "payload" or not await redis.exists(planted)

        await wait_until("the planted key has expired", gone)
        job = await e.tailrace.submit("hello", model="rehearsal")
        assert await job.text(timeout=20)
