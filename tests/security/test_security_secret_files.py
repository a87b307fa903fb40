"""Each secret is found in the file that its variable's twin names, and nowhere else in the process."""

from pathlib import Path

import pytest

from tailrace.cli.serving import Served
from tailrace.consumer.webhooks.message import Signer as WebhookSigner
from tailrace.gateway.access.keys import Tenants
from tailrace.gateway.access.tokens import Grant, Signer
from tailrace.schemas import InvalidRequest, Settings, UpstreamSettings, WebhookSettings
from tailrace.worker.sources.errors import UpstreamError
from tailrace.worker.upstream_http import build_client

KEY = "tr-0123456789abcdef0123456789abcdef"
SETTINGS = UpstreamSettings(base_url="http://127.0.0.1:1/v1", api_key_env="THE_KEY")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that THE_KEY_FILE names."""
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    monkeypatch.delenv("THE_KEY", raising=False)
    monkeypatch.setenv("THE_KEY_FILE", str(path))
    return path


@pytest.mark.usefixtures("file")
async def test_an_upstreams_key() -> None:
    client, secret = build_client("default", SETTINGS)
    async with client:
        assert client.api_key == secret == KEY


def test_an_upstreams_key_in_an_empty_file_is_missing(file: Path) -> None:
    assert not Served("default", "http://upstream", "THE_KEY").key_missing
    file.write_text("\n")
    assert Served("default", "http://upstream", "THE_KEY").key_missing
    with pytest.raises(UpstreamError, match="THE_KEY"):
        build_client("default", SETTINGS)


def test_an_upstreams_key_whose_file_is_gone_fails_its_jobs_and_names_the_variable(file: Path) -> None:
    file.unlink()
    with pytest.raises(UpstreamError, match="THE_KEY_FILE names cannot be read") as caught:
        build_client("default", SETTINGS)
    assert caught.value.detail.type == "no_api_key"


def test_a_tenants_key(file: Path) -> None:
    tenants = Tenants(Settings.load(gateway={"tenants": {"acme": {"key_env": "THE_KEY"}}}))
    tenants.load()
    found = tenants.with_key(KEY)
    assert found is not None
    assert found.principal.tenant == "acme"


def test_the_secret_of_read_tokens(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(gateway={"token_secret_env": "THE_KEY"})
    token = Signer.of(settings).sign("job", Grant(1, "acme", "i"))
    monkeypatch.delenv("THE_KEY_FILE")
    monkeypatch.setenv("THE_KEY", file.read_text())
    assert Signer.of(settings).read("job", token) == Grant(1, "acme", "i")


def test_a_webhooks_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
    settings = WebhookSettings(url="https://receiver.example.com/", secret_env="HOOK")
    WebhookSigner.of("hook", settings, {"HOOK_FILE": str(path)})
    with pytest.raises(InvalidRequest, match="HOOK"):
        WebhookSigner.of("hook", settings, {})
