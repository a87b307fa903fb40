"""A port for metrics beside what a command does."""

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest
from cli_runs import Cli, Start, Started, run

from scraped import Scraped
from tailrace.cli.supervisor import Supervisor
from tailrace.schemas import InvalidRequest, Settings
from tailrace.telemetry import metrics_catalogue as told


def free_ports(count: int) -> int:
    """The first of so many in a row that nobody has."""
    for first in range(20_000, 32_000, count):
        taken: list[socket.socket] = []
        try:
            for port in range(first, first + count):
                taken.append(each := socket.socket())
                each.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for each in taken:
                each.close()
    raise AssertionError("no free ports")


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Status, type and body."""
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def ready(command: Started) -> dict[str, Any]:
    command.wait_for("\n")
    said: dict[str, Any] = json.loads(command.out.splitlines()[0])
    return said


def test_a_worker_shows_its_figures_and_the_fleets(start: Start, cli: Cli, namespace: str) -> None:
    where = ["--namespace", namespace]
    worker = start("worker", "--rehearsal", "--json", "--metrics-port", "0", *where)
    url = ready(worker)["metrics"]
    assert url.startswith("http://127.0.0.1:")
    cli.finished("rehearsal:tokens=4")
    status, kind, body = get(url)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    seen = Scraped(body)
    assert seen(told.BUILD_INFO, role="worker", namespace=namespace) == 1
    assert seen(told.JOBS_CLAIMED) == 1
    assert seen(told.REDIS_UP) == 1
    assert seen(told.WORKERS, state="alive") == 1
    accept = "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.1"
    assert Scraped(get(url, Accept=accept)[2], openmetrics=True)(told.JOBS_CLAIMED) == 1
    assert get(url, "HEAD")[::2] == (200, "")
    assert get(url.replace("/metrics", "/healthz"))[::2] == (200, "ok\n")
    assert get(url.replace("/metrics", "/v1/jobs"))[0] == 404
    assert get(url, "POST")[0] == 405


def test_the_environment_sets_the_port_too(start: Start, namespace: str) -> None:
    worker = start("worker", "--rehearsal", "--json", "--namespace", namespace, TAILRACE_METRICS_PORT="0")
    assert get(ready(worker)["metrics"])[0] == 200


def test_each_of_several_processes_has_a_port_of_its_own(start: Start, cli: Cli, namespace: str) -> None:
    first = free_ports(2)
    where = ["--namespace", namespace, "--metrics-port", str(first)]
    ready(start("worker", "--rehearsal", "--json", "--processes", "2", *where))
    cli.finished("rehearsal:tokens=4")
    pages = [Scraped(get(f"http://127.0.0.1:{port}/metrics")[2]) for port in (first, first + 1)]
    assert sorted(page(told.JOBS_CLAIMED) for page in pages) == [0, 1], "two views of one process would show the same"


async def test_processes_whose_ports_do_not_exist_are_refused() -> None:
    settings = Settings.model_validate({"worker": {"metrics_port": 65_534}})
    with pytest.raises(InvalidRequest, match="begin lower"):
        await Supervisor(settings, 3).run(lambda _: None)


def test_a_gateway_has_an_inner_port_without_keys(start: Start, namespace: str, tmp_path: Any) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('[gateway.tenants.acme]\nkey_env = "ACME_KEY"\n')
    port = free_ports(1)
    where = ["--namespace", namespace, "--config", str(config), "--port", "0", "--metrics-port", str(port)]
    gateway = start("serve", "--json", *where, ACME_KEY="tr_" + "k" * 40)
    main = ready(gateway)["url"]
    assert get(f"{main}/metrics")[0] == 401
    seen = Scraped(get(f"http://127.0.0.1:{port}/metrics")[2])
    assert seen(told.REQUESTS, route="/metrics", status="401") == 1
    assert seen(told.BUILD_INFO, role="gateway") == 1


def test_dev_shows_worker_and_gateway_together(start: Start, namespace: str) -> None:
    console = ready(start("dev", "--rehearsal", "--json", "--port", "0", "--namespace", namespace))["console"]
    seen = Scraped(get(f"{console}metrics")[2])
    assert seen(told.BUILD_INFO, role="dev") == 1
    assert (seen(told.JOBS_CLAIMED), seen(told.STREAMS_OPEN), seen(told.REDIS_UP)) == (0, 0, 1)


def test_a_port_that_is_taken_is_said(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = cli("worker", "--rehearsal", "--json", "--metrics-port", str(taken.getsockname()[1]))
    assert ran.code == 2
    assert "cannot serve metrics on 127.0.0.1" in ran.error["message"]


def test_metrics_without_their_package_name_the_cure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> None:
        return None

    monkeypatch.setattr("tailrace.cli.metrics.find_spec", nothing)
    ran = run("worker", "--metrics-port", "0", "--json")
    assert ran.code == 2
    assert "pip install 'tailrace[metrics]'" in ran.error["message"]
