"""Who runs alone, who may come in beside, and when the others are asked to come back."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from arq.worker import Retry

from tailrace.schemas import RETRY_EVENT, Entry, JobRequest, Position, decode
from tailrace.schemas.records import JobRecord
from tailrace.worker.job import Job
from tailrace.worker.memory import Memory
from tailrace.worker.quarantine import Quarantine

RECORD = {"digest": "d", "incarnation": "i", "deadline": 10**15, "retention_ms": 1, "ts": 1, "api": "chat"}
DIED: list[tuple[str, dict[str, Any]]] = []
FAILED = [("event", {"event": "on_custom_event", "name": RETRY_EVENT, "data": {"counted": True}})]
HANDED_BACK = [("event", {"event": "on_custom_event", "name": RETRY_EVENT, "data": {"counted": False}})]
A_STEP_RETRIED = [("event", {"run": 3, "event": "on_custom_event", "name": RETRY_EVENT, "data": {"counted": True}})]


def waits_for(job_id: str) -> list[tuple[str, dict[str, Any]]]:
    return [("event", {"run": 2, "event": "on_chain_start", "name": "child", "data": {"job_id": job_id}})]


def job(job_id: str, *attempts: list[tuple[str, dict[str, Any]]], max_attempts: int = 9, replay: bool = False) -> Job:
    """One whose attempts said this and no more."""
    entries = [Entry(Position("0-1"), "job", json.dumps(RECORD))]
    number = 1
    for epoch, lines in enumerate(attempts, 1):
        fields = {"attempt": number, "worker": f"w{epoch}", "replay": replay and epoch > 1}
        entries.append(Entry(Position(f"{epoch}-0"), "attempt", json.dumps(fields)))
        entries += [
            Entry(Position(f"{epoch}-{seq}"), field, json.dumps(fields)) for seq, (field, fields) in enumerate(lines, 1)
        ]
        number += lines != HANDED_BACK
    record = decode(entries[0])
    assert isinstance(record, JobRecord)
    request = JobRequest.of("x", model="m", max_attempts=max_attempts)
    return Job(job_id, record, request, Memory(entries), ended=False, now_ms=1.0)


SUSPECT = job("suspect", DIED, DIED)


@contextmanager
def turned_away() -> Generator[Any]:
    with pytest.raises(Retry) as raised:
        yield raised


def test_of_two_jobs_with_which_two_workers_died_one_has_to_wait_until_the_other_is_through() -> None:
    place = Quarantine()
    with place.place(SUSPECT), turned_away(), place.place(job("other", DIED, DIED)):
        pass
    with place.place(job("other", DIED, DIED)):
        pass


def test_the_place_is_free_again_after_a_job_that_failed() -> None:
    place = Quarantine()
    with pytest.raises(ZeroDivisionError), place.place(SUSPECT):
        raise ZeroDivisionError
    with place.place(job("other", DIED, DIED)):
        pass


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param(job("fresh"), id="fresh"),
        pytest.param(job("once", DIED), id="one worker died with it, as may happen"),
        pytest.param(job("upstream", FAILED, FAILED, DIED), id="its upstream failed"),
        pytest.param(job("drained", HANDED_BACK, HANDED_BACK, DIED), id="workers handed it back"),
        pytest.param(job("replayed", DIED, DIED, replay=True), id="the server lost its tail"),
        pytest.param(job("over", DIED, DIED, max_attempts=2), id="it has no attempt left, and is only ended"),
    ],
)
def test_who_is_under_no_suspicion_runs_beside_one_who_is(beside: Job) -> None:
    place = Quarantine()
    with place.place(SUSPECT), place.place(beside), turned_away(), place.place(job("other", DIED, DIED)):
        pass


def test_a_step_that_was_tried_again_is_not_the_attempts_last_word() -> None:
    died = job("task", A_STEP_RETRIED, A_STEP_RETRIED)
    assert died.deaths() == 2
    assert died.died() == "attempt 1 by worker 'w1' died with it; attempt 2 by worker 'w2' died with it"


def test_a_job_that_the_one_inside_waits_for_comes_in_and_so_do_those_that_it_waits_for() -> None:
    place = Quarantine()
    parent = job("parent", DIED, waits_for("child"))
    child, grandchild = job("child", DIED, waits_for("grandchild")), job("grandchild", DIED, DIED)
    with place.place(parent):
        with turned_away(), place.place(grandchild):
            pass
        with place.place(child), place.place(grandchild):
            pass
        with turned_away(), place.place(SUSPECT):
            pass


def test_the_place_is_taken_as_long_as_any_of_a_family_is_inside_and_then_the_family_is_forgotten() -> None:
    place = Quarantine()
    child, grandchild = job("child", DIED, waits_for("grandchild")), job("grandchild", DIED, DIED)
    parent_inside, child_inside = place.place(job("parent", DIED, waits_for("child"))), place.place(child)
    parent_inside.__enter__()
    child_inside.__enter__()
    parent_inside.__exit__(None, None, None)
    with place.place(grandchild), turned_away(), place.place(SUSPECT):
        pass
    child_inside.__exit__(None, None, None)
    with place.place(SUSPECT), turned_away(), place.place(child):
        pass


def test_the_more_wait_the_later_each_comes_back_within_bounds() -> None:
    place = Quarantine()
    with place.place(SUSPECT):
        pauses_ms: list[int] = []
        for number in range(2000):
            with turned_away() as raised, place.place(job(f"other-{number}", DIED, DIED)):
                pass
            pauses_ms.append(raised.value.defer_score)
    assert all(100 <= pause_ms <= 500 for pause_ms in pauses_ms[:5])
    assert all(2_000 <= pause_ms <= 8_000 for pause_ms in pauses_ms[99:101])
    assert all(7_000 <= pause_ms <= 23_000 for pause_ms in pauses_ms[1000:])
