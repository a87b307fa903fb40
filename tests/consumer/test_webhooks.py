"""Webhooks: each ended job told to each receiver, signed, again and again until it is taken, and to nobody else."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from handoffs import end_job, held
from openai.types.webhooks import ResponseCompletedWebhookEvent, ResponseFailedWebhookEvent
from receivers import ENVIRONMENT, SECRET, delivering, hook, receiver, settings_of
from redis.asyncio import Redis
from typer.testing import CliRunner

from engine import engine, wait_until
from tailrace import InvalidRequest, Settings, Status
from tailrace.cli.app import app
from tailrace.consumer import parked
from tailrace.consumer.webhooks import Webhooks
from tailrace.joblog import Broker


async def test_the_official_sdk_accepts_and_parses_what_a_receiver_is_sent(redis: Redis, namespace: str) -> None:
    async with (
        receiver() as took,
        engine(redis, namespace, webhooks={"billing": hook(took.url)}) as e,
        delivering(redis, e.settings),
    ):
        job = await e.tailrace.submit("a secret prompt", tags=["t"])
        await wait_until("it was told", lambda: took.events)
        (event,) = took.events
        assert isinstance(event, ResponseCompletedWebhookEvent)
        assert event.data.id == job.id
        assert event.object == "event"
        assert abs(event.created_at - (await Broker(redis).now_ms()) / 1000) < 20
        assert took.headers[0]["webhook-id"] == event.id
        assert took.headers[0]["Content-Type"] == "application/json"
        assert b"secret" not in took.bodies[0]
        assert json.loads(took.bodies[0])["data"] == {"id": job.id, "status": "completed", "tags": ["t"]}


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (Status.COMPLETED, "response.completed"),
        (Status.INCOMPLETE, "response.incomplete"),
        (Status.FAILED, "response.failed"),
        (Status.EXPIRED, "response.failed"),
        (Status.CANCELLED, "response.cancelled"),
    ],
)
async def test_every_end_has_an_event_that_the_sdk_knows(
    redis: Redis, namespace: str, status: Status, type_: str
) -> None:
    async with receiver() as took, delivering(redis, settings := settings_of(namespace, one=hook(took.url))):
        await end_job(redis, settings.keys, "job", status)
        await wait_until("it was told", lambda: took.events)
        assert took.events[0].type == type_
        assert type(took.events[0]).__name__.endswith("WebhookEvent")
        assert json.loads(took.bodies[0])["data"]["status"] == status


async def test_a_message_is_sent_again_until_it_is_taken_always_the_same(redis: Redis, namespace: str) -> None:
    async with (
        receiver(500, 301, 404, (503, {"Retry-After": "0"})) as took,
        delivering(redis, settings := settings_of(namespace, one=hook(took.url))),
    ):
        await end_job(redis, settings.keys, "job")
        await wait_until("it was taken", lambda: len(took.events) == 5)

        async def done() -> bool:
            return not await held(redis, settings.keys, "webhook:one")

        await wait_until("it is acknowledged", done)
        assert len(set(took.bodies)) == 1
        assert len({headers["webhook-id"] for headers in took.headers}) == 1


async def test_each_receiver_gets_its_own_message_and_one_that_fails_keeps_nobody_waiting(
    redis: Redis, namespace: str
) -> None:
    async with receiver(*[500] * 50) as bad, receiver() as good:
        settings = settings_of(
            namespace,
            bad=hook(bad.url, concurrency=1, first_pause_s=0.05),
            good=hook(good.url),
            failures=hook(good.url, statuses=["failed"]),
            tagged=hook(good.url, tags=["nobody has this"]),
        )
        async with delivering(redis, settings):
            for number in range(5):
                await end_job(redis, settings.keys, f"job{number}")
            await end_job(redis, settings.keys, "failed", Status.FAILED)
            await wait_until("the good one has all", lambda: len(good.events) == 7)
            await wait_until("the bad one was asked", lambda: bad.events)
        ids = [event.data.id for event in good.events]
        assert sorted(ids) == ["failed", "failed", *(f"job{number}" for number in range(5))]
        assert len({event.id for event in good.events}) == 7  # not the same for two receivers
        assert sum(isinstance(event, ResponseFailedWebhookEvent) for event in good.events) == 2
        assert {event.data.id for event in bad.events} == {"job0"}


async def test_a_redirect_is_not_followed_and_what_is_never_taken_is_parked(
    redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiver(*[(307, {"Location": "/elsewhere"})] * 3) as took:
        settings = settings_of(namespace, one=hook(took.url, max_attempts=3))
        async with delivering(redis, settings):
            await end_job(redis, settings.keys, "job")
            await wait_until("it is parked", lambda: parked(Broker(redis), settings.keys, "webhook:one"))
            await end_job(redis, settings.keys, "next")
            await wait_until("the next one is taken", lambda: len(took.events) == 4)
        (given_up,) = await parked(Broker(redis), settings.keys, "webhook:one")
        assert (given_up.job_id, given_up.deliveries) == ("job", 3)
        assert "status 307" in given_up.reason
        assert took.elsewhere == 0
        assert any("'job' is parked after 3 tries" in line for line in caplog.messages)


async def test_a_receiver_that_is_gone_is_left_alone(redis: Redis, namespace: str) -> None:
    async with receiver(410) as gone, receiver() as there:
        settings = settings_of(namespace, gone=hook(gone.url), there=hook(there.url))
        async with delivering(redis, settings):
            await end_job(redis, settings.keys, "one")
            await wait_until("it said so", lambda: gone.events)
            for name in ("two", "three"):
                await end_job(redis, settings.keys, name)
            await wait_until("the other one has all", lambda: len(there.events) == 3)
        assert len(gone.events) == 1
        async with delivering(redis, settings):  # after a restart it is asked again
            await wait_until("the rest came", lambda: len(gone.events) == 3)


async def test_a_body_without_end_is_not_read_and_a_silent_receiver_not_waited_for(
    redis: Redis, namespace: str
) -> None:
    async with receiver(299) as took:
        settings = settings_of(namespace, one=hook(took.url, timeout_s=0.3))
        async with delivering(redis, settings):
            await end_job(redis, settings.keys, "endless")
            await wait_until("it was told", lambda: took.events)
            await wait_until("and acknowledged", lambda: _acknowledged(redis, settings))
            took.let_go.clear()
            await end_job(redis, settings.keys, "silent")
            await wait_until("it was told twice", lambda: len(took.events) == 3)
            took.let_go.set()
        assert [event.data.id for event in took.events[:3]] == ["endless", "silent", "silent"]


async def _acknowledged(redis: Redis, settings: Settings) -> bool:
    return not await held(redis, settings.keys, "webhook:one")


async def test_drained_it_finishes_what_is_on_its_way_and_hands_back_what_waits(redis: Redis, namespace: str) -> None:
    async with receiver(500, 204) as took:
        slow = hook(took.url, first_pause_s=60, longest_pause_s=60)
        settings = settings_of(namespace, one=slow)
        webhooks = Webhooks(settings, Broker(redis), environment=ENVIRONMENT)
        running = asyncio.create_task(webhooks.run())
        await end_job(redis, settings.keys, "failed-once")
        await wait_until("the first has failed", lambda: not took.answers or len(took.answers) == 1)
        took.let_go.clear()
        await end_job(redis, settings.keys, "on-its-way")
        await wait_until("the second is on its way", lambda: len(took.events) == 2)
        webhooks.drain()
        assert not running.done()
        took.let_go.set()
        async with asyncio.timeout(5):
            await running
        assert await held(redis, settings.keys, "webhook:one") == 1
        async with delivering(redis, settings):
            await wait_until("the next process sends it at once", lambda: len(took.events) == 3)
        assert [event.data.id for event in took.events] == ["failed-once", "on-its-way", "failed-once"]


async def test_while_a_secret_is_exchanged_both_sign(redis: Redis, namespace: str) -> None:
    async with receiver() as took:
        settings = settings_of(namespace, one=hook(took.url))
        other = "whsec_" + "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="
        async with delivering(redis, settings, {"HOOK_SECRET": f"{other} {SECRET}"}):
            await end_job(redis, settings.keys, "job")
            await wait_until("it was told, and the SDK checked it", lambda: took.events)
        assert len(took.headers[0]["webhook-signature"].split()) == 2


# whom it does not tell, and what it does not say


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "127.1", "0.0.0.0"]
)
async def test_an_address_that_is_not_public_is_refused(
    redis: Redis, namespace: str, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiver() as took:
        port = took.url.split(":")[2].partition("/")[0]
        url = f"https://{host}:{port}/hook"
        settings = settings_of(namespace, one=hook(url, allow_private=False, max_attempts=2))
        async with delivering(redis, settings):
            await end_job(redis, settings.keys, "job")
            await wait_until("it is parked", lambda: parked(Broker(redis), settings.keys, "webhook:one"))
        (given_up,) = await parked(Broker(redis), settings.keys, "webhook:one")
        assert "no public address" in given_up.reason
        assert took.events == []


async def test_no_secret_and_no_url_is_logged_or_shown(
    redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with receiver(500, 410) as took:
        settings = settings_of(
            namespace,
            one=hook(took.url),
            dead=hook("http://127.0.0.1:1/canary-path?key=canary-query", max_attempts=2),
        )
        async with delivering(redis, settings) as webhooks:
            await end_job(redis, settings.keys, "job")
            await wait_until("it is given up", lambda: len(took.events) == 2)
            await wait_until("also there", lambda: parked(Broker(redis), settings.keys, "webhook:dead"))
        given_up = await parked(Broker(redis), settings.keys, "webhook:dead")
        ours = [line for record, line in zip(caplog.records, caplog.messages, strict=True) if "tailrace" in record.name]
        shown = " ".join([*ours, repr(settings), repr(vars(webhooks)), repr(given_up)])
        assert len(ours) >= 3
        for canary in (SECRET, SECRET[6:], "canary"):
            assert canary not in shown
        assert not any(SECRET[6:] in line for line in caplog.messages)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "canary", "whsec_Y2FuYXJ5", "whsec_canary!", SECRET[6:], f"{SECRET} x"]
)
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    settings = settings_of("n", one=hook("https://example.com/"))
    with pytest.raises(InvalidRequest, match=r"HOOK_SECRET of webhook 'one'") as caught:
        Webhooks(settings, Broker(None), environment={"HOOK_SECRET": secret})  # type: ignore[arg-type]  # never asked  # pyright: ignore[reportArgumentType]
    assert "anary" not in str(caught.value)
    assert SECRET[6:] not in str(caught.value)


# the command


def test_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_url: str) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["webhooks", "--redis-url", server_url, "--json", *arguments])

    none = run()
    assert none.exit_code == 2
    assert "no webhooks are configured" in none.stderr
    config = tmp_path / "tailrace.toml"
    config.write_text('[webhooks.one]\nurl = "https://example.com/canary"\nsecret_env = "NOT_SET_ANYWHERE"\n')
    unset = run("--config", str(config))
    assert unset.exit_code == 2
    assert "NOT_SET_ANYWHERE" in unset.stderr
    assert "canary" not in unset.stderr
    assert "'two'" in run("--config", str(config), "--only", "two").stderr
    monkeypatch.setitem(sys.modules, "standardwebhooks", None)
    for name in [name for name in sys.modules if name.startswith("tailrace.consumer.webhooks")]:
        monkeypatch.delitem(sys.modules, name)
    missing = run("--config", str(config))
    assert missing.exit_code == 2
    assert "pip install 'tailrace[webhooks]'" in missing.stderr


async def test_the_command_delivers_and_drains(
    real_redis: Redis, server_url: str, namespace: str, tmp_path: Path
) -> None:
    async with receiver() as took:
        target = hook(took.url)
        config = tmp_path / "tailrace.toml"
        config.write_text(
            "[webhooks.one]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in target.items())
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        environment |= {"TAILRACE_REDIS_URL": server_url, "TAILRACE_NAMESPACE": namespace, **ENVIRONMENT}
        command = [sys.executable, "-W", "error", "-m", "tailrace.cli", "webhooks", "--json", "--config", str(config)]
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            ready = json.loads(await process.stdout.readline())
            assert ready == {"ready": True, "webhooks": ["one"], "namespace": namespace}
            keys = settings_of(namespace).keys
            await end_job(real_redis, keys, "job")
            await wait_until("it was told", lambda: took.events)
            process.terminate()
            _, said = await asyncio.wait_for(process.communicate(), 10)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, said
        assert b"canary" not in said
        assert await held(real_redis, keys, "webhook:one") == 0
