"""Read tokens: good for reading one job for a while, for nothing else, and in no log."""

import base64
import logging
from typing import Any

import pytest
from gateways import raw, served
from redis.asyncio import Redis
from tenants import ENDLESS, Tenanted, tenanted
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from engine import engine, wait_until
from tailrace import InvalidRequest, Settings
from tailrace.gateway import create_app
from tailrace.gateway.access.tokens import Grant, Signer
from tailrace.joblog import Broker

READ = ("", "/stream", "/events", "/records")


async def refusal(gateway: Tenanted, path: str, method: str = "GET", **more: Any) -> tuple[int, str]:
    answer = await gateway.ask(method, path, **more)
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_token_reads_its_job_without_a_key(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, acme={}) as gateway:
        job_id = await gateway.submit("acme")
        made = (await gateway.post(f"/v1/jobs/{job_id}/tokens", "acme")).json()
        now_ms = await Broker(real_redis).now_ms()
        assert now_ms + 290_000 < made["expires_at"] <= now_ms + 300_000
        stream = await gateway.get(made["url"])
        assert made["url"].startswith(f"/v1/jobs/{job_id}/stream?")
        assert (stream.status_code, "event: end" in stream.text) == (200, True)
        for path in READ:
            assert (await gateway.get(f"/v1/jobs/{job_id}{path}?token={made['token']}")).status_code == 200


async def test_a_browser_comes_back_with_its_token_and_its_position(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, acme={}) as gateway:
        job_id = await gateway.submit("acme", model="rehearsal:fault=endless,pace=0.01")
        url = f"/v1/jobs/{job_id}/stream?token={await gateway.token('acme', job_id)}"
        async with raw(gateway.served, url) as reader:
            await reader.read_text(3)
        async with raw(gateway.served, url, f"Last-Event-ID: {reader.sse.messages[1].last_id}") as again:
            await again.read_text(2)
        assert again.sse.messages[0] == reader.sse.messages[2]


async def test_a_token_writes_nothing_and_reads_nothing_else(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, acme={}) as gateway:
        job_id = await gateway.submit("acme", model=ENDLESS)
        token = await gateway.token("acme", job_id)
        other = await gateway.submit("acme")
        for path in READ:
            assert await refusal(gateway, f"/v1/jobs/{other}{path}?token={token}") == (401, "invalid_token")
        for method, path in (
            ("GET", "/v1/jobs"),
            ("POST", f"/v1/jobs/{job_id}/cancel"),
            ("POST", f"/v1/jobs/{job_id}/tokens"),
            ("DELETE", f"/v1/jobs/{job_id}"),
        ):
            assert (await refusal(gateway, f"{path}?token={token}", method)) == (401, "missing_api_key"), path
        assert (await refusal(gateway, f"/v1/jobs?token={token}", "POST", json={"prompt": "a"}))[0] == 401
        cancelling = f"/v1/jobs/{job_id}/stream?token={token}&cancel_on_disconnect=true"
        assert await refusal(gateway, cancelling) == (403, "read_only")
        assert (await gateway.get(f"/v1/jobs/{job_id}", "acme")).json()["status"] in ("queued", "in_progress")


async def test_what_is_no_token_is_refused(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}) as gateway:
        job_id = await gateway.submit("acme")
        token = await gateway.token("acme", job_id)
        expires, tenant, incarnation, mac = token.split(".")
        later = str(int(expires) + 1)
        unpadded = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
        for wrong in (
            "",
            "...",
            "é.é",
            "a.b.c.d.e",
            "%00",
            ".".join((expires, tenant, incarnation)),
            ".".join((expires, tenant, incarnation, unpadded)),
            ".".join((later, tenant, incarnation, mac)),
            ".".join((expires, "other", incarnation, mac)),
            ".".join((expires, tenant, "0" * 16, mac)),
            f"{token}=",
            f" {token}",
        ):
            answer = await gateway.get(f"/v1/jobs/{job_id}", params={"token": wrong})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token"), wrong
            assert answer.headers["www-authenticate"] == 'Bearer realm="tailrace", error="invalid_token"'
        assert (await gateway.get(f"/v1/jobs/{job_id}", params={"token": token})).status_code == 200


async def test_a_token_expires_by_the_servers_clock(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}) as gateway:
        job_id = await gateway.submit("acme")
        path = f"/v1/jobs/{job_id}?token={await gateway.token('acme', job_id, expires_in_s=1)}"
        assert (await gateway.get(path)).status_code == 200

        async def has_expired() -> bool:
            return bool((await gateway.get(path)).status_code == 401)

        await wait_until("the token has expired", has_expired)
        assert await refusal(gateway, path) == (401, "token_expired")
        for seconds in (0, -1, 86_401, "x"):
            asked = {"expires_in_s": seconds}
            assert (await gateway.post(f"/v1/jobs/{job_id}/tokens", "acme", json=asked)).status_code == 422


