"""A rolling upgrade: workers, producers and readers of two versions on one server, in both directions, with kills in between."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from redis import Redis
from versions import PATIENCE_S, Version, until

from tailrace.joblog.embedded import EmbeddedServer
from tailrace.schemas import Keys

Versions = dict[str, Version]

pytestmark = pytest.mark.timeout(300)

BOTH: Final = [("old", "new"), ("new", "old")]
SLOW: Final = "rehearsal:tokens=300,pace=0.02"


@pytest.fixture
def server(upgrade_server: EmbeddedServer) -> Any:
    client: Any = Redis.from_url(upgrade_server.url)  # pyright: ignore[reportUnknownMemberType]  # its **kwargs
    with client:
        yield client


def submit(version: Version, model: str, *options: str) -> str:
    return version("submit", "tell me about rivers", "--model", model, *options).strip()


@pytest.mark.parametrize(("working", "asking"), BOTH)
def test_what_one_version_submits_the_other_runs_and_both_read(versions: Versions, working: str, asking: str) -> None:
    versions[working].worker()
    for model, status in (("rehearsal", "completed"), ("rehearsal:fault=status,code=401", "failed")):
        job_id = submit(versions[asking], model, "--tag", "rivers", "--metadata", "order=7")
        asked, other = records_by_both(versions, job_id)
        assert (asked[0]["tags"], asked[0]["metadata"]) == (["rivers"], {"order": "7"})
        assert asked[-1]["status"] == status
        # The same positions and kinds, the same text, the same end, in each version's own words.
        assert [shown(record) for record in asked] == [shown(record) for record in other]
        assert len(text_of(asked)) > 50 or status == "failed"


@pytest.mark.parametrize(("first", "second"), BOTH)
def test_a_killed_workers_job_is_gone_on_with_by_the_other_version_while_both_read(
    versions: Versions, server: Any, first: str, second: str
) -> None:
    job_id = submit(versions[first], SLOW)
    keys = Keys(versions[first].namespace)
    with ThreadPoolExecutor() as readers:
        following = {name: readers.submit(version, "tail", job_id) for name, version in versions.items()}
        until("they listen", lambda: server.pubsub_numsub(keys.live(job_id))[0][1] == 2)
        dying = versions[first].worker()
        until("it has written something", lambda: server.xlen(keys.log(job_id)) > 30)
        dying.kill()
        stood = text_in(server, keys, job_id)
        versions[second].worker()
        texts = {name: each.result().removesuffix("\n") for name, each in following.items()}
    whole = versions[second].records(job_id)
    assert [record["attempt"] for record in whole if record["kind"] == "attempt"] == [1, 2]
    assert not [record for record in whole if record["kind"] == "rewind"], "it went on where the other had stopped"
    assert texts == {"old": text_of(whole), "new": text_of(whole)}
    assert text_of(whole).startswith(stood)
    assert (len(stood) > 20, whole[-1]["status"]) == (True, "completed")


@pytest.mark.parametrize(("leaving", "coming"), BOTH)
def test_a_worker_that_is_replaced_in_order_hands_its_jobs_to_the_other_version(
    versions: Versions, server: Any, leaving: str, coming: str
) -> None:
    job_ids = [submit(versions[coming], SLOW) for _ in range(2)]
    keys = Keys(versions[leaving].namespace)
    process = versions[leaving].worker()
    until("they run", lambda: all(server.xlen(keys.log(job_id)) > 5 for job_id in job_ids))
    process.terminate()
    process.terminate()  # at once: what runs is handed back
    process.wait(PATIENCE_S)
    assert all(server.exists(keys.log(job_id)) for job_id in job_ids)
    versions[coming].worker()
    read = [versions[coming].records(job_id) for job_id in job_ids]
    assert {found[-1]["status"] for found in read} == {"completed"}
    assert len({text_of(found) for found in read}) == 1
    assert {record["attempt"] for found in read for record in found if record["kind"] == "attempt"} <= {1, 2}


@pytest.mark.parametrize(("runs", "cancels"), BOTH)
def test_one_version_cancels_what_the_other_runs(versions: Versions, server: Any, runs: str, cancels: str) -> None:
    versions[runs].worker()
    job_id = submit(versions[runs], "rehearsal:tokens=9000,pace=0.02")
    keys = Keys(versions[runs].namespace)
    until("it runs", lambda: server.xlen(keys.log(job_id)) > 5)
    assert versions[cancels]("cancel", job_id).strip() == "cancelled"
    assert versions[runs].object("status", job_id)["status"] == "cancelled"
    until("it has left the queue", lambda: server.zcard(keys.queue) == 0)


def test_this_versions_tools_read_what_the_old_one_has_left(versions: Versions) -> None:
    versions["old"].worker()
    job_id = submit(versions["old"], "rehearsal:fault=status,code=401")
    versions["old"]("tail", job_id)
    new = versions["new"]
    until("it is handed off", lambda: job_id in new("jobs", "--json", "--status", "failed"))
    assert job_id in [each["job_id"] for each in new.object("top")["last_ended"]]
    doctor = new("doctor", "--no-upstreams", "--json")
    assert '"level":"error"' not in doctor
    again = new.object("requeue", job_id)
    assert again["done"] == "new"
    versions["old"]("tail", again["new_job_id"])
    assert versions["old"].object("status", again["new_job_id"])["status"] == "failed"


def records_by_both(versions: Versions, job_id: str) -> list[list[dict[str, Any]]]:
    with ThreadPoolExecutor() as readers:
        return [each.result() for each in [readers.submit(version.records, job_id) for version in versions.values()]]


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """What every version tells of a record."""
    return {name: record.get(name) for name in ("kind", "position", "text", "status", "event", "after", "last", "to")}


def text_of(records: list[dict[str, Any]]) -> str:
    return "".join(record["text"] for record in records if record["kind"] == "chunk")


def text_in(server: Any, keys: Keys, job_id: str) -> str:
    return b"".join(fields.get(b"chunk", b"") for _, fields in server.xrange(keys.log(job_id))).decode()
