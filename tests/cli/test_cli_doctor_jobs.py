"""What doctor says of jobs and workers, and what it tells to do about them."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cli_runs import Cli, Ran, Start, run
from redis import Redis

from tailrace.cli.doctor_jobs import told
from tailrace.cli.exits import ExitCode
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import Keys
from tailrace.worker.checkup import Finding
from tailrace.worker.registry import WorkerCard
from tailrace.worker.sweep import SweepReport

WORKER = WorkerCard("alive", host="h", pid=1, jobs=1, max_jobs=9, seen_ms=1)


@pytest.fixture
def server(cli_server: EmbeddedServer) -> Iterator[Any]:
    client: Any = Redis.from_url(cli_server.url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
    yield client
    client.close()


def about_jobs(ran: Ran) -> dict[str, dict[str, Any]]:
    return {found["code"]: found for found in ran.objects if found["about"] == "jobs"}


def lose(server: Any, keys: Keys, job_id: str) -> None:
    """As a server does that has lost its tail; its check was due long ago."""
    server.zrem(keys.queue, keys.queued(job_id))
    server.zadd(keys.open, {job_id: 1}, xx=True)


def test_jobs_that_nobody_runs_and_nobody_heals_are_named_with_what_to_do(
    cli: Cli, server: Any, namespace: str
) -> None:
    lost, waiting = (cli("submit", "hello").out.strip() for _ in range(2))
    lose(server, Keys(namespace), lost)
    ran = cli("doctor", "--no-upstreams", "--json")
    assert ran.code == ExitCode.OK
    found = about_jobs(ran)
    whole = found["open"]
    assert (whole["level"], whole["open"], whole["queued"], whole["late"]) == ("warning", 2, 1, 1)
    assert "start `tailrace worker`" in whole["cure"]
    assert found["late"]["cure"].startswith("start `tailrace worker`")
    assert (found["unqueued"]["count"], found["unqueued"]["jobs"]) == (1, [lost])
    assert found["unqueued"]["cure"].startswith("start `tailrace worker`")
    assert waiting not in str(found["unqueued"])
    lines = cli("doctor", "--no-upstreams").out.splitlines()
    (line,) = [line for line in lines if "not in the queue" in line]
    assert line.startswith(f"warning jobs      1 job open, but not in the queue: {lost} -> start `tailrace worker`")


def test_looking_changes_nothing(cli: Cli, server: Any, namespace: str) -> None:
    keys = Keys(namespace)
    lose(server, keys, cli("submit", "hello").out.strip())
    before = server.zrange(keys.open, 0, -1, withscores=True)
    cli("doctor", "--no-upstreams")
    assert server.zrange(keys.open, 0, -1, withscores=True) == before
    assert server.zcard(keys.queue) == 0


def test_a_fleet_in_order_is_told_with_its_numbers_and_nothing_to_do(worked: Cli) -> None:
    found = about_jobs(worked("doctor", "--no-upstreams", "--json"))
    assert [entry for entry in found.values() if entry["level"] != "ok"] == []
    assert len(found["open"]["workers"]) == 1
    assert "1 worker with" in found["open"]["what"]


def test_a_key_that_is_missing_here_is_no_error_where_workers_are(worked: Cli, cli: Cli) -> None:
    for client, code, level in ((worked, ExitCode.OK, "warning"), (cli, ExitCode.BROKER, "error")):
        ran = client("doctor", "--json")
        (found,) = [each for each in ran.objects if each["about"] == "upstream"]
        assert (ran.code, found["level"], found["code"]) == (code, level, "no_api_key")


def test_a_queue_that_no_worker_serves_is_named_with_what_to_start(cli: Cli, start: Start) -> None:
    def worker(*queues: str) -> None:
        named = [word for queue in queues for word in ("--queue", queue)]
        started = start("worker", "--rehearsal", "--json", "--namespace", cli.namespace, *named)
        started.wait_for("\n")
        assert json.loads(started.out.splitlines()[0])["queues"] == list(queues or ["default"])

    worker()
    job_id = cli("submit", "rehearsal:tokens=2", "--queue", "gpu").out.strip()
    assert "  queue      gpu" in cli("status", job_id).out
    found = about_jobs(cli("doctor", "--no-upstreams", "--json"))["queue-unserved"]
    assert (found["level"], found["queue"]) == ("warning", "gpu")
    assert "`tailrace worker --queue gpu`" in found["cure"]
    worker("gpu", "default")
    assert cli("tail", job_id).code == ExitCode.OK
    assert "queue-unserved" not in about_jobs(cli("doctor", "--no-upstreams", "--json"))


def test_a_queue_is_named_once_and_by_a_name(cli: Cli) -> None:
    for queues in (["a", "a"], ["a b"]):
        ran = cli("worker", "--rehearsal", *(word for queue in queues for word in ("--queue", queue)))
        assert (ran.code, "--queue: " in ran.err) == (ExitCode.USAGE, True)


def test_a_worker_that_fell_silent_is_named_with_how_long_ago(cli: Cli, server: Any, namespace: str) -> None:
    seconds, _ = server.time()
    server.zadd(Keys(namespace).workers, {"the-dead": (seconds - 90) * 1000})
    found = about_jobs(cli("doctor", "--no-upstreams", "--json"))
    assert found["open"]["level"] == "ok", "no job waits for it"
    (dead,) = found["dead-workers"]["workers"]
    assert dead["name"] == "the-dead"
    assert 89 <= dead["silent_s"] <= 120
    assert found["dead-workers"]["level"] == "warning"
    assert "out of memory" in found["dead-workers"]["cure"]
    server.delete(Keys(namespace).workers)


def test_a_card_that_is_none_of_ours_hides_nobody(cli: Cli, server: Any, namespace: str) -> None:
    keys = Keys(namespace)
    for name, card in (("planted", "no JSON"), ("another", "[]")):
        server.zadd(keys.workers, {name: 1})
        server.set(keys.worker(name), card, ex=60)
    assert about_jobs(cli("doctor", "--no-upstreams", "--json"))["open"]["workers"] == ["another", "planted"]
    server.delete(keys.workers)


@pytest.mark.parametrize("finding", [each for each in Finding if each is not Finding.WELL])
@pytest.mark.parametrize("workers", [(), (WORKER,)])
def test_every_finding_is_told_with_its_jobs_and_a_cure_unless_it_passes_by_itself(
    finding: Finding, workers: tuple[WorkerCard, ...]
) -> None:
    ids = tuple(f"job-{number}" for number in range(10))
    report = SweepReport(12, 12, 3, 0, findings={finding: 12}, jobs={finding: ids}, workers=workers)
    (entry,) = [entry for entry in told(report) if entry.code == finding.value]
    assert entry.what.startswith("12 jobs ")
    assert entry.what.endswith(": job-0, job-1, job-2, ...")
    on_the_way = bool(workers) and finding in {Finding.UNQUEUED, Finding.ENDED}
    assert (entry.level, bool(entry.cure)) == (("ok", False) if on_the_way else ("warning", True))
    assert ("start `tailrace worker`" in entry.cure) == (not workers)


def test_checks_that_are_late_although_workers_live_point_at_their_sweeps() -> None:
    report = SweepReport(5, 5, 5, 2, findings={Finding.WELL: 4, Finding.ENDED: 1}, workers=(WORKER,))
    found = {entry.code: entry for entry in told(report)}
    assert "sweeps" in found["late"].cure
    assert found["ended"].level == "warning", "a sweep should have come by"


def test_keys_of_somebody_else_and_a_long_index_are_told() -> None:
    report = SweepReport(1000, 5000, 5, 0, findings={Finding.WELL: 998}, workers=(WORKER,))
    found = {entry.code: entry for entry in told(report)}
    assert found["foreign"].what.startswith("2 jobs")
    assert "the 1000 whose check is due first" in found["open"].what


def test_without_the_workers_packages_doctor_says_that_jobs_are_not_checked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tailrace.cli.doctor_jobs", None)
    found = about_jobs(cli("doctor", "--no-upstreams", "--json"))
    assert (found["not-checked"]["level"], found["not-checked"]["cure"]) == (
        "warning",
        "pip install 'tailrace[worker]'",
    )


def test_a_trial_server_has_no_jobs_to_tell_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TAILRACE_DATA", str(tmp_path))
    assert about_jobs(run("doctor", "--no-upstreams", "--json")) == {}
