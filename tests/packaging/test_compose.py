"""docker-compose.yml: valid by the specification, each profile complete by itself, closed to the outside, and understood."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
import yaml
from deployed import DEPLOY, EXACT, ROOT, bytes_of, check_command, named_in, prepare, settings_in, unknown_variables
from jsonschema import Draft202012Validator, ValidationError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from tailrace.joblog import _server
from tailrace.joblog.suitability import check_server
from tailrace.schemas.secrets import FILE

COMPOSE: Final = ROOT / "docker-compose.yml"
# github.com/compose-spec/compose-spec, schema/compose-spec.json, Apache-2.0 (compose-spec.LICENSE)
SCHEMA: Final = Path(__file__).with_name("compose-spec.json")
SETTINGS: Final = sorted((DEPLOY / "settings").glob("*.toml"))
VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
#: What runs by itself; the others run beside one of them.
ALONE: Final = ("single", "cluster")
BESIDE: Final = ("monitoring", "local-model")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(COMPOSE.read_text()))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return cast("dict[str, dict[str, Any]]", compose["services"])


def ours(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The services that run the `tailrace` command."""
    return {name: service for name, service in services.items() if service["image"] == "tailrace:local"}


def replaced(text: str, **values: str) -> str:
    return VARIABLE.sub(lambda found: values.get(found[1], found[2] or ""), text)


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
            assert needed in started, f"{name} needs {needed}"
            watched = not services[needed]["healthcheck"].get("disable")
            wanted = "service_healthy" if watched else "service_completed_successfully"
            assert condition["condition"] == wanted, f"{name} waits for {needed}"


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
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name


def test_every_service_is_without_rights(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "pid", "network_mode", "devices"} & set(service), name
        # Our own images say in the Dockerfile who they run as.
        assert "build" in service or service["user"] not in {"", "0", "root"}, name


def test_images_of_others_are_pinned_to_an_exact_version(services: dict[str, dict[str, Any]]) -> None:
    images = {service["image"] for service in services.values() if "build" not in service}
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


def test_servers_have_twice_the_memory_that_jobs_may_take(services: dict[str, dict[str, Any]]) -> None:
    nodes = {name: service for name, service in services.items() if service.get("command", [""])[0] == "valkey-server"}
    assert len(nodes) == 8
    for name, node in nodes.items():
        most = replaced(node["command"][node["command"].index("--maxmemory") + 1])
        limit = replaced(node["deploy"]["resources"]["limits"]["memory"])
        assert bytes_of(limit) >= 2 * bytes_of(most), name


def test_the_clusters_nodes_are_those_that_it_is_made_of(compose: dict[str, Any], tmp_path: Path) -> None:
    services = compose["services"]
    nodes = [f"valkey-{number}" for number in range(1, 7)]
    addresses = [services[node]["networks"]["cluster"]["ipv4_address"] for node in nodes]
    made_of = re.findall(r"([\d.]+):6379", services["valkey-cluster"]["command"][2])
    assert made_of == addresses
    assert set(services["valkey-cluster"]["depends_on"]) == set(nodes)
    [subnet] = (each["subnet"] for each in compose["networks"]["cluster"]["ipam"]["config"])
    assert all(address.startswith(subnet.removesuffix("0/24")) for address in addresses)
    volumes = [services[node]["volumes"][1].partition(":")[0] for node in (*nodes, "valkey-queue", "valkey")]
    assert len(set(volumes)) == 8
    prepare(tmp_path)
    hosts = re.findall(r"([\w-]+):6379", (tmp_path / "deploy/secrets/cluster_url").read_text().rpartition("@")[2])
    assert set(hosts) <= set(nodes)
    assert "@valkey-queue:6379/0" in (tmp_path / "deploy/secrets/queue_url").read_text()


@contextmanager
def running(service: dict[str, Any], folder: Path) -> Generator[str]:
    """A server with a service's command line, and with what `prepare` made; its socket."""
    places = {"/etc/valkey/": f"{DEPLOY}/valkey/", "/run/secrets/valkey_conf": f"{folder}/deploy/secrets/valkey.conf"}
    arguments = [replaced(argument) for argument in service["command"][1:]]
    for place, here in places.items():
        arguments = [argument.replace(place, here) for argument in arguments]
    (folder / "data").mkdir()
    path = str(folder / "s")
    # A node of a cluster cannot do without a port.
    local = ["--port", str(free_port()), "--bind", "127.0.0.1", "--unixsocket", path]
    command = [_server.find_binary(), *arguments, *local]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder / "data") as server:
        try:
            give_up = time.monotonic() + 10
            while not answers(path):
                assert server.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.005)
            yield path
        finally:
            server.kill()


def free_port() -> int:
    """One whose neighbour 10,000 above is free too: a node of a cluster takes both."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


async def test_the_servers_command_line_leaves_nothing_to_complain_of(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    prepare(tmp_path)
    password = (tmp_path / "deploy/secrets/valkey_password").read_text().strip()
    with running(services["valkey"], tmp_path) as path:
        async with Redis(unix_socket_path=path, password=password) as redis:
            findings = await check_server(redis)
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert "of 1024.0" in next(finding.what for finding in findings if finding.code == "memory")


@pytest.mark.parametrize("name", ["valkey", "valkey-1", "valkey-queue"])
async def test_a_server_asks_for_the_password_and_is_what_its_profile_needs(
    name: str, services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    prepare(tmp_path)
    password = (tmp_path / "deploy/secrets/valkey_password").read_text().strip()
    with running(services[name], tmp_path) as path:
        async with Redis(unix_socket_path=path) as stranger:
            with pytest.raises((AuthenticationError, RedisConnectionError), match="Authentication required"):
                await cast("Any", stranger).ping()
        async with Redis(unix_socket_path=path, password=password, decode_responses=True) as redis:
            settings = await cast("Any", redis).config_get("masterauth", "cluster-enabled", "appendonly")
    clustered = "yes" if name == "valkey-1" else "no"
    assert settings == {"masterauth": password, "cluster-enabled": clustered, "appendonly": "yes"}
