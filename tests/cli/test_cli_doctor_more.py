"""What doctor says of this machine, the upstreams' models, the hand-off and workers of several versions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Cli
from redis import Redis

from tailrace.cli import doctor_here
from tailrace.cli.doctor_handoff import Group, told
from tailrace.cli.doctor_jobs import versions
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.suitability import Finding
from tailrace.schemas import Keys, Settings
from tailrace.worker.registry import WorkerCard


@pytest.fixture
def server(cli_server: EmbeddedServer) -> Iterator[Any]:
    client: Any = Redis.from_url(cli_server.url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
    with client:
        yield client


def about(cli: Cli, what: str, *options: str) -> dict[str, dict[str, Any]]:
    ran = cli("doctor", "--json", *(options or ("--no-upstreams",)))
    return {found["code"]: found for found in ran.objects if found["about"] == what}


@pytest.mark.parametrize(("limit", "level"), [(256, "warning"), (1024, "warning"), (65536, "ok")])
def test_a_limit_of_open_files_below_a_workers_streams_is_a_warning(limit: int, level: str) -> None:
    (found,) = doctor_here.open_files(Settings(), limit)
    assert (found.level, "ulimit -n" in found.cure) == (level, level == "warning")
    assert list(doctor_here.open_files(Settings(), None)) == []


def test_the_limit_that_this_process_has_is_the_one_that_counts(cli: Cli) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, before[1]))
    try:
        assert "900 files" in about(cli, "here")["open-files"]["what"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_packages_outside_the_range_that_tailrace_was_made_for_are_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "package-range" not in about(cli, "here")
    asked = doctor_here.version_of

    def version_of(package: str) -> str | None:
        return "99.0" if package == "redis" else asked(package)

    monkeypatch.setattr(doctor_here, "version_of", version_of)
    found = about(cli, "here")["package-range"]
    assert found["level"] == "warning"
    assert "redis 99.0" in found["what"]
    assert found["cure"].startswith("pip install 'redis")


@pytest.mark.parametrize(("free", "level"), [(1024, "error"), (512 * 2**20, "warning"), (50 * 2**30, "ok")])
def test_a_disk_without_room_for_the_embedded_server_is_told(tmp_path: Path, free: int, level: str) -> None:
    found = doctor_here.disk(tmp_path, free)
    assert (found.level, bool(found.cure)) == (level, level != "ok")
    assert doctor_here.disk(tmp_path).code == "disk-space"


def test_a_model_that_the_upstream_does_not_list_is_a_warning(
    worked: Cli, rehearsing: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "tailrace.toml"
    for model, level in (("of-yesterday", "warning"), ("rehearsal", "ok")):
        config.write_text(
            f'[upstreams.mine]\nbase_url = "{rehearsing["upstreams"]["default"]}/v1"\napi_key_env = ""\n'
            f'default_model = "{model}"\n'
        )
        (found,) = about(worked, "upstream", "--config", str(config)).values()
        assert found["level"] == level, found
        assert ("of-yesterday" in found["what"]) == (level == "warning")


def test_a_group_that_nobody_reads_and_what_it_has_parked_are_told(cli: Cli, server: Any, namespace: str) -> None:
    keys = Keys(namespace)
    job_id = cli("submit", "hello").out.strip()
    server.xgroup_create(keys.ended, "indexer", id="0", mkstream=True)
    server.xadd(keys.ended, {"job": job_id, "status": "failed"})
    server.xadd(keys.parked("indexer"), {"job": job_id, "reason": "no"})
    for name in (keys.ended, keys.parked("indexer")):
        server.expire(name, 60)
    found = about(cli, "jobs")
    assert (found["group-unread"]["group"], found["group-unread"]["behind"]) == ("indexer", 1)
    assert "purge group indexer" in found["group-unread"]["cure"]
    assert found["parked"]["parked"] == 1
    assert "purge parked indexer" in found["parked"]["cure"]
    cli("purge", "parked", "indexer", "--yes")
    cli("purge", "group", "indexer", "--yes")
    assert not {"group-unread", "parked", "groups"} & about(cli, "jobs").keys()


def test_a_group_that_is_far_behind_although_it_is_read_is_told() -> None:
    found = {each.code: each for each in told([Group("g", 2, 60_000, 0), Group("well", 1, 3, 0)], Keys("n"))}
    assert found["group-behind"].level == "warning"
    assert "100000" in found["group-behind"].what
    assert found.keys() == {"group-behind", "groups"}


def test_workers_of_several_versions_are_told_and_another_wire_version_is_a_warning(
    cli: Cli, server: Any, namespace: str
) -> None:
    keys = Keys(namespace)
    seconds, _ = server.time()
    for name, said in (("old", {}), ("new", {"version": "0.2.0"}), ("next", {"version": "1.0", "wire": 2})):
        card = {"host": "h", "pid": 1, "jobs": 0, "max_jobs": 9, **said}
        server.set(keys.worker(name), json.dumps(card), ex=60)
        server.zadd(keys.workers, {name: seconds * 1000})
    server.expire(keys.workers, 60)
    found = about(cli, "jobs")
    assert found["versions"]["versions"] == ["0.2.0", "1.0", "unknown"]
    assert (found["wire"]["level"], found["wire"]["wires"]) == ("warning", [2])
    assert list(versions([WorkerCard("a", version="1"), WorkerCard("b", version="1")])) == []


def test_jobs_that_wait_although_workers_have_room_are_told(cli: Cli, server: Any, namespace: str) -> None:
    keys = Keys(namespace)
    job_id = cli("submit", "hello").out.strip()
    seconds, _ = server.time()
    server.zadd(keys.queue, {keys.queued(job_id): (seconds - 90) * 1000}, xx=True)
    server.zadd(keys.workers, {"w": seconds * 1000})
    server.expire(keys.workers, 60)
    for jobs, cure in ((0, "room for 5"), (5, "start more")):
        server.set(keys.worker("w"), json.dumps({"host": "h", "pid": 1, "jobs": jobs, "max_jobs": 5}), ex=60)
        found = about(cli, "jobs")["queue-age"]
        assert found["level"] == "warning"
        assert 89 <= found["waited_s"] <= 120
        assert cure in found["cure"]


def test_every_finding_is_one_that_scripts_can_branch_on(worked: Cli) -> None:
    ran = worked("doctor", "--no-upstreams", "--json")
    for found in ran.objects:
        assert found["code"]
        assert Finding(found["level"], found["code"], found["what"], found.get("cure", "")).what
        assert (found["level"] == "ok") or found["cure"], found
