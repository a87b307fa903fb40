"""The Dockerfile: pinned, without rights, with what its commands need. No image is built here."""

import re
import tomllib
from typing import Any, Final

from deployed import EXACT, ROOT, composed

DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
#: What each service's command needs, by its first word.
EXTRAS: Final = {"worker": {"worker", "metrics"}, "serve": {"gateway", "metrics"}}


def stages() -> dict[str, str]:
    """Each stage's lines, by its name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)\n", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def test_what_it_is_built_from_is_pinned_to_an_exact_version() -> None:
    [python] = re.findall(r"^ARG PYTHON=(\S+)", DOCKERFILE, re.MULTILINE)
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - set(stages())
    assert bases == {"${PYTHON}"}
    assert EXACT.fullmatch(python)
    assert re.search(r"pip install \S* ?uv==\d+\.\d+\.\d+", DOCKERFILE)
    assert "--locked" in DOCKERFILE


def test_what_is_built_without_a_target_is_every_command() -> None:
    assert list(stages())[-1] == "tailrace"
    assert 'ENTRYPOINT ["tailrace"]' in stages()["tailrace"]


def test_the_images_run_as_nobody_in_particular() -> None:
    for name in ("tailrace", "local-model"):
        users = re.findall(r"^USER (\S+)", stages()[name], re.MULTILINE)
        assert users == ["10001:10001"], name


def test_every_file_that_is_copied_is_let_through_and_there() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    }
    assert copied == let_through
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_what_a_stage_takes_from_another_is_a_stage() -> None:
    assert set(re.findall(r"^COPY --from=(\S+)", DOCKERFILE, re.MULTILINE)) <= set(stages())


def test_the_extras_exist_and_are_those_that_the_services_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = set(project["optional-dependencies"])
    installed = set(re.findall(r"--extra (\S+?)[\" ]", stages()["build"]))
    assert installed == {"worker", "gateway", "webhooks", "metrics", "tracing", "speed"}
    assert installed | {"local-model"} <= offered
    services: dict[str, Any] = composed()["services"]
    images = {service["image"]: service["build"]["target"] for service in services.values() if "build" in service}
    assert images == {"tailrace:local": "tailrace", "tailrace-local-model:local": "local-model"}
    needed = [EXTRAS[service["command"][0]] for service in services.values() if service["image"] == "tailrace:local"]
    assert len(needed) == 4
    assert all(extras <= installed for extras in needed)


def test_ports_are_those_that_the_services_listen_on() -> None:
    services: dict[str, Any] = composed()["services"]
    assert "EXPOSE 8722 9464" in stages()["tailrace"]
    assert services["gateway"]["ports"][0].endswith(":8722")
    assert "9464" in services["gateway"]["command"]
    assert "EXPOSE 8089" in stages()["local-model"]
    assert "8089" in services["local-model"]["command"]
