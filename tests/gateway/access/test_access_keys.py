"""Keys: whose they are, how they are made and replaced, and that a gateway with tenants lets nobody else in."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from gateways import served
from redis.asyncio import Redis
from tenants import bearer, tenanted

from engine import engine
from tailrace import InvalidRequest, Settings
from tailrace.gateway import create_app
from tailrace.gateway.access import KeyAccess, OpenAccess, hash_key, new_key
from tailrace.gateway.access.keys import Tenants
from tailrace.gateway.serving import server
from tailrace.schemas.sections import TenantSettings


def configured(**tenants: Any) -> Settings:
    return Settings.load(gateway={"tenants": tenants})


def tenants_of(settings: Settings) -> Tenants:
    tenants = Tenants(settings)
    tenants.load()
    return tenants


def name(tenants: Tenants, key: str) -> str | None:
    found = tenants.with_key(key)
    return None if found is None else found.principal.tenant


def test_a_key_is_long_random_and_fit_for_a_header() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith("tr-")
        assert len(key) >= 3 + 43  # 256 bits in base64
        assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_tenant_may_have_several_keys_and_no_key_is_kept() -> None:
    one, two, other = new_key(), new_key(), new_key()
    settings = configured(acme={"key_hashes": [hash_key(one), hash_key(two)]}, other={"key_hashes": [hash_key(other)]})
    tenants = tenants_of(settings)
    assert [name(tenants, each) for each in (one, two, other)] == ["acme", "acme", "other"]
    for wrong in ("", one[:-1], one + "a", one.lower(), hash_key(one), "tr-é"):
        assert name(tenants, wrong) is None
    assert one not in repr(vars(tenants))
    assert hash_key(one) not in repr(settings)


def test_keys_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = new_key(), new_key()
    monkeypatch.setenv("ACME_KEY", f"{old} {new}")
    tenants = tenants_of(configured(acme={"key_env": "ACME_KEY"}))
    assert (name(tenants, old), name(tenants, new)) == ("acme", "acme")
    assert old not in repr(vars(tenants))


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "key_env names 'ACME_KEY', which is not set"), ("", "is not set"), ("a" * 31, "less than 32 characters")],
)
def test_a_key_that_is_missing_or_too_short_stops_the_gateway(
    monkeypatch: pytest.MonkeyPatch, value: str | None, said: str
) -> None:
    monkeypatch.delenv("ACME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("ACME_KEY", value)
    with pytest.raises(InvalidRequest, match=said) as refused:
        create_app(configured(acme={"key_env": "ACME_KEY"}))
    assert not value or value not in str(refused.value)


def test_two_tenants_cannot_have_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    with pytest.raises(InvalidRequest, match="'acme' and 'other' have the same key"):
        configured(acme={"key_hashes": [hash_key(key)]}, other={"key_hashes": [hash_key(key)]})
    monkeypatch.setenv("ACME_KEY", key)
    with pytest.raises(InvalidRequest, match="'acme' and 'other' have the same key"):
        create_app(configured(acme={"key_env": "ACME_KEY"}, other={"key_hashes": [hash_key(key)]}))


@pytest.mark.parametrize(
    ("tenants", "said"),
    [
        ({"acme": {}}, "needs a key"),
        ({"acme": {"key_hashes": ["tr-secret"]}}, "sha256: and 64 hexadecimal digits"),
        ({"acme": {"key_hashes": ["sha256:" + "A" * 64]}}, "sha256: and 64 hexadecimal digits"),
        ({"a.b": {"key_env": "KEY"}}, "is no tenant"),
        ({"a:b": {"key_env": "KEY"}}, "is no tenant"),
        ({"acme": {"key_env": "KEY", "requests_per_minute": 0}}, "requests_per_minute"),
        ({"acme": {"key_env": "KEY", "keys": ["tr-secret"]}}, "keys"),
    ],
)
def test_settings_that_would_let_in_nobody_or_break_a_key_name_are_refused(tenants: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        configured(**tenants)
    assert "tr-secret" not in str(refused.value)


async def test_the_key_is_taken_as_the_openai_sdk_sends_it(real_redis: Redis, namespace: str) -> None:
    async with tenanted(real_redis, namespace, with_worker=False, acme={}) as gateway:
        key = gateway.keys["acme"]
        for header in (f"Bearer {key}", f"bearer {key}", f"BEARER  {key}"):
            answer = await gateway.get("/v1/jobs", headers={"Authorization": header})
            assert answer.status_code == 200, header
        for headers in ({"Authorization": key}, {"Authorization": f"Basic {key}"}, {"x-api-key": key}, {"Cookie": key}):
            assert (await gateway.get("/v1/jobs", headers=headers)).status_code == 401
        assert (await gateway.get(f"/v1/jobs?api_key={key}")).status_code == 401
        answer = await gateway.get("/v1/jobs", headers=bearer(f"{key}x"))
        assert key not in answer.text
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == 'Bearer realm="tailrace", error="invalid_token"'
        assert (await gateway.get("/v1/jobs")).headers["www-authenticate"] == 'Bearer realm="tailrace"'
        # Keys or not, a page's cookies mean nothing here.
        assert "set-cookie" not in answer.headers


def test_with_keys_it_may_listen_anywhere_without_on_loopback_only() -> None:
    keyed = Settings.load(gateway={"host": "0.0.0.0", "tenants": {"acme": {"key_hashes": [hash_key(new_key())]}}})
    app = create_app(keyed)
    assert isinstance(app.state.access, KeyAccess)
    server(app, keyed)
    unkeyed = Settings.load(gateway={"host": "0.0.0.0"})
    app = create_app(unkeyed)
    assert isinstance(app.state.access, OpenAccess)
    with pytest.raises(InvalidRequest, match="no key is configured"):
        server(app, unkeyed)


def write(file: Path, text: str) -> None:
    """As an editor does: a new file in the place of the old one, with another time."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    os.utime(fresh, ns=(0, file.stat().st_mtime_ns + 1 if file.exists() else 0))
    fresh.replace(file)


