"""What followers in other languages show of a log that the test writes, record by record."""

import json
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from wire_clients import CLIENTS, NO_PUBLICATIONS, PROMPT, WireClient, client_of, plain_environment

from job_logs import archived, attached, sealed, submitted
from tailrace.joblog import Broker
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.rights import Role, rule
from tailrace.schemas import Keys, Position


class TestAWrittenLog:
    """What a follower shows of a log that the test writes, record by record."""

    async def test_text_is_shown_as_it_comes_whatever_is_in_it(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        pieces = ["one", " two\n", '"three" \\n', "\tü💧 é\x00", "", "\n\n", "end"]
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        shown = ""
        async with reader.following(job.job_id) as following:
            for piece in pieces:
                await pen.write(piece)
                shown += piece
                await following.until(shown)
            await sealed(job)
            assert await following.end() == (0, shown, "")
        await archived(job)
        assert reader.ok("follow", job.job_id) == shown

    async def test_what_a_rewind_takes_back_is_said_and_does_not_come_again(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        async with reader.following(job.job_id) as following:
            stands = await pen.write("one ", "two ")
            await pen.write("three")
            await following.until("one two three")
            await pen.append([*rewind(stands), "chunk", "drei"])
            await following.until("one two three\n(rewound)\none two drei")
            await sealed(job)
            assert (await following.end())[0] == 0
        # Who comes late is not bothered, and who comes back to what stands is told nothing but the rest.
        assert reader.ok("follow", job.job_id) == "one two drei"
        assert reader.ok("follow", job.job_id, stands) == "drei"

    async def test_who_comes_back_to_text_that_is_void_since_gets_it_rewound(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        stands = await pen.write("one ", "two ")
        void = await pen.write("three")
        await pen.append([*rewind(stands), "chunk", "drei"])
        await sealed(job)
        assert reader.ok("follow", job.job_id, void) == "\n(rewound)\none two drei"

    async def test_a_rewind_of_another_run_or_of_no_text_changes_nothing(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        start = pen.top
        await pen.write("one ")
        to = await pen.append([*opening("reasoning", run=3), *opening("reasoning")])
        await pen.append(["chunk", "hm", *rewind(start, run=3), *rewind(to), "chunk", "hum"])
        await pen.append([*opening("text"), "chunk", "two", "chunk:3", "not the answer"])
        await sealed(job)
        assert reader.ok("follow", job.job_id) == "one two"

    async def test_a_part_that_a_rewind_takes_back_is_not_open_any_more(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        stands = await pen.write("one ")
        await pen.append([*opening("reasoning"), "chunk", "hm", *rewind(stands), "chunk", "two"])
        await sealed(job)
        assert reader.ok("follow", job.job_id) == "one two"

    async def test_only_text_of_the_first_choice_is_the_answer(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        await pen.append([*opening("reasoning"), "chunk", "Think.", *opening("text"), "chunk", "Yes"])
        await pen.append([*opening("text", choice=1), "chunk", "No", *opening("tool_call"), "chunk", "{}"])
        await pen.append([*opening("hologram"), "chunk", "of a later version", *opening("text"), "chunk", "!"])
        await pen.append(["later", "a record of a later version"])
        await sealed(job)
        assert reader.ok("follow", job.job_id) == "Yes!"

    async def test_a_server_that_went_back_in_time_makes_void_what_it_lost(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        async with reader.following(job.job_id) as following:
            await pen.write("one ", "two ")
            before = await job.dump()
            await pen.write("lost")
            await following.until("one two lost")
            await job.restore(before)
            pen = await job.claim(attempt=2)
            await pen.write("found")
            await following.until("one two lost\n(rewound)\none two found")
            await sealed(job)
            assert (await following.end())[0] == 0
        assert reader.ok("follow", job.job_id) == "one two found"

    async def test_a_record_whose_publication_was_lost_is_found(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        async with reader.following(job.job_id) as following:
            await pen.write("one ")
            await following.until("one ")
            redis: Any = real_redis
            await redis.xadd(job.keys.log(job.job_id), {"chunk": "two"}, id=f"{pen.epoch}-2")
            await following.until("one two")

    async def test_what_is_no_publication_does_no_harm(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        pen = await job.claim()
        redis: Any = real_redis
        async with reader.following(job.job_id) as following:
            await pen.write("one ")
            await following.until("one ")
            for message in NO_PUBLICATIONS:
                assert await redis.publish(job.keys.live(job.job_id), message) == 1
            await pen.write("two")
            await following.until("one two")

    async def test_a_position_of_another_log_is_an_error(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        await (await job.claim()).write("one")
        done = reader.run("follow", job.job_id, "77-3")
        assert (done.returncode != 0, done.stdout) == (True, "")
        assert "no position 77-3" in done.stderr

    async def test_a_log_that_was_trimmed_from_outside_is_an_error(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        await (await job.claim()).write("one", "two", "three")
        redis: Any = real_redis
        await redis.xtrim(job.keys.log(job.job_id), maxlen=2, approximate=False)
        done = reader.run("follow", job.job_id)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr

    async def test_cancelling_tells_the_worker_of_the_last_attempt(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job = await submitted(real_redis, namespace)
        await (await job.claim(worker="first")).write("one")
        await (await job.claim(worker="last", attempt=2)).write("two")
        redis: Any = real_redis
        async with redis.pubsub() as words:
            await words.subscribe(job.keys.worker("last"))
            assert (await words.get_message(timeout=5))["type"] == "subscribe"
            assert reader.ok("cancel", job.job_id) == "cancelled\n"
            assert (await words.get_message(timeout=5))["data"] == f"cancel {job.job_id}".encode()

    async def test_a_job_that_nobody_has_begun_is_cancelled_for_good(
        self, reader: WireClient, real_redis: Redis, namespace: str
    ) -> None:
        job_id = reader.submit("m", PROMPT)
        redis: Any = real_redis
        keys = Keys(namespace)
        assert await redis.zscore(keys.queue, keys.queued(job_id)) is not None
        assert reader.ok("cancel", job_id) == "cancelled\n"
        assert [field for _, fields in await redis.xrange(keys.log(job_id)) for field in fields] == [b"job", b"end"]


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_client_needs_no_more_than_the_rights_of_its_role(
    kind: str, request: pytest.FixtureRequest, real_redis: Redis, namespace: str, server: EmbeddedServer
) -> None:
    redis: Any = real_redis
    keys = Keys(namespace)
    environment = plain_environment()
    reader = client_of(kind, request, environment)
    users: dict[Role, WireClient] = {}
    try:
        for role in ("producer", "consumer"):
            await redis.execute_command(
                "ACL", "SETUSER", f"wire-{role}", "reset", "on", ">pw", *rule(role, keys).split()
            )
            url = f"redis://wire-{role}:pw@{server.tcp_url.rpartition('@')[2]}"
            here = {"TAILRACE_REDIS_URL": url, "TAILRACE_NAMESPACE": namespace}
            users[role] = replace(reader, environment=environment | here)
        job_id = users["producer"].submit("m", PROMPT)
        job = await attached(Broker(real_redis), keys, job_id)
        async with users["consumer"].following(job_id) as following:
            await (await job.claim()).write("one ")
            await following.until("one ")
            assert users["producer"].ok("cancel", job_id) == "cancelled\n"
            assert (await following.end())[0] == 1
        await archived(job)
        assert users["consumer"].run("follow", job_id).stdout.startswith("one ")
        missing = users["consumer"].run("follow", "nobody").stderr.lower()
        assert "jobnotfound" in missing or "no such job" in missing
    finally:
        await redis.execute_command("ACL", "DELUSER", "wire-producer", "wire-consumer")


def rewind(to: Position, *, run: int = 0) -> list[str]:
    return ["rewind", json.dumps({"run": run, "to": to})]


def opening(part: str, *, choice: int = 0, run: int = 0) -> list[str]:
    return ["delta", json.dumps({"run": run, "delta": {"type": "open", "part": part, "choice": choice, "index": 0}})]
