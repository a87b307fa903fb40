"""Each role as a user of its own, with the rights that docs/security.md gives it and no others."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError
from typer.testing import CliRunner

from engine import running_worker, wait_until
from tailrace import AsyncTailrace, JobExpired, Settings, Status
from tailrace.cli import app
from tailrace.joblog import reading
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.rights import ROLES, Role, rule
from tailrace.joblog.suitability import check_server
from tailrace.schemas import BrokerUnsuitable, Keys
from tailrace.upstreams.rehearsal import Rehearsal

KEYS: Final = Keys("acl")
DOCS: Final = Path(__file__).parents[2] / "docs" / "security.md"
#: A database other than 0, so that every connection selects one.
DATABASE: Final = 3


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(private=True) as server:
        yield server


@pytest.fixture
async def admin(server: EmbeddedServer) -> AsyncIterator[Any]:
    """The server's owner, with a user of each role in place and an empty database."""
    client: Any = Redis.from_url(server.tcp_url)  # pyright: ignore[reportUnknownMemberType]  # redis-py's **kwargs
    async with client:
        await client.flushall()
        for role in ROLES:
            await client.execute_command(
                "ACL", "SETUSER", role, "reset", "on", f">{role}-pw", *rule(role, KEYS).split()
            )
        yield client


def url_of(server: EmbeddedServer, role: Role) -> str:
    place = server.tcp_url.rpartition("@")[2].partition("/")[0]
    return f"redis://{role}:{role}-pw@{place}/{DATABASE}"


@asynccontextmanager
async def as_user(server: EmbeddedServer, role: Role) -> AsyncGenerator[Any]:
    client: Any = Redis.from_url(url_of(server, role))  # pyright: ignore[reportUnknownMemberType]  # redis-py's **kwargs
    async with client:
        yield client


def client_of(server: EmbeddedServer, role: Role, **settings: Any) -> AsyncTailrace:
    return AsyncTailrace(settings=Settings(redis_url=url_of(server, role), namespace=KEYS.namespace, **settings))


@asynccontextmanager
async def working(server: EmbeddedServer) -> AsyncGenerator[None]:
    """A worker, as the worker's user, that asks the rehearsal."""
    async with Rehearsal() as rehearsal, as_user(server, "worker") as redis:
        settings = Settings.model_validate(
            {
                "namespace": KEYS.namespace,
                "upstreams": {"default": {"base_url": rehearsal.base_url, "api_key_env": ""}},
                "worker": {"lease_s": 1.0, "sweep_s": 0.05},
            }
        )
        async with running_worker(settings, redis):
            yield


async def as_producer(producer: AsyncTailrace) -> str:
    """Everything that a producer does; the id of a job that is left to be run."""
    job = await producer.submit("hello", model="rehearsal", job_id="kept")
    await producer.submit("hello", model="rehearsal", job_id="kept")
    assert await job.status() is Status.QUEUED
    _, other, third = await producer.submit_many([{"prompt": text, "model": "rehearsal"} for text in "abc"])
    assert await other.cancel() is Status.CANCELLED
    await other.delete()
    await third.delete()
    return job.id


async def as_consumer(consumer: AsyncTailrace, job_id: str) -> None:
    """Everything that a consumer does."""
    job = consumer.job(job_id)
    chunks = [chunk async for chunk in job.stream()]
    assert await job.text(timeout=10) == "".join(chunks)
    assert [chunk async for chunk in job.stream(after=chunks[0].position)] == chunks[1:]
    assert await job.status() is Status.COMPLETED


async def test_each_role_does_its_work_as_its_own_user(server: EmbeddedServer, admin: Any) -> None:
    async with client_of(server, "producer") as producer, client_of(server, "consumer") as consumer:
        job_id = await as_producer(producer)
        early = asyncio.create_task(as_consumer(consumer, job_id))
        async with working(server):
            await early
            await wait_until("the job is handed off", lambda: settled(server))
            await as_consumer(consumer, job_id)  # from the snapshot
            assert await producer.job(job_id).status() is Status.COMPLETED
            running = await producer.submit("more", model="rehearsal:tokens=1000,pace=0.05")
            stream = consumer.job(running.id).stream()
            await anext(stream)
            await stream.aclose()
            with pytest.raises(BrokerUnsuitable, match="refuses this user"):
                await consumer.job(running.id).cancel()
            assert await running.cancel() is Status.CANCELLED
            await running.delete()
    refused = {str(entry) for entry in await admin.acl_log() if b"setinfo" not in str(entry).encode()}
    assert all("'username': 'consumer'" in entry for entry in refused), refused
    assert all("evalsha" in entry or ":job" in entry for entry in refused), refused


