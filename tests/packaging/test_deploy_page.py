"""docs/deploy.md: each command is one that its program and our files know; what it says of settings is so."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import yaml
from deployed import DEPLOY, ROOT, check_command, composed, prepare

from tailrace.gateway.openai.bodies import ChatBody

PAGE: Final = (ROOT / "docs" / "deploy.md").read_text()
BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS: Final = [(found[1], found[2]) for found in BLOCK.finditer(PAGE)]
FILE: Final = composed()
COMPOSE: Final[dict[str, Any]] = FILE["services"]
PROFILES: Final = {profile for service in COMPOSE.values() for profile in service["profiles"]}
OPENAI: Final = tomllib.loads((DEPLOY / "settings/openai.toml").read_text())
DEFAULT_MODEL: Final = OPENAI.get("upstreams", {}).get("default", {}).get("default_model")
#: Of `docker compose`: what each command may be given, and whether a value follows.
COMPOSE_OPTIONS: Final = {
    "up": {"--build": False, "--detach": False, "--wait": False, "--scale": True},
    "build": {"--pull": False},
    "down": {},
    "stop": {},
    "exec": {},
}
#: Objects of deploy/kubernetes that commands name.
OBJECTS: Final = {
    f"{document['kind'].lower()}/{document['metadata']['name']}"
    for file in (DEPLOY / "kubernetes").rglob("*.yaml")
    for document in yaml.safe_load_all(file.read_text())
    if "metadata" in document
}


def commands() -> list[str]:
    joined = [block.replace("\\\n", " ") for kind, block in BLOCKS if kind == "console"]
    lines = [line for block in joined for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line[2:] for line in lines]


def check_compose(words: list[str]) -> None:
    """Raises: AssertionError if the file does not know what is asked for."""
    while words[0] == "--profile":
        assert words[1] in {"*", *PROFILES}
        del words[:2]
    name, *rest = words
    options = COMPOSE_OPTIONS[name]
    services: list[str] = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            assert word in COMPOSE
            services.append(word)
            if name == "exec":
                assert rest.pop(0) == "tailrace"
                check_command(rest)
                # OpenAI refuses a request without one.
                assert rest[0] != "submit" or DEFAULT_MODEL or "--model" in rest
                return
        elif options[word]:
            scaled = rest.pop(0).partition("=")[0]
            # A second one could not have the name or the port of the first.
            assert not {"container_name", "ports"} & set(COMPOSE[scaled])


def check_kubectl(words: list[str]) -> None:
    """Raises: AssertionError if our manifests do not know what is asked for."""
    if words[0] == "--namespace":
        assert f"namespace/{words[1]}" in OBJECTS
        del words[:2]
    match words:
        case ["create", "namespace", name]:
            assert f"namespace/{name}" in OBJECTS
        case ["create", "secret", "generic", name, *files]:
            assert f"secret/{name}" in OBJECTS
            assert all(file.startswith("--from-file=") for file in files)
        case ["apply", "--kustomize", folder]:
            assert (ROOT / folder / "kustomization.yaml").is_file()
        case ["rollout", "status", what]:
            assert what in OBJECTS
        case ["exec", what, "--", "tailrace", *arguments]:
            assert what in OBJECTS
            check_command(arguments)
        case _:
            pytest.fail(f"an unknown command: {words}")


def check_run(words: list[str]) -> None:
    """Raises: AssertionError if the container would lack the image, the network or the secret."""
    assert words.pop(0) == "--rm"
    given = {words.pop(0): words.pop(0) for _ in range(3)}
    image, *command = words
    assert image in {service["image"] for service in COMPOSE.values()}
    assert given["--network"].removeprefix(f"{FILE['name']}_") in FILE["networks"]
    source, inside, how = given["-v"].split(":")
    assert source.removeprefix("$PWD/") in {secret["file"] for secret in FILE["secrets"].values()}
    assert given["-e"] == f"TAILRACE_REDIS_URL_FILE={inside}"
    assert how == "ro"
    check_command(command)


def check_curl(words: list[str]) -> None:
    """Raises: AssertionError if the gateway has no such address, or the body is none that it takes."""
    url = next(word for word in words if word.startswith("http"))
    headers = [words[place + 1] for place, word in enumerate(words) if word == "-H"]
    body = json.loads(words[words.index("-d") + 1])
    assert url.startswith("http://127.0.0.1:8722/v1/")
    assert headers[0] == "Authorization: Bearer $(cat deploy/secrets/gateway_key)"
    request = ChatBody.model_validate(body)
    assert request.stream


def check_rm(words: list[str]) -> None:
    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        gone = {file.name for pattern in words for file in Path(folder).glob(pattern)}
        [password] = (Path(folder) / "deploy/secrets").glob("valkey_password")
        secret = password.read_text().strip()
        assert gone == {file.name for file in password.parent.iterdir() if secret in file.read_text()}


def check_docker(words: list[str]) -> None:
    if words[0] == "compose":
        return check_compose(words[1:])
    if words[0] == "run":
        return check_run(words[1:])
    image = (DEPLOY / "kubernetes/kustomization.yaml").read_text()
    name, _, tag = words[2 if words[0] == "build" else 1].partition(":")
    assert f"name: {name}\n    newTag: {tag}\n" in image
    assert words[0] == "push" or words == ["build", "--tag", f"{name}:{tag}", "."]
    return None


CHECKS: Final[dict[str, Callable[[list[str]], None]]] = {
    "curl": check_curl,
    "docker": check_docker,
    "kubectl": check_kubectl,
    "rm": check_rm,
    "deploy/prepare": lambda words: None if not words else pytest.fail("prepare takes nothing"),
}


@pytest.mark.parametrize("line", commands())
def test_a_command_is_one_that_its_program_and_our_files_know(line: str) -> None:
    words = shlex.split(line)
    while re.match(r"[A-Z_]+=", words[0]):
        assert words.pop(0).startswith("OPENAI_API_KEY=")
    CHECKS[words[0]](words[1:])


def test_every_block_is_looked_at() -> None:
    assert {kind for kind, _ in BLOCKS} == {"console", "sh"}


def test_the_secret_is_made_of_files_that_prepare_makes_and_keys_that_pods_read(tmp_path: Path) -> None:
    prepare(tmp_path)
    [line] = (line for line in commands() if "create secret" in line)
    pairs = dict(re.findall(r"--from-file=([\w.-]+)=(\S+)", line))
    assert [path for path in pairs.values() if not (tmp_path / path).is_file()] == []
    [example] = yaml.safe_load_all((DEPLOY / "kubernetes" / "secret.example.yaml").read_text())
    assert set(pairs) == set(example["stringData"])


def test_what_goes_into_the_env_file_is_what_it_offers(tmp_path: Path) -> None:
    [block] = (block for kind, block in BLOCKS if kind == "sh")
    prepare(tmp_path)
    offered = set(re.findall(r"^#?(\w+)=", (tmp_path / ".env").read_text(), re.MULTILINE))
    chosen = dict(line.split("=") for line in block.splitlines())
    assert set(chosen) <= offered
    assert set(chosen["COMPOSE_PROFILES"].split(",")) <= PROFILES
    assert (DEPLOY / "settings" / f"{chosen['TAILRACE_SETTINGS']}.toml").is_file()


def test_a_shell_reads_the_env_file_that_prepare_writes(tmp_path: Path) -> None:
    prepare(tmp_path)
    said = subprocess.run(
        ["sh", "-c", ". ./.env; echo $COMPOSE_PROFILES"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout == "single\n"


def test_the_profiles_of_the_page_are_those_that_there_are() -> None:
    table = PAGE.split("### Profiles")[1].split("###")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == PROFILES


def test_the_times_of_the_page_are_those_of_the_files() -> None:
    assert "terminationGracePeriodSeconds` (60) above `worker.drain_s` (30)" in PAGE
    assert "`stop_grace_period` and `terminationGracePeriodSeconds` are 60 s" in PAGE
    assert COMPOSE["worker"]["stop_grace_period"] == "60s"
    assert "terminationGracePeriodSeconds: 60" in (DEPLOY / "kubernetes/base/worker.yaml").read_text()
