"""Key names: a job's keys share one cluster slot, two namespaces never meet, and an id cannot break out of its key."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas import InvalidRequest, Keys, check_job_id

job_ids = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=128)
namespaces = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=64)


def hash_tag(key: str) -> str:
    """What a cluster hashes: between the first `{` and the next `}`.

    Source: redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec."""
    _, brace, rest = key.partition("{")
    tag, end, _ = rest.partition("}")
    return tag if brace and end and tag else key


@given(namespaces, job_ids)
def test_all_keys_of_a_job_live_in_the_slot_of_its_id(namespace: str, job_id: str) -> None:
    keys = Keys(namespace)
    names = [keys.request(job_id), keys.log(job_id), keys.snapshot(job_id), keys.live(job_id)]
    assert {hash_tag(name) for name in names} == {job_id}
    assert len(set(names)) == 4


@given(namespaces, namespaces, job_ids, job_ids)
def test_two_namespaces_or_two_jobs_share_no_key(one: str, other: str, job: str, other_job: str) -> None:
    def names(keys: Keys, job_id: str) -> set[str]:
        return {
            keys.request(job_id),
            keys.log(job_id),
            keys.snapshot(job_id),
            keys.live(job_id),
            keys.worker(job_id),
            keys.queued(job_id),
        }

    def common(keys: Keys) -> set[str]:
        return {keys.open, *keys.ended_streams, keys.parked("group"), keys.queue, keys.wake}

    if one != other:
        ours, theirs = Keys(one, ended_shards=3), Keys(other, ended_shards=2)
        assert not (names(ours, job) | common(ours)) & (names(theirs, job) | common(theirs))
    if job != other_job:
        assert not names(Keys(one), job) & names(Keys(one), other_job)


@given(job_ids, st.integers(1, 64))
def test_a_jobs_end_goes_to_one_of_the_streams_that_groups_read(job_id: str, shards: int) -> None:
    keys = Keys("tailrace", ended_shards=shards)
    assert keys.ended_of(job_id) in keys.ended_streams
    assert len(set(keys.ended_streams)) == shards
    assert keys.ended_streams[0] == Keys("tailrace").ended_of(job_id) == "tailrace:ended"


@given(namespaces, job_ids)
def test_a_queued_id_leads_back_to_its_job(namespace: str, job_id: str) -> None:
    keys = Keys(namespace)
    assert keys.job_of(keys.queued(job_id)) == job_id


@given(namespaces, namespaces, job_ids)
def test_a_queued_id_of_another_namespace_is_nobodys_job_here(namespace: str, other: str, job_id: str) -> None:
    if namespace != other:
        assert Keys(namespace).job_of(Keys(other).queued(job_id)) is None


@pytest.mark.parametrize("queued", ["", "tailrace", "tailrace:", "tailrace:a b", "tailrace:x:job", ":job", "job"])
def test_what_is_no_queued_id_leads_to_no_job(queued: str) -> None:
    assert Keys("tailrace").job_of(queued) is None


@given(job_ids)
def test_an_allowed_job_id_is_taken_as_it_is(job_id: str) -> None:
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id", ["", "a b", "a:b", "{a}", "a/b", "a.b", "é", "٣", "a\n", "a\0", "\ud800", "*", "x" * 129, None, 5, b"a"]
)
def test_other_job_ids_are_refused_and_the_message_says_what_is_allowed(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"1 to 128 of the characters A-Z a-z 0-9 _ -") as caught:
        check_job_id(job_id)
    assert repr(job_id) in str(caught.value)


@pytest.mark.parametrize("namespace", ["", "a b", "a:b", "{a}", "é", "a\n", "x" * 65])
def test_a_namespace_that_would_break_key_names_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidRequest, match="is no namespace"):
        Keys(namespace)
