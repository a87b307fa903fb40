"""The container files: valid by the Compose specification, and a server that keeps our promises."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from redis.asyncio import Redis

from tailrace.joblog import _server
from tailrace.joblog.suitability import check_server

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
# github.com/compose-spec/compose-spec, schema/compose-spec.json, Apache-2.0 (compose-spec.LICENSE)
SCHEMA = Path(__file__).with_name("compose-spec.json")

EXACT = re.compile(r"[\w./-]+:\d+\.\d+\.\d+(-\w+)*")
VARIABLE = re.compile(r"\$\{\w+(?::-([^}]*))?\}")


@pytest.fixture
def compose() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(COMPOSE.read_text()))


def validate(document: dict[str, Any]) -> None:
    validator: Any = Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.validate(document)


def test_the_compose_file_follows_the_specification(compose: dict[str, Any]) -> None:
    validate(compose)


def test_the_specification_refuses_a_misspelt_setting(compose: dict[str, Any]) -> None:
    compose["services"]["worker"]["restarts"] = "always"
    with pytest.raises(ValidationError, match="restarts"):
        validate(compose)


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("docker compose is not installed")
    done = subprocess.run([docker, "compose", "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_service_is_watched_and_restarted(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name


def test_images_are_pinned_to_an_exact_version(compose: dict[str, Any]) -> None:
    images = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    images += [service["image"] for service in compose["services"].values() if "build" not in service]
    assert len(images) == 3
    assert [image for image in images if not EXACT.fullmatch(image)] == []


def test_secrets_come_from_the_environment_only(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]["environment"]
    assert worker["OPENAI_API_KEY"] is None
    assert "env_file" not in compose["services"]["worker"]
    assert VARIABLE.sub("", worker["TAILRACE_REDIS_URL"]) == "redis://:@valkey:6379/0"


def test_the_server_is_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["valkey"]["ports"])


def test_the_image_runs_as_nobody_in_particular() -> None:
    last_stage = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)", last_stage, re.MULTILINE)
    assert users
    assert users[-1].partition(":")[0] not in {"root", "0"}


def test_every_file_that_the_image_copies_is_let_through_and_there() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE.read_text(), re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert copied == let_through
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.fixture(params=["", "a-password"])
def served(compose: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A server that runs with the compose file's command line: how to connect to it."""
    values = {"TAILRACE_REDIS_PASSWORD": str(request.param)}
    arguments = [
        VARIABLE.sub(lambda found: values.get(found[0][2:].partition(":")[0], found[1] or ""), argument)
        for argument in compose["services"]["valkey"]["command"]
    ]
    path = str(tmp_path / "s")
    local = ["--port", "0", "--unixsocket", path, "--dir", str(tmp_path)]
    with subprocess.Popen([_server.find_binary(), *arguments[1:], *local], stdout=subprocess.DEVNULL) as server:
        give_up = time.monotonic() + 10
        while not answers(path):
            assert server.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.005)
        yield {"unix_socket_path": path, "password": str(request.param)}
        server.kill()


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


async def test_the_servers_command_line_leaves_nothing_to_complain_of(served: dict[str, str]) -> None:
    async with Redis(unix_socket_path=served["unix_socket_path"], password=served["password"]) as redis:
        findings = await check_server(redis)
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert "of 1024.0" in next(finding.what for finding in findings if finding.code == "memory")
