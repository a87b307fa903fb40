"""deploy/kubernetes: valid by Kubernetes' own schemas, without rights, complete, and understood by tailrace."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deployed import DEPLOY, EXACT, ROOT, bytes_of, check_command, named_in, prepare, settings_in, unknown_variables

from tailrace.schemas.secrets import FILE
from tailrace.telemetry.metrics_catalogue import CATALOGUE

FOLDER: Final = DEPLOY / "kubernetes"
BASE: Final = FOLDER / "base"
SETTINGS: Final = BASE / "tailrace.toml"
#: The oldest and the newest that the manifests are meant for and the validator knows.
VERSIONS: Final = ("1.30", "1.35")
#: No part of Kubernetes; their fields are looked at below.
CUSTOM: Final = {"ScaledObject", "PodMonitor"}

#: By name: it has no types.
kubernetes: Final[Any] = import_module("kubernetes_validate")


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


FILES: Final = [file for file in sorted(FOLDER.rglob("*.yaml")) if file.name != "kustomization.yaml"]
ALL: Final = [
    pytest.param(document, id=f"{document['kind']}/{document['metadata']['name']}")
    for file in FILES
    for document in documents(file)
]
OBJECTS: Final = {
    (document["kind"], document["metadata"]["name"]): document for file in FILES for document in documents(file)
}
WORKLOADS: Final = [OBJECTS["Deployment", "tailrace-worker"], OBJECTS["Deployment", "tailrace-gateway"],
                    OBJECTS["StatefulSet", "valkey"]]  # fmt: skip
OURS: Final = WORKLOADS[:2]

each_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each["metadata"]["name"])
each_of_ours = pytest.mark.parametrize("workload", OURS, ids=lambda each: each["metadata"]["name"])


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def container_of(workload: dict[str, Any]) -> dict[str, Any]:
    [container] = pod_of(workload)["containers"]
    found: dict[str, Any] = container
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", ALL)
def test_every_manifest_is_valid_and_has_no_field_that_is_none(document: dict[str, Any], version: str) -> None:
    if document["kind"] in CUSTOM:
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        return
    assert kubernetes.validate(document, version, strict=True) == version


def test_a_misspelt_field_is_refused() -> None:
    worker = json.loads(json.dumps(OURS[0]))
    pod_of(worker)["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes.ValidationError, match="terminationGracePeriod"):
        kubernetes.validate(worker, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    "folder", [BASE, FOLDER / "autoscaling", FOLDER / "monitoring"], ids=lambda folder: folder.name
)
def test_a_kustomization_names_every_file_beside_it(folder: Path) -> None:
    [kustomization] = documents(folder / "kustomization.yaml")
    there = {file.name for file in folder.iterdir()} - {"kustomization.yaml"}
    made = {file for each in kustomization.get("configMapGenerator", []) for file in each["files"]}
    assert set(kustomization["resources"]) | made == there
    mounted = {
        volume["configMap"]["name"] for each in WORKLOADS for volume in pod_of(each)["volumes"] if "configMap" in volume
    }
    assert folder != BASE or mounted == {each["name"] for each in kustomization["configMapGenerator"]}


def built(folder: Path) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    # It needs no cluster for this, and is told of none.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": os.devnull}
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.mark.parametrize("components", [[], ["autoscaling", "monitoring"]], ids=["alone", "with-components"])
def test_kustomize_builds_what_is_valid(components: list[str], tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    file = tmp_path / "kubernetes" / "kustomization.yaml"
    [kustomization] = documents(file)
    assert set(re.findall(r"^#  - (\w+)", file.read_text(), re.MULTILINE)) == {"autoscaling", "monitoring"}
    file.write_text(yaml.safe_dump({**kustomization, "components": components}))
    made = built(tmp_path / "kubernetes")
    assert {document["kind"] for document in made} & CUSTOM == (CUSTOM if components else set())
    for document in made:
        if document["kind"] not in CUSTOM:
            kubernetes.validate(document, VERSIONS[-1], strict=True)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "tailrace"
    [worker] = (each for each in made if (each["kind"], each["metadata"]["name"]) == ("Deployment", "tailrace-worker"))
    # The autoscaler says how many; a number here would set it back at each `apply`.
    assert ("replicas" in worker["spec"]) == (not components)
    [volume] = (each for each in pod_of(worker)["volumes"] if each["name"] == "settings")
    assert volume["configMap"]["name"] in {each["metadata"]["name"] for each in made if each["kind"] == "ConfigMap"}


@each_workload
def test_pods_have_no_rights(workload: dict[str, Any]) -> None:
    pod, container = pod_of(workload), container_of(workload)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert min(pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")) > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    enforced = OBJECTS["Namespace", "tailrace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"


@each_workload
def test_pods_are_watched_limited_and_of_exact_versions(workload: dict[str, Any]) -> None:
    container = container_of(workload)
    assert EXACT.fullmatch(container["image"])
    assert {"cpu", "memory"} == set(container["resources"]["requests"])
    assert bytes_of(container["resources"]["limits"]["memory"]) >= bytes_of(
        container["resources"]["requests"]["memory"]
    )
    ports = {port["name"] for port in container["ports"]}
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container[kind]
        asked = probe.get("httpGet") or probe.get("tcpSocket") or {"port": next(iter(ports))}
        assert "exec" in probe or asked["port"] in ports, kind
        assert probe["timeoutSeconds"] <= probe["periodSeconds"] or kind == "startupProbe"
    # What is slow at its start is not killed for it.
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 60


def test_a_worker_is_never_killed_because_redis_is_away() -> None:
    worker = container_of(OURS[0])
    assert {worker[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe")} == {"/healthz"}
    assert container_of(OURS[1])["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container_of(OURS[1])["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_images_carry_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [kustomization] = documents(FOLDER / "kustomization.yaml")
    assert [image["newTag"] for image in kustomization["images"]] == [version]
    for workload in OURS:
        assert container_of(workload)["image"] == f"{kustomization['images'][0]['name']}:{version}"


def test_the_server_is_told_the_same_as_with_compose() -> None:
    assert (BASE / "valkey.conf").read_bytes() == (DEPLOY / "valkey" / "valkey.conf").read_bytes()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["valkey"]
    arguments: list[str] = container_of(WORKLOADS[2])["args"]
    assert container_of(WORKLOADS[2])["image"] == compose["image"]
    assert arguments[:3] == compose["command"][:3]
    assert arguments[4] == compose["command"][4] == "--maxmemory"
    limit = container_of(WORKLOADS[2])["resources"]["limits"]["memory"]
    assert bytes_of(limit) >= 2 * bytes_of(arguments[5])


@each_of_ours
def test_commands_and_variables_are_those_that_tailrace_takes(workload: dict[str, Any]) -> None:
    container = container_of(workload)
    check_command(container["args"])
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert unknown_variables(variables, [SETTINGS]) == set()
    assert variables["TAILRACE_CONFIG"] == "/etc/tailrace/tailrace.toml"
    # A secret is mounted, not handed through the environment.
    assert [name for name in variables if name in named_in(SETTINGS) or name.endswith("_URL")] == []
    assert str(port_of(container, "metrics")) == container["args"][container["args"].index("--metrics-port") + 1]


def port_of(container: dict[str, Any], name: str) -> int:
    [port] = (port["containerPort"] for port in container["ports"] if port["name"] == name)
    found: int = port
    return found


def secret_paths(workload: dict[str, Any]) -> set[str]:
    """Where the workload's secrets are mounted."""
    [volume] = (each for each in pod_of(workload)["volumes"] if each["name"] == "secrets")
    [mount] = (each for each in container_of(workload)["volumeMounts"] if each["name"] == "secrets")
    assert volume["secret"]["defaultMode"] == 0o440
    return {f"{mount['mountPath']}/{item['path']}" for item in volume["secret"]["items"]}


