"""The payload: nothing but our own shape gets through, whoever planted it."""

import json
import pickle

import pytest
from arq import constants
from arq.jobs import deserialize_job_raw, serialize_job
from hypothesis import given
from hypothesis import strategies as st

from tailrace.queue import PayloadRefused, dump_payload, load_payload, names, queue_payload
from tailrace.queue.serializer import MAX_PAYLOAD_BYTES


def test_the_key_names_are_arqs_own() -> None:
    assert constants.job_key_prefix == names.JOB_PREFIX
    assert constants.in_progress_key_prefix == names.IN_PROGRESS_PREFIX
    assert constants.retry_key_prefix == names.RETRY_PREFIX


def test_arq_reads_what_producers_write() -> None:
    raw: object = deserialize_job_raw(queue_payload(1_700_000_000_123), deserializer=load_payload)
    assert raw == ("tailrace", [], {}, None, 1_700_000_000_123)


def test_producers_write_what_arq_writes() -> None:
    assert serialize_job("tailrace", (), {}, None, 5, serializer=dump_payload) == queue_payload(5)


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(queue_payload(5)), **fields}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * MAX_PAYLOAD_BYTES,
        queue_payload(5) + b" " * MAX_PAYLOAD_BYTES,
        queue_payload(5).replace(b"5", b"NaN"),
        queue_payload(5)[:-1],
        pickle.dumps({"t": None, "f": "tailrace", "a": (), "k": {}, "et": 5}),
        changed(f="os.system"),
        changed(f=["tailrace"]),
        changed(a=["x"]),
        changed(a=""),
        changed(k={"x": 1}),
        changed(k=[]),
        changed(t=1),
        changed(et=True),
        changed(et=5.0),
        changed(et=-1),
        changed(et=2**60),
        changed(extra=1),
    ],
)
def test_anything_else_is_refused_without_quoting_it(raw: bytes) -> None:
    with pytest.raises(PayloadRefused) as refusal:
        load_payload(raw)
    assert refusal.value.__cause__ is None
    assert "os.system" not in str(refusal.value)


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_no_bytes_do_more_than_be_refused(raw: bytes) -> None:
    with pytest.raises(PayloadRefused):
        load_payload(raw)