async def settled(server: EmbeddedServer) -> bool:
    async with as_user(server, "worker") as redis:
        return not await redis.zcard(KEYS.open)


@pytest.mark.parametrize("role", ROLES)
async def test_doctor_tells_what_a_user_may_be(server: EmbeddedServer, admin: Any, role: Role) -> None:
    where = ["--redis-url", url_of(server, role), "--namespace", KEYS.namespace]
    ran = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--no-upstreams", "--json", *where])
    (found,) = [line for line in map(json.loads, ran.stdout.splitlines()) if line["code"] == "acl"]
    assert ran.exit_code == 0, ran.stdout
    assert found["level"] == "ok"
    may = found["what"].partition(", not what ")[0]
    expected: dict[Role, list[Role]] = {"worker": list(ROLES), "gateway": ["gateway", "producer", "consumer"]}
    assert [each for each in ROLES if f"a {each}" in may] == expected.get(role, [role])


@pytest.mark.parametrize("role", ["gateway", "producer", "consumer"])
async def test_a_worker_does_not_start_as_another_roles_user(server: EmbeddedServer, admin: Any, role: Role) -> None:
    async with as_user(server, role) as redis:
        (found,) = [each for each in await check_server(redis, KEYS) if each.code == "acl"]
        assert found.level == "error"
        assert found.cure == f"ACL SETUSER <user> {rule('worker', KEYS)}"
    assert await admin.dbsize() == 0
    async with as_user(server, "worker") as redis:
        assert await redis.dbsize() == 0


