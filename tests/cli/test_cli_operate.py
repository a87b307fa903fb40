"""jobs, requeue and purge: what an operator sees and does."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from cli_runs import PATIENCE_S, Cli, Ran
from redis import Redis

from tailrace.cli.exits import ExitCode
from tailrace.joblog.embedded import EmbeddedServer
from tailrace.joblog.rights import rule
from tailrace.producer.requeueing import requeued_id
from tailrace.schemas import Keys

FAILING = "rehearsal:fault=status,code=401"
NONE: Final[set[str]] = set()


@pytest.fixture
def server(cli_server: EmbeddedServer) -> Iterator[Any]:
    client: Any = Redis.from_url(cli_server.url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
    yield client
    client.close()


def until(what: str, look: Callable[[], Any]) -> Any:
    """Look again until it is so."""
    give_up = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < give_up, what
        time.sleep(0.01)
    return found


def listed(ran: Ran) -> dict[str, dict[str, Any]]:
    assert ran.code == ExitCode.OK, ran.err
    return {job["job_id"]: job for job in ran.objects}


def handed_off(cli: Cli, *job_ids: str) -> None:
    until("they are handed off", lambda: {*job_ids} <= listed(cli("jobs", "--json", "--all")).keys())


def test_open_jobs_are_listed_with_what_they_are_and_never_their_prompt(cli: Cli) -> None:
    first = cli("submit", "a secret prompt", "--model", "gpt-x", "--tag", "red").out.strip()
    second = cli("submit", "--task", "a_task", "--delay", "1h").out.strip()
    ran = cli("jobs", "--json")
    found = listed(ran)
    assert found.keys() == {first, second}
    assert (found[first]["status"], found[first]["model"], found[first]["tags"]) == ("queued", "gpt-x", ["red"])
    assert found[second]["task"] == "a_task"
    shown = cli("jobs")
    assert [line.split()[:2] for line in shown.out.splitlines()[1:]] == [[first, "queued"], [second, "queued"]]
    assert "secret" not in ran.out + shown.out
    asked = listed(cli("jobs", "--json", "--prompt", "--tag", "red"))[first]["request"]
    assert asked["messages"] == [{"role": "user", "content": "a secret prompt"}]
    assert "    a secret prompt" in cli("jobs", "--prompt").out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "b"], {"b"}),
        (["--tag", "even"], {"b", "d"}),
        (["--status", "queued", "--tag", "even"], {"b", "d"}),
        (["--status", "in_progress"], NONE),
        (["--status", "ended"], NONE),
        (["--since", "1h"], {"a", "b", "c", "d"}),
        (["--older", "1h"], NONE),
        (["--tenant", "acme"], NONE),
    ],
)
@pytest.mark.parametrize("everything", [[], ["--all"]])
def test_what_is_listed_can_be_chosen(cli: Cli, options: list[str], expected: set[str], everything: list[str]) -> None:
    for number, name in enumerate("abcd"):
        cli("submit", "hello", "--job-id", name, "--model", name, *(["--tag", "even"] if number % 2 else []))
    assert listed(cli("jobs", "--json", *options, *everything)).keys() == expected


def test_a_listing_has_a_bound_and_says_when_it_was_reached(cli: Cli) -> None:
    for _ in range(5):
        cli("submit", "hello")
    ran = cli("jobs", "--json", "--limit", "2")
    assert len(ran.objects) == 2
    assert "more open jobs" in ran.err
    ran = cli("jobs", "--json", "--look", "3")
    assert len(ran.objects) == 3
    assert "more open jobs" in ran.err
    assert len(cli("jobs", "--json", "--all").objects) == 5
    assert "no such jobs" in cli("jobs", "--status", "failed").err
    assert cli("jobs", "--status", "nirvana").code == ExitCode.USAGE


def test_ended_jobs_are_listed_with_how_they_ended(worked: Cli) -> None:
    done, failed = worked.finished("rehearsal", "--tag", "ends"), worked.finished(FAILING, "--tag", "ends")
    handed_off(worked, done, failed)
    found = listed(worked("jobs", "--json", "--tag", "ends"))
    assert (found[done]["status"], found[failed]["status"]) == ("completed", "failed")
    assert found[failed]["error"]["type"] == "upstream_auth"
    assert listed(worked("jobs", "--json", "--status", "failed", "--tag", "ends")).keys() == {failed}
    (line,) = [line for line in worked("jobs").out.splitlines() if line.startswith(failed)]
    assert line.split()[1] == "failed"
    assert line.endswith("upstream_auth")


def test_a_tag_that_steers_the_terminal_does_not(cli: Cli) -> None:
    cli("submit", "hello", "--tag", "\x1b[2J\nrow")
    assert "\x1b" not in cli("jobs").out
    assert len(cli("jobs").out.splitlines()) == 2


def test_a_job_that_waits_for_its_time_is_due_when_it_is_requeued(cli: Cli, server: Any, namespace: str) -> None:
    keys = Keys(namespace)
    job_id = cli("submit", "hello", "--delay", "1h").out.strip()
    ran = cli("requeue", job_id, "--json")
    assert ran.objects == [{"job_id": job_id, "done": "forward", "new_job_id": None}]
    seconds, _ = server.time()
    assert server.zscore(keys.queue, keys.queued(job_id)) <= (seconds + 1) * 1000
    assert cli("requeue", job_id, "--json").objects[0]["done"] == "waiting"
    server.zrem(keys.queue, keys.queued(job_id))
    assert cli("requeue", job_id, "--json").objects[0]["done"] == "forward"
    assert server.zscore(keys.queue, keys.queued(job_id)) is not None


def test_a_job_that_ended_is_done_again_as_one_new_job_however_often_one_asks(worked: Cli, server: Any) -> None:
    job_id = worked.finished(FAILING, "--metadata", "order=7", "--tag", "again")
    ran = worked("requeue", job_id, "--json")
    (done,) = ran.objects
    new_id = done["new_job_id"]
    assert (done["done"], new_id != job_id) == ("new", True)
    assert worked("requeue", job_id, "--json").objects == [{"job_id": job_id, "done": "again", "new_job_id": new_id}]
    worked("tail", new_id)
    told = worked("status", new_id, "--json").objects[0]
    assert (told["status"], told["job"]["metadata"], told["job"]["tags"]) == ("failed", {"order": "7"}, ["again"])
    assert worked("status", job_id, "--json").objects[0]["status"] == "failed"
    assert new_id == requeued_id(worked("status", job_id, "--json").objects[0]["job"]["incarnation"], job_id)


def test_jobs_chosen_by_options_are_only_shown_until_one_says_yes(worked: Cli) -> None:
    failed, done = worked.finished(FAILING, "--tag", "many"), worked.finished("rehearsal", "--tag", "many")
    handed_off(worked, failed, done)
    choice = ("requeue", "--failed", "--tag", "many", "--since", "1h", "--json")
    shown = worked(*choice)
    assert shown.objects == [{"job_id": failed, "status": "failed", "done": None}]
    assert "--yes does it" in shown.err
    assert len(listed(worked("jobs", "--json", "--tag", "many"))) == 2
    (did,) = worked(*choice, "--yes").objects
    assert (did["job_id"], did["done"]) == (failed, "new")


def test_a_running_job_is_left_alone_unless_it_is_to_be_taken(worked: Cli, server: Any) -> None:
    job_id = worked("submit", "hello", "--model", "rehearsal:tokens=400,pace=0.02").out.strip()

    def attempts() -> int:
        return sum(b"attempt" in fields for _, fields in server.xrange(Keys(worked.namespace).log(job_id)))

    until("it runs", lambda: attempts() == 1)
    assert worked("requeue", job_id, "--json").objects[0]["done"] == "running"
    assert worked("requeue", job_id, "--json", "--take").objects[0]["done"] == "taken"
    until("another attempt goes on", lambda: attempts() == 2)
    worked("cancel", job_id)


def test_what_cannot_be_requeued_is_told_and_the_rest_is_done(cli: Cli, server: Any, namespace: str) -> None:
    good = cli("submit", "hello", "--delay", "1h").out.strip()
    ran = cli("requeue", "nobody", good, "--json")
    assert (ran.code, [done["job_id"] for done in ran.objects]) == (ExitCode.NOT_FOUND, [good])
    assert ran.error["type"] == "JobNotFound"
    cli("cancel", good)
    stored = json.loads(server.get(Keys(namespace).request(good)))
    stored["request"]["of_tomorrow"] = 1
    server.set(Keys(namespace).request(good), json.dumps(stored, separators=(",", ":")), keepttl=True)
    ran = cli("requeue", good, "--json")
    assert (ran.code, ran.error["type"]) == (ExitCode.USAGE, "InvalidRequest")
    assert "of_tomorrow" in ran.error["message"]
    assert cli("requeue").code == cli("requeue", good, "--failed").code == ExitCode.USAGE


def test_ended_jobs_are_counted_and_then_deleted_and_open_ones_stay(cli: Cli, server: Any, namespace: str) -> None:
    open_id, *ended = (cli("submit", "hello", "--tag", tag).out.strip() for tag in "abb")
    for job_id in ended:
        cli("cancel", job_id)
    assert cli("purge", "jobs").code == ExitCode.USAGE
    assert cli("purge", "jobs", "--status", "open").code == ExitCode.USAGE
    assert cli("purge", "jobs", "--older", "1h", "--json").objects[0]["found"] == 0
    counted = cli("purge", "jobs", "--all", "--json").objects[0]
    assert (counted["found"], counted["removed"]) == (2, 0)
    assert cli("status", ended[0]).code == ExitCode.OK
    assert cli("purge", "jobs", "--tag", "b", "--yes").out == "2 ended jobs removed\n"
    assert [cli("status", job_id).code for job_id in ended] == [ExitCode.NOT_FOUND] * 2
    assert cli("status", open_id).out.startswith("queued")
    assert server.exists(*(Keys(namespace).request(job_id) for job_id in ended)) == 0
    assert cli("purge", "jobs", "--all", "--json").objects[0]["found"] == 0


def test_parked_entries_and_groups_are_removed(cli: Cli, server: Any, namespace: str) -> None:
    keys = Keys(namespace)
    for _ in range(3):
        server.xadd(keys.parked("g"), {"job": "j", "reason": "r"})
    server.expire(keys.parked("g"), 60)
    assert cli("purge", "parked", "g", "--older", "1h", "--json").objects[0]["found"] == 0
    assert cli("purge", "parked", "g", "--json").objects[0]["found"] == 3
    assert cli("purge", "parked", "g", "--yes").out == "3 parked entries removed\n"
    assert server.xlen(keys.parked("g")) == 0
    server.xgroup_create(keys.ended, "g", mkstream=True)
    server.expire(keys.ended, 60)
    assert "there is g" in cli("purge", "group", "other").err
    assert cli("purge", "group", "g", "--json").objects[0] == {"purged": "group", "found": 1, "removed": 0}
    assert cli("purge", "group", "g", "--yes").code == ExitCode.OK
    assert server.xinfo_groups(keys.ended) == []


def test_silent_workers_are_forgotten_and_live_ones_are_not(cli: Cli, server: Any, namespace: str) -> None:
    keys = Keys(namespace)
    server.zadd(keys.workers, {"dead": 1, "alive": 1})
    server.expire(keys.workers, 60)
    server.set(keys.worker("alive"), "{}", ex=60)
    assert cli("purge", "workers", "--yes", "--json").objects[0]["workers"] == ["dead"]
    assert server.zrange(keys.workers, 0, -1) == [b"alive"]


def test_a_namespace_goes_only_with_its_name_and_without_workers(cli: Cli, server: Any, namespace: str) -> None:
    keys, other = Keys(namespace), Cli(cli.url, f"{namespace}-b")
    kept = other("submit", "hello").out.strip()
    for _ in range(3):
        cli("submit", "hello")
    before = cli("purge", "namespace", "--json").objects[0]
    assert before["removed"] == 0
    assert before["found"] >= 9
    assert cli("purge", "namespace", "--confirm", "another").code == ExitCode.USAGE
    server.zadd(keys.workers, {"alive": 1})
    server.set(keys.worker("alive"), "{}", ex=60)
    refused = cli("purge", "namespace", "--confirm", namespace)
    assert (refused.code, "stop its workers" in refused.err) == (ExitCode.USAGE, True)
    server.delete(keys.worker("alive"))
    assert cli("purge", "namespace", "--confirm", namespace).code == ExitCode.OK
    assert [key for key in server.scan_iter(match="*") if f"{namespace}:".encode() in key] == []
    assert other("status", kept).out.startswith("queued")


def test_a_workers_rights_are_enough_for_an_operator(cli: Cli, cli_server: EmbeddedServer, server: Any) -> None:
    keys = Keys(cli.namespace)
    server.execute_command("ACL", "SETUSER", "operator", "reset", "on", ">pw", *rule("worker", keys).split())
    operator = Cli(f"redis://operator:pw@{cli_server.tcp_url.rpartition('@')[2]}", cli.namespace)
    ended, waiting = (operator("submit", "hello", "--delay", "1h").out.strip() for _ in range(2))
    operator("cancel", ended)
    server.xgroup_create(keys.ended, "g", mkstream=True)
    server.expire(keys.ended, 60)
    for command in (
        ("jobs",),
        ("jobs", "--all", "--prompt"),
        ("top", "--json"),
        ("requeue", ended, waiting),
        ("purge", "jobs", "--all", "--yes"),
        ("purge", "parked", "g", "--yes"),
        ("purge", "group", "g", "--yes"),
        ("purge", "workers", "--yes"),
        ("purge", "namespace", "--confirm", cli.namespace),
    ):
        ran = operator(*command)
        assert ran.code == ExitCode.OK, (command, ran.err)
    assert [key for key in server.scan_iter(match="*") if f"{cli.namespace}:".encode() in key] == []
    server.execute_command("ACL", "DELUSER", "operator")


def test_operators_see_and_do_the_same_where_the_queue_has_a_server_of_its_own(
    cli: Cli, server: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(namespace)
    with EmbeddedServer(private=True) as queue:
        monkeypatch.setenv("TAILRACE_QUEUE_URL", queue.url)
        ended, waiting = (cli("submit", "hello", "--delay", "1h").out.strip() for _ in range(2))
        cli("cancel", ended)
        assert listed(cli("jobs", "--json")).keys() == {waiting}
        assert cli("top", "--json").objects[0]["queue"]["jobs"] >= 1
        done = {each["job_id"]: each["done"] for each in cli("requeue", ended, waiting, "--json").objects}
        assert done == {ended: "new", waiting: "forward"}
        assert {"logs", "queue", "servers"} <= {
            each["about"] for each in cli("doctor", "--no-upstreams", "--json").objects
        }
        assert cli("purge", "jobs", "--all", "--json", "--yes").objects[0]["removed"] == 1
        assert cli("purge", "namespace", "--confirm", namespace).code == ExitCode.OK
        other: Any = Redis.from_url(queue.url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
        with other:
            assert other.keys("*") == []
        assert [key for key in server.scan_iter(match="*") if keys.namespace.encode() in key] == []
