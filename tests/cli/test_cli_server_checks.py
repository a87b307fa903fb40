"""doctor, and what a worker refuses to start on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Cli, Start, run

from tailrace.cli.doctor import durability
from tailrace.cli.exits import ExitCode
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.suitability import Finding


@pytest.fixture(scope="module")
def evicting() -> Iterator[str]:
    """A server that drops accepted jobs when memory runs short."""
    config = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    with EmbeddedServer(private=True, extra_config=config) as server:
        yield server.url


def test_a_doctor_who_finds_nothing_wrong_ends_well(worked: Cli, rehearsing: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "tailrace.toml"
    config.write_text(f'[upstreams.mine]\nbase_url = "{rehearsing["upstreams"]["default"]}/v1"\napi_key_env = ""\n')
    ran = worked("doctor", "--config", str(config))
    assert ran.code == ExitCode.OK
    assert {line.split()[0] for line in ran.out.splitlines()} == {"ok"}
    for about in ("Valkey", "noeviction", "clock", "'mine'", "arq 0."):
        assert about in ran.out


def test_an_unsuitable_server_is_an_error_with_its_cure(evicting: str) -> None:
    ran = run("doctor", "--json", "--no-upstreams", "--redis-url", evicting)
    assert ran.code == ExitCode.BROKER
    (wrong,) = [finding for finding in ran.objects if finding["level"] == "error"]
    assert (wrong["about"], wrong["code"]) == ("server", "eviction")
    assert "noeviction" in wrong["cure"]


@pytest.mark.parametrize(
    ("config", "terms"),
    [
        ({"appendfsync": "always"}, "fsync always: nothing that was accepted is lost"),
        ({"appendfsync": "everysec"}, "fsync everysec: a crash of the server loses nothing while its disk keeps up"),
        ({"appendfsync": "no"}, "fsync no: a crash of the server loses nothing, a power cut up to half a minute"),
        ({"appendonly": "no"}, "durability: none: a crash of the server or a power cut loses all"),
    ],
)
def test_doctor_says_what_is_lost_at_a_crash_and_at_a_power_cut(config: dict[str, str], terms: str) -> None:
    with EmbeddedServer(private=True, extra_config=config) as server:
        ran = run("doctor", "--json", "--no-upstreams", "--redis-url", server.url)
    (finding,) = [finding for finding in ran.objects if finding["code"] == "durability"]
    assert terms in finding["what"]


@pytest.mark.parametrize(
    ("findings", "terms"),
    [
        ([Finding("warning", "info", "INFO is refused")], "durability: not known"),
        ([Finding("ok", "aof", "on"), Finding("warning", "fsync", "could not check")], "AOF, fsync not known"),
    ],
)
def test_doctor_claims_no_durability_that_it_could_not_see(findings: list[Finding], terms: str) -> None:
    assert terms in durability(findings).what


def test_no_server_is_an_error_and_the_rest_is_still_looked_at() -> None:
    ran = run("doctor", "--json", "--redis-url", "redis://user:secret@127.0.0.1:1")
    assert ran.code == ExitCode.BROKER
    errors = {finding["about"]: finding for finding in ran.objects if finding["level"] == "error"}
    assert errors["server"]["code"] == "unavailable"
    assert errors["upstream"]["code"] == "no_api_key"
    assert all(finding["cure"] for finding in errors.values())
    assert "secret" not in ran.out + ran.err


def test_an_upstream_that_is_not_there_is_an_error_and_its_key_is_not_shown(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    ran = cli("doctor")
    assert ran.code == ExitCode.BROKER
    assert "upstream 'default' at http://127.0.0.1:1 cannot be reached" in ran.out
    assert "secret" not in ran.out + ran.err


def test_a_doctor_without_a_running_embedded_server_starts_none_that_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TAILRACE_DATA", str(tmp_path))
    ran = run("doctor", "--json", "--no-upstreams")
    assert ran.code == ExitCode.OK
    assert next(finding for finding in ran.objects if finding["about"] == "embedded")["code"] == "stopped"
    assert run("stop").out == "it was not running\n"


def test_a_worker_refuses_an_unsuitable_server_and_says_the_cure(evicting: str, start: Start) -> None:
    ran = start("worker", "--rehearsal", "--redis-url", evicting, server=False).ended()
    assert (ran.code, ran.out) == (ExitCode.BROKER, "")
    assert "CONFIG SET maxmemory-policy noeviction" in ran.err
    assert "Traceback" not in ran.err


def test_a_worker_without_a_key_warns_and_never_shows_one(start: Start, namespace: str) -> None:
    worker = start("worker", "--json", "--namespace", namespace, OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    worker.wait_for("set OPENAI_API_KEY", on="err")
    assert "default at http://127.0.0.1:1" in worker.err
