"""docs/deploy.md: each command is one that its program and our files know; what it says of settings is so."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deployed import DEPLOY, ROOT, check_command, prepare

PAGE: Final = (ROOT / "docs" / "deploy.md").read_text()
BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS: Final = [(found[1], found[2]) for found in BLOCK.finditer(PAGE)]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PROFILES: Final = {profile for service in COMPOSE.values() for profile in service["profiles"]}
#: Of `docker compose`: what each command may be given, and whether a value follows.
COMPOSE_OPTIONS: Final = {
    "up": {"--build": False, "--detach": False, "--wait": False, "--scale": True},
    "build": {"--pull": False},
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
        assert words[1] in PROFILES
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


def check_docker(words: list[str]) -> None:
    if words[0] == "compose":
        return check_compose(words[1:])
    image = (DEPLOY / "kubernetes/kustomization.yaml").read_text()
    name, _, tag = words[2 if words[0] == "build" else 1].partition(":")
    assert f"name: {name}\n    newTag: {tag}\n" in image
    assert words[0] == "push" or words == ["build", "--tag", f"{name}:{tag}", "."]
    return None


CHECKS: Final[dict[str, Callable[[list[str]], None]]] = {
    "docker": check_docker,
    "kubectl": check_kubectl,
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
