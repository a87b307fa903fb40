"""The servers of docker-compose.yml: what they are told is what tailrace needs, and six of them become a cluster."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from deployed import DEPLOY, bytes_of, composed, prepare, replaced
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from tailrace.joblog import _server
from tailrace.joblog.suitability import check_server


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return composed()


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return cast("dict[str, dict[str, Any]]", compose["services"])


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


@pytest.mark.parametrize(
    ("told", "made", "code"),
    [
        (["known_nodes:1 state:fail", "known_nodes:6 state:fail", "known_nodes:6 state:ok"], True, 0),
        (["known_nodes:6 state:ok"], False, 0),
        (["known_nodes:16 state:ok"], False, 0),
        # All came back at once: they need a moment.
        (["known_nodes:6 state:fail", "known_nodes:6 state:fail", "known_nodes:6 state:ok"], False, 0),
        (["known_nodes:6 state:fail"], False, 1),
    ],
)
def test_a_cluster_is_made_of_new_nodes_only_and_waited_for(
    services: dict[str, dict[str, Any]], tmp_path: Path, told: list[str], made: bool, code: int
) -> None:
    # `sh -c` as in the container, with a valkey-cli that says what is in the files 1, 2, ..., the last again and again.
    for number, said in enumerate(told, 1):
        (tmp_path / str(number)).write_bytes(b"".join(b"cluster_%s\r\n" % word.encode() for word in said.split()))
    client = tmp_path / "valkey-cli"
    client.write_text(f"""#!/bin/sh
cd {tmp_path}
[ "$1" != --cluster ] || {{ echo "$@" >>made; exit 0; }}
number=$(( $(cat asked 2>/dev/null || echo 0) + 1 ))
[ $number -gt {len(told)} ] && number={len(told)}
echo $number >asked
cat $number
""")
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for stub in (client, tmp_path / "sleep"):
        stub.chmod(0o755)
    (tmp_path / "password").write_text("secret\n")
    shell, flag, script = services["valkey-cluster"]["command"]
    script = script.replace("$$", "$").replace("/run/secrets/valkey_password", str(tmp_path / "password"))
    done = subprocess.run(
        [shell, flag, script],
        env={"PATH": f"{tmp_path}{os.pathsep}/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert (tmp_path / "made").exists() == made
    assert ("not whole" in done.stderr) == (code != 0)


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