LOG: Final = KEYS.log("j")
FORBIDDEN: Final[dict[Role, list[tuple[str | int, ...]]]] = {
    "consumer": [
        ("SET", KEYS.snapshot("j"), "x"), ("XADD", LOG, "*", "chunk", "x"), ("XTRIM", LOG, "MAXLEN", 0), ("DEL", LOG),
        ("EVAL", "return 1", 0), ("EVALSHA", "0" * 40, 0), ("PUBLISH", KEYS.live("j"), "x"), ("GET", KEYS.request("j")),
        ("XRANGE", Keys("other").log("j"), "-", "+"), ("GET", "arq:job:acl:j"), ("ZRANGE", KEYS.open, 0, -1), ("KEYS", "*"),
        ("SCAN", 0), ("RANDOMKEY",), ("PSUBSCRIBE", "*"), ("SUBSCRIBE", Keys("other").live("j")),
        ("SUBSCRIBE", KEYS.worker("w")), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("INFO",), ("MONITOR",), ("ACL", "LIST"),
    ],
    "producer": [
        ("SUBSCRIBE", KEYS.live("j")), ("PSUBSCRIBE", "*"), ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",),
        ("ZRANGE", KEYS.open, 0, -1), ("ZRANGE", KEYS.queue, 0, -1), ("ZRANGEBYSCORE", KEYS.queue, 0, 1),
        ("SET", "arq:in-progress:acl:j", "x"), ("SET", "arq:job:other:j", "x"),
        ("SET", Keys("other").request("j"), "x"), ("GET", Keys("other").request("j")), ("XADD", KEYS.ended, "*", "a", "b"),
        ("EVAL", "return redis.call('KEYS', '*')", 0), ("EVAL", "return redis.call('FLUSHALL')", 0),
        ("EVAL", "return redis.call('GET', KEYS[1])", 1, Keys("other").request("j")), ("PUBLISH", "elsewhere", "x"),
        ("SCRIPT", "FLUSH"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("INFO",), ("MONITOR",), ("ACL", "LIST"),
    ],
    "gateway": [
        ("PSUBSCRIBE", "*"), ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("ZRANGEBYSCORE", KEYS.queue, 0, 1),
        ("XADD", KEYS.ended, "*", "a", "b"), ("XTRIM", KEYS.ended, "MAXLEN", 0), ("DEL", KEYS.ended),
        ("HSET", KEYS.tasks, "t", "x"), ("XREVRANGE", KEYS.parked("g"), "+", "-"), ("XREVRANGE", Keys("other").ended, "+", "-"),
        ("ZRANGE", Keys("other").open, 0, -1), ("HGETALL", Keys("other").tenant_jobs("t")), ("ZADD", KEYS.workers, 0, "w"),
        ("SET", "arq:in-progress:acl:j", "x"), ("SET", "arq:job:other:j", "x"), ("GET", Keys("other").request("j")),
        ("EVAL", "return redis.call('KEYS', '*')", 0), ("SUBSCRIBE", Keys("other").live("j")), ("PUBLISH", "elsewhere", "x"),
        ("SCRIPT", "FLUSH"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("MONITOR",), ("ACL", "LIST"),
    ],
    "worker": [
        ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("MONITOR",), ("ACL", "LIST"),
        ("CLIENT", "KILL", "TYPE", "normal"), ("SHUTDOWN",), ("SWAPDB", 0, 1), ("SCRIPT", "FLUSH"),
        ("XRANGE", Keys("other").log("j"), "-", "+"), ("GET", Keys("other").request("j")),
        ("SET", "arq:job:other:j", "x"), ("DEL", "arq:in-progress:other:j"), ("SUBSCRIBE", Keys("other").live("j")),
        ("FUNCTION", "FLUSH"), ("SLAVEOF", "NO", "ONE"), ("SAVE",),
    ],
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
async def test_what_is_not_a_roles_business_is_refused(server: EmbeddedServer, admin: Any, role: Role) -> None:
    # What is refused for its type or arguments would be allowed.
    allowed: list[tuple[str | int, ...]] = []
    async with as_user(server, role) as redis:
        for command in FORBIDDEN[role]:
            try:
                await redis.execute_command(*command)
            except Exception as error:
                if not isinstance(error, NoPermissionError) and "ACL failure in script" not in str(error):
                    allowed.append(command)
            else:
                allowed.append(command)
    assert allowed == []


@pytest.mark.parametrize("role", ["producer", "consumer"])
async def test_a_rule_has_no_command_that_its_role_does_not_use(server: EmbeddedServer, admin: Any, role: Role) -> None:
    async with working(server), client_of(server, "producer") as producer:
        job = await producer.submit("hello", model="rehearsal", job_id="done")
        await wait_until("it is over", job_over(producer, job.id))
        await wait_until("the job is handed off", lambda: settled(server))
        late = await producer.submit("hello", model="rehearsal:tokens=30,pace=0.01", job_id="late")
    await admin.script_flush()
    await admin.config_resetstat()
    if role == "producer":
        async with client_of(server, role, queue_capacity=10) as producer:
            await as_producer(producer)
            await producer.submit(task="unheard of", job_id="task")
            assert await producer.job("done").status() is Status.COMPLETED
    else:
        async with client_of(server, role) as consumer:
            await as_consumer(consumer, "done")
            waiting = consumer.job(late.id).records()
            await anext(waiting)
            await waiting.aclose()
            await wait_until("it is unsubscribed", lambda: used_by(admin, {"unsubscribe"}))
    granted = {word.removeprefix("+") for word in rule(role, KEYS).split() if word.startswith("+")}
    quiet = {"ping"}  # sent on a connection that has been quiet
    assert granted - quiet <= await used(admin)


def job_over(client: AsyncTailrace, job_id: str) -> Any:
    async def over() -> bool:
        return (await client.job(job_id).status()).ended

    return over


async def used(admin: Any) -> set[str]:
    return {name.removeprefix("cmdstat_") for name in await admin.info("commandstats")}


async def used_by(admin: Any, commands: set[str]) -> bool:
    return commands <= await used(admin)


async def test_a_consumer_that_may_not_seal_still_learns_that_a_job_has_expired(
    server: EmbeddedServer, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(server, "producer") as producer, client_of(server, "consumer") as consumer:
        job = await producer.submit("hello", deadline=0.05)
        monkeypatch.setattr(reading, "GRACE_S", 0.0)
        found = consumer.job(job.id)

        async def expired() -> bool:
            return await found.status() is Status.EXPIRED

        await wait_until("the consumer sees that it expired", expired)
        with pytest.raises(JobExpired):
            await found.result(timeout=10)
        with pytest.raises(JobExpired):
            async for _ in found.stream():
                pass
        assert [entry[0] for entry in await log_of(server, job.id)] == [b"0-1"], "nobody has sealed it"
        assert await job.status() is Status.EXPIRED  # the producer may, and has
    assert len(await log_of(server, job.id)) == 2


async def log_of(server: EmbeddedServer, job_id: str) -> list[Any]:
    async with as_user(server, "worker") as redis:
        found: list[Any] = await redis.xrange(KEYS.log(job_id))
        return found


@pytest.mark.parametrize("role", ROLES)
def test_the_documented_rule_is_the_tested_one(role: Role) -> None:
    lines = " ".join(DOCS.read_text(encoding="utf-8").replace("\\\n", " ").split())
    assert f"ACL SETUSER tailrace-{role} reset on >PASSWORD {rule(role, Keys())}" in lines
