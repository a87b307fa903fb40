"""docker-compose.yml: valid by the specification, each profile complete by itself, closed to the outside, and understood."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final, cast

import pytest
from deployed import (
    COMPOSE,
    DEPLOY,
    EXACT,
    ROOT,
    VARIABLE,
    check_command,
    composed,
    named_in,
    prepare,
    settings_in,
    unknown_variables,
)
from jsonschema import Draft202012Validator, ValidationError

from tailrace.joblog import _server
from tailrace.schemas.secrets import FILE

# github.com/compose-spec/compose-spec, schema/compose-spec.json, Apache-2.0 (compose-spec.LICENSE)
SCHEMA: Final = Path(__file__).with_name("compose-spec.json")
SETTINGS: Final = sorted((DEPLOY / "settings").glob("*.toml"))
#: What runs by itself; the others run beside one of them.
ALONE: Final = ("single", "cluster")
BESIDE: Final = ("monitoring", "local-model")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return composed()


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return cast("dict[str, dict[str, Any]]", compose["services"])


def ours(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The services that run the `tailrace` command."""
    return {name: service for name, service in services.items() if service["image"] == "tailrace:local"}


def built(services: dict[str, dict[str, Any]]) -> set[str]:
    """The images that are our own."""
    return {service["image"] for service in services.values() if "build" in service}


def validate(document: dict[str, Any]) -> None:
    validator: Any = Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.validate(document)


def test_the_compose_file_follows_the_specification(compose: dict[str, Any]) -> None:
    validate(compose)


def test_the_specification_refuses_a_misspelt_setting(compose: dict[str, Any]) -> None:
    worker = {**compose["services"]["worker"], "restarts": "always"}
    with pytest.raises(ValidationError, match="restarts"):
        validate({**compose, "services": {"worker": worker}})


