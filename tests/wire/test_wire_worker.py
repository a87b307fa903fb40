"""docs/wire.md, held by clients in other languages: with a worker they do what Python's client does."""

import json
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from wire_clients import PROMPT, WireClient, node

from engine import wait_until
from stack import Stack
from tailrace import Status, Tailrace
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import Keys


class TestWithAWorker:
    async def test_a_job_is_submitted_run_and_followed_to_its_end(self, client: WireClient, stack: Stack) -> None:
        job_id = client.submit("rehearsal", PROMPT)
        async with client.following(job_id) as following:
            code, shown, said = await following.end()
        assert (code, said) == (0, "")
        assert shown == text_of(stack, job_id)

    def test_a_request_is_the_same_one_in_every_language(self, client: WireClient, stack: Stack) -> None:
        job_id = client.submit("rehearsal", PROMPT)
        with Tailrace(settings=stack.settings) as tailrace:
            same = tailrace.submit(PROMPT, model="rehearsal", job_id=job_id)
            assert same.text()
        assert client.submit("rehearsal", PROMPT, job_id) == job_id

    def test_an_id_of_another_request_is_refused(self, client: WireClient) -> None:
        job_id = client.submit("rehearsal", PROMPT)
        again = client.run("submit", "rehearsal", "Something else", job_id)
        assert (again.returncode, again.stdout) == (1, "")
        assert "conflict" in again.stderr.lower()

    async def test_a_finished_job_is_read_from_its_snapshot_from_any_position(
        self, client: WireClient, stack: Stack, wire_redis: Redis
    ) -> None:
        job_id = client.submit("rehearsal", PROMPT)
        with Tailrace(settings=stack.settings) as tailrace:
            chunks = list(tailrace.job(job_id).stream())
        await snapshotted(wire_redis, stack, job_id)
        assert client.ok("follow", job_id) == "".join(chunks)
        assert client.ok("follow", job_id, chunks[4].position) == "".join(chunks[5:])
        assert client.ok("follow", job_id, chunks[-1].position) == ""

    async def test_a_stream_that_broke_and_differs_is_shown_rewound(
        self, client: WireClient, stack: Stack, namespace: str
    ) -> None:
        # The rehearsal counts the calls for a prompt: this one is nobody else's.
        model = "rehearsal:tokens=20,seed_by=call,differ_at=5,fault=cut,at=12,times=1,pace=0.05,ttft=0.5"
        job_id = client.submit(model, namespace)
        async with client.following(job_id) as following:
            code, shown, said = await following.end()
        assert (code, said) == (0, "")
        # How much of the first attempt is seen is a matter of who is faster.
        before, _, after = shown.rpartition("\n(rewound)\n")
        assert after == text_of(stack, job_id)
        assert "".join(f" token{number}" for number in range(12)).startswith(before)

    async def test_cancelling_closes_the_upstream_call_of_a_running_job(self, client: WireClient, stack: Stack) -> None:
        rehearsal = stack.rehearsal
        assert rehearsal is not None
        job_id = client.submit("rehearsal:tokens=1000,pace=0.05", PROMPT)
        async with client.following(job_id) as following:
            await following.until(" token0")
            assert client.ok("cancel", job_id) == "cancelled\n"
            await wait_until("the call is closed", lambda: rehearsal.open_streams == 0)
            code, _, said = await following.end()
        assert code == 1
        assert "cancelled" in said
        with Tailrace(settings=stack.settings) as tailrace:
            assert tailrace.job(job_id).status() is Status.CANCELLED

    async def test_cancelling_an_ended_job_changes_nothing(
        self, client: WireClient, stack: Stack, wire_redis: Redis
    ) -> None:
        job_id = client.submit("rehearsal", PROMPT)
        text = client.ok("follow", job_id)
        await snapshotted(wire_redis, stack, job_id)
        assert client.ok("cancel", job_id) == "completed\n"
        assert client.ok("follow", job_id) == text

    def test_a_job_that_does_not_exist_is_an_error(self, client: WireClient) -> None:
        for command in ("follow", "cancel"):
            done = client.run(command, "nobody")
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr


def test_nodes_pieces_have_pythons_boundaries_and_positions(
    stack: Stack, wire_server: EmbeddedServer, node_packages: Path, tmp_path: Path
) -> None:
    client = node(node_packages, tmp_path, stack.environment | {"TAILRACE_REDIS_URL": wire_server.tcp_url})
    job_id = client.submit("rehearsal", PROMPT)
    lines = client.ok("follow", "--json", job_id).splitlines()
    with Tailrace(settings=stack.settings) as tailrace:
        chunks = [{"text": str(chunk), "position": chunk.position} for chunk in tailrace.job(job_id).stream()]
    assert [json.loads(line) for line in lines] == chunks


async def snapshotted(redis: Any, stack: Stack, job_id: str) -> None:
    keys = Keys(stack.settings.namespace)
    await wait_until("the log is a snapshot", lambda: redis.exists(keys.snapshot(job_id)))
    assert await redis.xlen(keys.log(job_id)) == 0


def text_of(stack: Stack, job_id: str) -> str:
    """As Python's reader has it."""
    with Tailrace(settings=stack.settings) as tailrace:
        return tailrace.job(job_id).text()
