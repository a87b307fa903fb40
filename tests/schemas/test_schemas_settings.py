"""Settings: file, environment, overrides, the last one strongest; a mistake is named by the setting it is in."""

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from tailrace.schemas import InvalidRequest, Settings, UpstreamSettings, WorkerSettings


class WriteConfig(Protocol):
    def __call__(self, content: str | bytes) -> None: ...


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "NAMESPACE", "CONFIG", "QUEUE_CAPACITY", "LIMITS", "UPSTREAMS", "WORKER"):
        monkeypatch.delenv(f"TAILRACE_{name}", raising=False)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteConfig:
    """Writes the file that TAILRACE_CONFIG names."""

    def write(content: str | bytes) -> None:
        path = tmp_path / "tailrace.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.setenv("TAILRACE_CONFIG", str(path))

    return write


def test_without_anything_set_there_are_defaults_and_a_default_upstream() -> None:
    settings = Settings.load()
    assert settings.redis_url is None
    assert settings.namespace == "tailrace"
    assert settings.upstream("default") == UpstreamSettings()
    assert settings.upstream("other") is None


def test_the_example_in_the_docstring_is_a_valid_file(config: WriteConfig) -> None:
    from tailrace.schemas import settings as module

    config((module.__doc__ or "").split("```toml\n")[1].split("```")[0])
    settings = Settings.load()
    assert settings.upstreams["default"].fallback == "local"
    assert settings.upstreams["local"].concurrency == 4
    assert settings.worker.max_jobs == 100


def test_the_environment_is_stronger_than_the_file_and_an_override_stronger_than_both(
    config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config('namespace = "file"\nqueue_capacity = 1\nredis_url = "redis://file"')
    monkeypatch.setenv("TAILRACE_NAMESPACE", "environment")
    monkeypatch.setenv("TAILRACE_QUEUE_CAPACITY", "2")
    settings = Settings.load(queue_capacity=3, redis_url=None)
    assert (settings.redis_url, settings.namespace, settings.queue_capacity) == ("redis://file", "environment", 3)


def test_sections_are_merged_setting_by_setting(config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config("[worker]\nlease_s = 2\nmax_jobs = 7\n[upstreams.file]\nbase_url = 'http://127.0.0.1:1/v1'")
    monkeypatch.setenv("TAILRACE_WORKER", json.dumps({"max_jobs": 5}))
    settings = Settings.load(
        worker=WorkerSettings(drain_s=1), upstreams={"given": UpstreamSettings(base_url="http://127.0.0.1:2/v1")}
    )
    assert settings.worker == WorkerSettings(lease_s=2, max_jobs=5, drain_s=1)
    assert sorted(settings.upstreams) == ["file", "given"]


def test_an_empty_variable_is_no_setting(config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config('redis_url = "redis://file"')
    for name in ("REDIS_URL", "NAMESPACE", "WORKER"):
        monkeypatch.setenv(f"TAILRACE_{name}", "")
    assert Settings.load() == Settings.load(redis_url="redis://file", namespace="tailrace")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("nonsense = 1", "'nonsense'"),
        ("[worker]\nlease = 3", r"'worker\.lease'"),
        ("[worker]\nlease_s = 0", r"'worker\.lease_s'"),
        ("[limits]\ntext = 1", r"'limits\.text'"),
        ("[upstreams.a]\nurl = 'x'", r"'upstreams\.a\.url'"),
        ("[upstreams.a]\napi_key = 'sk-1'", r"'upstreams\.a\.api_key'"),
        ("[upstreams.a]\nmax_retries = 11", r"'upstreams\.a\.max_retries'"),
        ("[upstreams.a]\nfallback = 'b'\n[upstreams.c]", r"'upstreams'.*'a' falls back to 'b'.*none of: c, default"),
        ("[upstreams.a]\nfallback = 'a'", r"'a' falls back to 'a'"),
        ("namespace = 'a b'", "'namespace'.*is no namespace"),
        ("queue_capacity = -1", "'queue_capacity'"),
    ],
)
def test_a_mistake_in_the_file_is_named_by_its_setting(config: WriteConfig, content: str, names: str) -> None:
    config(content)
    with pytest.raises(InvalidRequest, match=names):
        Settings.load()


def test_an_error_never_shows_what_was_set(config: WriteConfig) -> None:
    config("[upstreams.a]\napi_key = 'sk-secret'")
    with pytest.raises(InvalidRequest) as caught:
        Settings.load()
    assert "sk-secret" not in str(caught.value)


def test_the_default_upstream_can_be_fallen_back_to_without_being_named(config: WriteConfig) -> None:
    config("[upstreams.a]\nfallback = 'default'")
    assert Settings.load().upstreams["a"].fallback == "default"


@pytest.mark.parametrize("content", ["x =", b"\xff = 1"])
def test_a_file_that_is_no_toml_is_told(config: WriteConfig, content: str | bytes) -> None:
    config(content)
    with pytest.raises(InvalidRequest, match="is no TOML"):
        Settings.load()


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_CONFIG", str(tmp_path / name))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Settings.load()


def test_a_section_in_the_environment_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_WORKER", "max_jobs=5")
    with pytest.raises(InvalidRequest, match="worker"):
        Settings.load()


@pytest.mark.parametrize("overrides", [{"namespace": "a b"}, {"queue_capacity": "many"}, {"colour": "blue"}])
def test_a_wrong_override_is_named(overrides: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(overrides))):
        Settings.load(**overrides)


def test_a_url_is_read_from_the_file_that_its_variable_names(
    config: WriteConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config('redis_url = "redis://table"\nnamespace = "table"')
    secret = tmp_path / "redis_url"
    secret.write_text("redis://:pa@ss@file:6379/0\n")
    monkeypatch.setenv("TAILRACE_REDIS_URL_FILE", str(secret))
    assert Settings.load().redis_url == "redis://:pa@ss@file:6379/0"
    assert Settings.load(redis_url="redis://given").redis_url == "redis://given"
    assert Settings.load().namespace == "table"
    monkeypatch.setenv("TAILRACE_QUEUE_URL_FILE", str(secret))
    assert Settings.load().queue_url == "redis://:pa@ss@file:6379/0"


def test_an_empty_file_of_a_url_is_no_setting(
    config: WriteConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config('redis_url = "redis://table"')
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv("TAILRACE_REDIS_URL_FILE", str(tmp_path / "empty"))
    assert Settings.load().redis_url == "redis://table"


def test_only_what_is_not_shown_is_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "name").write_text("file")
    monkeypatch.setenv("TAILRACE_NAMESPACE_FILE", str(tmp_path / "name"))
    assert Settings.load().namespace == "tailrace"


@pytest.mark.parametrize(
    ("value", "file", "says"), [("redis://a", "there", "both set"), ("", "missing", "cannot be read")]
)
def test_a_url_in_two_places_or_in_none_is_told_by_its_variable(
    value: str, file: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "there").write_text("redis://:secret@b")
    monkeypatch.setenv("TAILRACE_REDIS_URL", value)
    monkeypatch.setenv("TAILRACE_REDIS_URL_FILE", str(tmp_path / file))
    with pytest.raises(InvalidRequest, match=f"TAILRACE_REDIS_URL.*{says}") as caught:
        Settings.load()
    assert "secret" not in str(caught.value)