async def test_a_token_is_worth_what_its_maker_may_do(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}, admin={"sees_all": True}) as gateway:
        job_id = await gateway.submit("acme")
        token = await gateway.token("admin", job_id)
        assert (await gateway.get(f"/v1/jobs/{job_id}?token={token}")).status_code == 200


async def test_a_token_is_not_good_for_a_later_job_of_the_same_id(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}) as gateway:
        job_id = await gateway.submit("acme", "again")
        path = f"/v1/jobs/{job_id}?token={await gateway.token('acme', job_id)}"
        keys = gateway.served.engine.settings.keys
        # As when its time is over.
        await Broker(real_redis).call("DEL", keys.log(job_id), keys.request(job_id))
        assert (await gateway.get(path)).status_code == 404
        await Broker(real_redis).call("ZREM", keys.queue, keys.queued(job_id))
        await gateway.submit("acme", "again")
        assert (await gateway.get(path)).status_code == 404


async def test_neither_key_nor_token_is_in_any_log(
    real_redis: Redis, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}) as gateway:
        job_id = await gateway.submit("acme")
        token = await gateway.token("acme", job_id)
        caplog.clear()
        caplog.set_level(logging.DEBUG)
        for path in (*READ[:1], "/nope", "/tokens", "/cancel"):
            await gateway.get(f"/v1/jobs/{job_id}{path}?token={token}")
        await gateway.get(f"/v1/jobs/other?token={token}")
        async with raw(gateway.served, f"/v1/jobs/{job_id}/stream?token={token}") as reader:
            await reader.read(until=lambda: True)
        url = f"{gateway.served.url.replace('http', 'ws')}/v1/jobs/{job_id}/stream?a=b&%74oken={token}"
        with pytest.raises(InvalidStatus):
            await connect(url, additional_headers=gateway.of("acme"))

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(gateway.served.engine.tailrace.consumer, "look", broken)
        assert (await gateway.get(f"/v1/jobs/{job_id}?token={token}")).status_code == 500
        monkeypatch.undo()
        logged = [
            each for each in caplog.records if not each.name.startswith(("httpx2", "httpcore2", "websockets.client"))
        ]
        assert {"tailrace.access", "uvicorn.error"} <= {each.name for each in logged}
        formatter = logging.Formatter()
        for each in logged:
            text = formatter.format(each)
            assert token not in text
            assert token.rpartition(".")[2] not in text
            assert gateway.keys["acme"] not in text


def test_gateways_that_share_a_secret_take_one_anothers_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "o" * 32, "n" * 32
    grant = Grant(1, "acme", "ab")

    def signer(*secrets: str, namespace: str = "one") -> Signer:
        monkeypatch.setenv("SECRET", " ".join(secrets))
        return Signer.of(Settings.load(namespace=namespace, gateway={"token_secret_env": "SECRET"}))

    token = signer(old).sign("job", grant)
    assert signer(old).read("job", token) == grant
    assert signer(new, old).read("job", token) == grant  # being replaced
    assert signer(old).read("job", signer(new, old).sign("job", grant)) is None
    assert signer(new).read("job", token) is None
    assert signer(old, namespace="two").read("job", token) is None
    assert signer(old).read("job2", token) is None


@pytest.mark.parametrize("value", [None, "", "short"])
def test_a_secret_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("SECRET", value)
    with pytest.raises(InvalidRequest, match="SECRET must be set to a secret of at least 32 characters"):
        create_app(Settings.load(gateway={"token_secret_env": "SECRET"}))


def test_a_secret_of_the_processs_own_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    signer, other = Signer.of(Settings()), Signer.of(Settings())
    grant = Grant(1, "acme", "ab")
    token = signer.sign("job", grant)
    signer.sign("job", grant)
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "token_secret_env" in caplog.text
    assert signer.read("job", token) == grant
    assert other.read("job", token) is None


async def test_without_keys_a_token_does_no_harm(real_redis: Redis, namespace: str) -> None:
    """So a page need not know whether there are keys."""
    async with engine(real_redis, namespace, with_worker=False) as running, served(running) as gateway:
        await running.tailrace.submit("hello", job_id="mine")
        made = (await gateway.http.post("/v1/jobs/mine/tokens")).json()
        assert (await gateway.http.get(f"/v1/jobs/mine?token={made['token']}")).status_code == 200