@each_workload
def test_a_pod_gets_the_secrets_that_it_reads_and_no_others(workload: dict[str, Any]) -> None:
    said = json.dumps({key: value for key, value in container_of(workload).items() if key != "volumeMounts"})
    assert set(re.findall(r"/run/secrets/tailrace/[\w.-]+", said)) == secret_paths(workload)


def test_the_secrets_keys_are_in_the_example_which_has_no_values() -> None:
    example = OBJECTS["Secret", "tailrace"]["stringData"]
    read = {path.rpartition("/")[2] for workload in WORKLOADS for path in secret_paths(workload)}
    assert read == set(example)
    for key, value in example.items():
        assert "REPLACE-ME" in value, key
    [kustomization] = documents(FOLDER / "kustomization.yaml")
    assert "secret.example.yaml" not in kustomization["resources"]


def test_what_the_settings_name_is_handed_in_and_jobs_get_their_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(SETTINGS, monkeypatch)
    handed = {variable["name"] for workload in OURS for variable in container_of(workload)["env"]}
    assert {name + FILE for name in named_in(SETTINGS)} <= handed
    assert pod_of(OURS[0])["terminationGracePeriodSeconds"] >= settings.worker.drain_s + 15
    assert settings.gateway.tenants, "a gateway on 0.0.0.0 does not start without keys"