def table(**keys: str) -> str:
    return "".join(f'[gateway.tenants.{name}]\nkey_hashes = ["{hash_key(key)}"]\n' for name, key in keys.items())


def test_keys_and_limits_change_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tailrace.gateway.access.keys._LOOK_S", 0.0)
    caplog.set_level(logging.INFO)
    file = tmp_path / "tailrace.toml"
    old, new = new_key(), new_key()
    write(file, table(acme=old))
    tenants = tenants_of(Settings.load(config=file))
    before = tenants.with_key(old)
    assert before is not None
    write(file, table(acme=new) + "open_streams = 7\n")
    assert (name(tenants, old), name(tenants, new)) == (None, "acme")
    after = tenants.named("acme")
    assert after is not None
    # The streams that are open stay counted.
    assert after.principal.limits is before.principal.limits
    assert after.principal.limits is not None
    assert after.principal.limits.settings.open_streams == 7
    # A mistake changes nothing, and is said.
    write(file, "no toml")
    assert name(tenants, new) == "acme"
    assert "the tenants stay as they were" in caplog.text
    file.unlink()
    assert name(tenants, new) == "acme"
    # Who takes all keys away locks everybody out: it does not become open.
    write(file, "")
    assert name(tenants, new) is None
    assert "nobody may ask" in caplog.text
    assert old not in caplog.text
    assert hash_key(old) not in caplog.text


async def test_a_key_that_is_taken_out_of_the_file_is_refused_from_then_on(
    real_redis: Redis, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.gateway.access.keys._LOOK_S", 0.0)
    file, old, new = tmp_path / "tailrace.toml", new_key(), new_key()
    write(file, table(acme=old))
    loaded = Settings.load(config=file)
    async with engine(real_redis, namespace, with_worker=False) as running:
        running.settings = running.settings.model_copy(update={"config": file})
        async with served(running, tenants=loaded.gateway.tenants) as gateway:
            made = await gateway.http.post("/v1/jobs", json={"prompt": "a"}, headers=bearer(old))
            path = f"/v1/jobs/{made.json()['id']}"
            token = (await gateway.http.post(f"{path}/tokens", headers=bearer(old))).json()["token"]
            write(file, table(acme=new))
            assert (await gateway.http.get(path, headers=bearer(old))).status_code == 401
            assert (await gateway.http.get(path, headers=bearer(new))).status_code == 200
            assert (await gateway.http.get(f"{path}?token={token}")).status_code == 200
            write(file, table(other=new))
            # A token is worth what its maker is.
            assert (await gateway.http.get(f"{path}?token={token}")).status_code == 401
            assert (await gateway.http.get(path, headers=bearer(new))).status_code == 404


def test_a_tenant_is_shown_without_its_hashes() -> None:
    assert "sha256" not in repr(TenantSettings(key_hashes=(hash_key(new_key()),)))
