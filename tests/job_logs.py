"""Jobs and their logs for tests, by the scripts that the rooms themselves use; and what must be true of every log."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from tailrace.joblog import (
    APPEND,
    Broker,
    End,
    append_command,
    claim,
    encode_snapshot,
    read_whole,
    refuse,
    seal,
    store_snapshot,
)
from tailrace.producer import Producer
from tailrace.schemas import END, FIRST, Entry, JobRequest, Keys, Position, Status, parse_position

PATIENCE_S: Final = 10.0


async def wait_until(what: str, condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE_S) -> None:
    """Look until it is so."""
    give_up = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < give_up, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.002)


async def stored(broker: Broker, keys: Keys, job_id: str) -> list[Entry]:
    """The stream as it is, snapshots left aside."""
    return [
        Entry(Position(position.decode()), field.decode(), value.decode())
        for position, fields in await broker.call("XRANGE", keys.log(job_id), "-", "+")
        for field, value in fields.items()
    ]


class Pen:
    """One attempt's writing end, one append a call."""

    def __init__(self, job: "Job", position: Position, after: Position) -> None:
        self.job, self.top, self.after, self.seq = job, position, after, 0
        self.epoch = parse_position(position)[0]

    async def write(self, *texts: str) -> Position:
        """Chunks. Raises: the refusal."""
        return await self.append([part for text in texts for part in ("chunk", text)])

    async def append(self, pairs: Sequence[str]) -> Position:
        """Fields and values. Raises: the refusal."""
        refuse(await self.send(pairs))
        self.seq += len(pairs) // 2
        self.top = Position(f"{self.epoch}-{self.seq}")
        return self.top

    async def send(self, pairs: Sequence[str]) -> Any:
        """The append's bare answer; this pen does not move."""
        job = self.job
        command = append_command(
            job.keys,
            job.job_id,
            top=self.top,
            incarnation=job.incarnation,
            epoch=self.epoch,
            seq=self.seq + 1,
            pairs=pairs,
        )
        return await job.broker.run(APPEND, [str(command[3])], command[4:])


class Job:
    """A submitted job."""

    def __init__(self, broker: Broker, keys: Keys, job_id: str, incarnation: str) -> None:
        self.broker, self.keys, self.job_id, self.incarnation = broker, keys, job_id, incarnation

    async def claim(self, *, attempt: int = 1, worker: str = "w", known_epoch: int | None = None) -> Pen:
        claimed = await claim(
            self.broker,
            self.keys,
            self.job_id,
            incarnation=self.incarnation,
            attempt=attempt,
            worker=worker,
            known_epoch=known_epoch,
            replay=known_epoch is not None,
        )
        return Pen(self, claimed.position, claimed.after)

    async def entries(self) -> list[Entry]:
        return await stored(self.broker, self.keys, self.job_id)

    async def dump(self) -> bytes:
        """What a server that crashes later may come back with."""
        found: bytes = await self.broker.call("DUMP", self.keys.log(self.job_id))
        return found

    async def restore(self, dump: bytes, ttl_ms: int = 3_600_000) -> None:
        """The server comes back with what it had then."""
        await self.broker.call("RESTORE", self.keys.log(self.job_id), ttl_ms, dump, "REPLACE")

    async def ttls(self) -> tuple[int, int, int]:
        """Of log, request and snapshot, in milliseconds; -2 where there is none."""
        keys, job_id = self.keys, self.job_id
        names = (keys.log(job_id), keys.request(job_id), keys.snapshot(job_id))
        one, two, three = [int(await self.broker.call("PTTL", name)) for name in names]
        return one, two, three


def request(prompt: str = "hello", **fields: Any) -> JobRequest:
    return JobRequest.of(prompt, model="m", **fields)


async def submitted(redis: Redis, namespace: str, job_id: str = "job", **fields: Any) -> Job:
    """A job that has just been submitted."""
    broker, keys = Broker(redis), Keys(namespace)
    await Producer(broker, keys).submit(request(**fields), job_id=job_id)
    return await attached(broker, keys, job_id)


async def sealed(job: Job, status: Status = Status.COMPLETED) -> None:
    await seal(job.broker, job.keys, job.job_id, End(status))


async def archived(job: Job) -> None:
    """Ended and replaced by its snapshot."""
    await sealed(job)
    blob = encode_snapshot(await job.entries())
    assert await store_snapshot(job.broker, job.keys, job.job_id, incarnation=job.incarnation, blob=blob)


async def shown(job: Job) -> list[Entry]:
    """What readers get."""
    return await read_whole(job.broker, job.keys, job.job_id)


async def attached(broker: Broker, keys: Keys, job_id: str) -> Job:
    first = (await stored(broker, keys, job_id))[0]
    return Job(broker, keys, job_id, str(json.loads(first.value)["incarnation"]))


def check_log(entries: Sequence[Entry]) -> None:
    """What every log promises: one first record, contiguous, attempts and end name what stands before them."""
    before: Entry | None = None
    nonces: set[str] = set()
    for entry in entries:
        assert before is None or before.position != END, f"{entry} after the end"
        epoch, seq = parse_position(entry.position)
        if before is None:
            assert (entry.position, entry.field) == (FIRST, "job")
        elif entry.field == "attempt":
            record = json.loads(entry.value)
            assert seq == 0
            assert record["after"] == before.position
            assert record["nonce"] not in nonces, "one claim, two attempts"
            nonces.add(record["nonce"])
        elif entry.position == END:
            assert entry.field == "end"
            assert json.loads(entry.value)["last"] == before.position
        else:
            assert parse_position(before.position) == (epoch, seq - 1), f"a hole between {before} and {entry}"
        before = entry