@pytest.mark.parametrize("profiles", [[*ALONE, *BESIDE], *([each] for each in (*ALONE, *BESIDE))])
def test_docker_compose_accepts_the_file(profiles: list[str]) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("docker compose is not installed")
    chosen = [part for each in profiles for part in ("--profile", each)]
    command = [docker, "compose", "-f", str(COMPOSE), *chosen, "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_service_is_of_one_profile(services: dict[str, dict[str, Any]]) -> None:
    assert {name: service["profiles"] for name, service in services.items() if len(service["profiles"]) != 1} == {}
    assert {service["profiles"][0] for service in services.values()} == {*ALONE, *BESIDE}


@pytest.mark.parametrize("profile", [*ALONE, *BESIDE])
def test_a_profile_needs_nothing_that_it_does_not_start(services: dict[str, dict[str, Any]], profile: str) -> None:
    started = {name for name, service in services.items() if profile in service["profiles"]}
    for name in started:
        for needed, condition in services[name].get("depends_on", {}).items():
            assert needed in started or condition.get("required") is False, f"{name} needs {needed}"
            watched = not services[needed]["healthcheck"].get("disable")
            wanted = "service_healthy" if watched else "service_completed_successfully"
            assert condition["condition"] == wanted, f"{name} waits for {needed}"


def test_a_draining_worker_still_has_its_local_model(services: dict[str, dict[str, Any]]) -> None:
    workers = [service for service in ours(services).values() if service["command"][0] == "worker"]
    assert len(workers) == 2
    for worker in workers:
        # Compose stops a service before those that it depends on. Optional: the model is of another profile.
        assert worker["depends_on"]["local-model"] == {"condition": "service_healthy", "required": False}


@pytest.mark.parametrize("profile", ALONE)
def test_an_image_is_built_once_and_never_looked_for_elsewhere(
    services: dict[str, dict[str, Any]], profile: str
) -> None:
    started = [service for service in services.values() if profile in service["profiles"]]
    # Two builds of one name end in `image ... already exists` with the containerd image store.
    assert [service["image"] for service in started if "build" in service] == ["tailrace:local"]
    assert {service.get("pull_policy") for service in started if service["image"] == "tailrace:local"} == {"never"}


@pytest.mark.parametrize(("profile", "kinds"), [("single", 3), ("cluster", 10)])
def test_a_profile_that_runs_alone_has_server_worker_and_gateway(
    services: dict[str, dict[str, Any]], profile: str, kinds: int
) -> None:
    started = {name: service for name, service in services.items() if profile in service["profiles"]}
    assert len(started) == kinds
    assert {service["command"][0] for service in ours(started).values()} == {"worker", "serve"}


def test_every_volume_secret_and_network_that_is_used_exists_and_the_reverse(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    used: dict[str, set[str]] = {"volumes": set(), "secrets": set(), "networks": set()}
    for service in services.values():
        sources = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        used["volumes"] |= {source for source in sources if not source.startswith(".")}
        assert [source for source in sources if source.startswith(".") and not (ROOT / source).is_dir()] == []
        used["secrets"] |= set(service.get("secrets", []))
        used["networks"] |= set(service["networks"])
    assert used == {kind: set(compose[kind]) for kind in used}


def test_every_service_is_watched_restarted_and_limited(services: dict[str, dict[str, Any]]) -> None:
    jobs = {name for name, service in services.items() if service["healthcheck"].get("disable")}
    assert jobs == {"valkey-cluster"}
    for name, service in services.items():
        assert service["restart"] == ("on-failure:10" if name in jobs else "unless-stopped"), name
        assert name in jobs or service["healthcheck"]["test"], name
        # No limit of CPUs: Docker refuses to create a container with more than the machine has.
        assert set(service["deploy"]["resources"]["limits"]) == {"memory", "pids"}, name
        assert service["cpu_shares"], name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_every_service_is_without_rights(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "pid", "network_mode", "devices"} & set(service), name
        # Our own images say in the Dockerfile who they run as.
        assert service["image"] in built(services) or service["user"] not in {"", "0", "root"}, name


def test_images_of_others_are_pinned_to_an_exact_version(services: dict[str, dict[str, Any]]) -> None:
    images = {service["image"] for service in services.values()} - built(services)
    assert len(images) == 3
    assert [image for image in images if not EXACT.fullmatch(image)] == []


def test_the_server_is_of_the_version_that_the_tests_run_on(services: dict[str, dict[str, Any]]) -> None:
    said = subprocess.run([_server.find_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=([\d.]+)", said)
    if "Valkey" not in said or found is None:
        pytest.skip("the embedded server is another one here")
    assert services["valkey"]["image"] == f"valkey/valkey:{found[1]}-alpine"


def test_only_gateway_and_dashboards_are_reachable_and_from_this_machine_only(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"gateway", "gateway-cluster", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    networks: dict[str, Any] = compose["networks"]
    internal = {name for name, network in networks.items() if network is not None and network["internal"]}
    for name, service in services.items():
        outward = set(service["networks"]) - internal
        # Workers go out to the upstreams; a port is published where the network is not internal.
        assert outward == ({"outside"} if name in published or "worker" in name else set()), name


def test_every_command_line_is_one_that_tailrace_takes(services: dict[str, dict[str, Any]]) -> None:
    assert set(ours(services)) == {"worker", "gateway", "worker-cluster", "gateway-cluster"}
    for service in ours(services).values():
        check_command(service["command"])


def test_a_command_line_that_tailrace_does_not_take_is_noticed() -> None:
    with pytest.raises(ValueError, match="--process"):
        check_command(["worker", "--process", "2"])
    with pytest.raises(ValueError, match="work"):
        check_command(["work"])


def test_every_variable_is_one_that_somebody_reads(services: dict[str, dict[str, Any]]) -> None:
    for name, service in ours(services).items():
        assert unknown_variables(service["environment"], SETTINGS) == set(), name
    assert unknown_variables({"TAILRACE_REDIS": "", "OPENAI_KEY_FILE": "", "PATH": ""}, SETTINGS) == {
        "TAILRACE_REDIS",
        "OPENAI_KEY_FILE",
    }


def test_secrets_are_files_that_prepare_makes_and_services_get_those_that_they_read(
    compose: dict[str, Any], services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    prepare(tmp_path)
    for name, secret in compose["secrets"].items():
        assert set(secret) == {"file"}, name
        assert (tmp_path / secret["file"]).is_file(), name
    for name, service in services.items():
        said = json.dumps([service.get("environment"), service.get("command"), service["healthcheck"]])
        read = set(re.findall(r"/run/secrets/(\w+)", said))
        assert read == set(service.get("secrets", [])), name
        written = {key: value for key, value in service.get("environment", {}).items() if value is not None}
        assert [key for key in written if key.endswith(("_KEY", "_PASSWORD", "_URL", "_SECRET"))] == [], name


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.name)
def test_the_settings_are_valid_and_what_they_name_is_handed_in(
    file: Path, services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(file, monkeypatch)
    assert settings.gateway.tenants, "a gateway on 0.0.0.0 does not start without keys"
    handed = {key for service in ours(services).values() for key in service["environment"]}
    assert {name + FILE for name in named_in(file)} <= handed
    for name, service in ours(services).items():
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        assert service["command"][0] != "worker" or grace_s >= settings.worker.drain_s + 15, name


def test_the_local_models_settings_find_it(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = settings_in(DEPLOY / "settings" / "local-model.toml", monkeypatch).upstreams["default"]
    model = services["local-model"]
    port = model["command"][model["command"].index("--port") + 1]
    assert upstream.base_url == f"http://local-model:{port}/v1"
    assert set(model["networks"]) <= set(services["worker"]["networks"])


def test_the_local_models_command_line_is_one_that_it_takes(services: dict[str, dict[str, Any]]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "tailrace.upstreams.local_model"]' in dockerfile
    source = (ROOT / "src/tailrace/upstreams/local_model.py").read_text()
    for option in services["local-model"]["command"][::2]:
        assert f'add_argument("{option}"' in source


def test_every_choice_is_in_the_env_file_that_prepare_writes(tmp_path: Path) -> None:
    prepare(tmp_path)
    written = (tmp_path / ".env").read_text()
    offered = dict(re.findall(r"^#(TAILRACE_\w+)=(.*)$", written, re.MULTILINE))
    used = {found[1]: found[2] for found in VARIABLE.finditer(COMPOSE.read_text())}
    assert offered == used
    assert re.findall(r"^(\w+)=(.*)$", written, re.MULTILINE) == [("COMPOSE_PROFILES", "single")]


def test_prepare_keeps_what_is_there_and_takes_a_key_that_comes_later(tmp_path: Path) -> None:
    prepare(tmp_path)
    folder = tmp_path / "deploy" / "secrets"
    before = {file.name: file.read_text() for file in folder.iterdir()}
    assert before.pop("openai_api_key") == "\n"
    assert len(set(before.values())) == len(before)
    (tmp_path / ".env").write_text("COMPOSE_PROFILES=cluster\n")
    prepare(tmp_path, OPENAI_API_KEY="sk-1")
    prepare(tmp_path, OPENAI_API_KEY="sk-2")
    after = {file.name: file.read_text() for file in folder.iterdir()}
    assert after.pop("openai_api_key") == "sk-1\n"
    assert after == before
    assert (tmp_path / ".env").read_text() == "COMPOSE_PROFILES=cluster\n"


def test_secrets_are_for_their_owner_and_for_any_user_of_a_container(tmp_path: Path) -> None:
    prepare(tmp_path)
    folder = tmp_path / "deploy" / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    assert {"/.env", "/deploy/secrets/"} <= set((ROOT / ".gitignore").read_text().splitlines())
    assert not (folder / "gateway_key").read_text().startswith("sk-")
    assert len((folder / "gateway_key").read_text().strip()) >= 32


def test_what_a_strict_umask_has_kept_from_containers_is_made_readable(tmp_path: Path) -> None:
    (tmp_path / "deploy" / "settings").mkdir(parents=True)
    settings = tmp_path / "deploy" / "settings" / "own.toml"
    settings.write_text("")
    (tmp_path / "deploy" / "secrets").mkdir()
    key = tmp_path / "deploy" / "secrets" / "openai_api_key"
    key.write_text("sk-1\n")
    settings.chmod(0o600)
    settings.parent.chmod(0o700)
    key.chmod(0o600)
    prepare(tmp_path)
    assert settings.stat().st_mode & 0o777 == 0o644
    assert settings.parent.stat().st_mode & 0o777 == 0o755
    assert key.stat().st_mode & 0o777 == 0o644
    assert key.parent.stat().st_mode & 0o777 == 0o700