def test_what_prepare_makes_is_the_server_that_the_pods_look_for(tmp_path: Path) -> None:
    prepare(tmp_path)
    url = (tmp_path / "deploy/secrets/redis_url").read_text()
    service = OBJECTS["Service", "valkey"]
    assert url.rpartition("@")[2].strip() == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/0"


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in among)
    return wanted <= labels.items() and all(labels.get(each["key"]) in each["values"] for each in among)


def chosen_by(selector: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for workload in WORKLOADS:
        if selects(selector, workload["spec"]["template"]["metadata"]["labels"]):
            yield workload


@each_workload
def test_a_workload_selects_its_own_pods_and_no_others(workload: dict[str, Any]) -> None:
    assert list(chosen_by(workload["spec"]["selector"])) == [workload]


def test_services_budgets_and_policies_are_about_pods_and_ports_that_exist() -> None:
    for (kind, name), document in OBJECTS.items():
        spec = document.get("spec", {})
        if kind == "Service":
            [workload] = chosen_by({"matchLabels": spec["selector"]})
            assert {port["targetPort"] for port in spec["ports"]} <= {
                each["name"] for each in container_of(workload)["ports"]
            }
        elif kind == "PodDisruptionBudget":
            assert len(list(chosen_by(spec["selector"]))) == 1, name
        elif kind == "NetworkPolicy" and spec["podSelector"]:
            chosen = list(chosen_by(spec["podSelector"]))
            assert chosen, name
            for rule in spec.get("ingress", []):
                here = {port["name"] for each in chosen for port in container_of(each)["ports"]}
                assert {port["port"] for port in rule["ports"]} <= here, name
    assert OBJECTS["StatefulSet", "valkey"]["spec"]["serviceName"] == "valkey"


def test_who_speaks_with_whom_is_allowed_on_both_sides_and_nothing_else() -> None:
    assert OBJECTS["NetworkPolicy", "nothing-by-default"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    [rule] = OBJECTS["NetworkPolicy", "valkey"]["spec"]["ingress"]
    callers = [each for peer in rule["from"] for each in chosen_by(peer["podSelector"])]
    assert callers == OURS
    for workload in OURS:
        policy = OBJECTS["NetworkPolicy", workload["metadata"]["name"]]["spec"]
        reached = [
            target
            for each in policy["egress"]
            for peer in each["to"]
            if "podSelector" in peer
            for target in chosen_by(peer["podSelector"])
        ]
        assert reached == [WORKLOADS[2]]


def test_the_ingress_leads_to_the_gateway_and_lets_its_bodies_through(monkeypatch: pytest.MonkeyPatch) -> None:
    ingress = OBJECTS["Ingress", "tailrace-gateway"]
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    service = OBJECTS["Service", path["backend"]["service"]["name"]]
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    annotations = ingress["metadata"]["annotations"]
    limit = settings_in(SETTINGS, monkeypatch).gateway.max_body_bytes
    assert bytes_of(annotations["nginx.org/client-max-body-size"]) == limit
    assert annotations["nginx.org/proxy-buffering"] == "False"
    assert annotations["nginx.org/websocket-services"] == service["metadata"]["name"]


def test_the_autoscaler_is_about_the_workers_and_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = OBJECTS["ScaledObject", "tailrace-worker"]["spec"]
    assert scaled["scaleTargetRef"] == {"name": OURS[0]["metadata"]["name"]}
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    waiting, running = scaled["triggers"]
    assert (waiting["metricType"], running["metricType"]) == ("Value", "AverageValue")
    slots = settings_in(SETTINGS, monkeypatch).worker.max_jobs
    assert 0.5 * slots < float(running["metadata"]["threshold"]) < slots
    assert all(each["metadata"]["ignoreNullValues"] == "false" for each in (waiting, running))
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    grace_s = pod_of(OURS[0])["terminationGracePeriodSeconds"]
    assert all(policy["periodSeconds"] > grace_s for policy in behavior["scaleDown"]["policies"])


def test_the_autoscaler_asks_for_metrics_that_exist() -> None:
    scaled = OBJECTS["ScaledObject", "tailrace-worker"]["spec"]
    asked = {
        each for trigger in scaled["triggers"] for each in re.findall(r"tailrace_\w+", trigger["metadata"]["query"])
    }
    assert len(asked) == 2
    assert asked <= {metric.name for metrics in CATALOGUE.values() for metric in metrics}


def test_the_monitor_scrapes_workers_and_gateways() -> None:
    monitor = OBJECTS["PodMonitor", "tailrace"]["spec"]
    assert list(chosen_by(monitor["selector"])) == OURS
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    for workload in OURS:
        assert port_of(container_of(workload), endpoint["port"]) == 9464
