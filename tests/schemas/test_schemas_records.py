"""Records: what is written is what is read, by the models and by the hot path alike; what is not known is passed over."""

import json
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue, ValidationError

from tailrace.schemas import (
    CHUNK,
    END,
    MAX,
    RECORD,
    ROOT,
    AttemptRecord,
    ChunkRecord,
    DeltaRecord,
    EndRecord,
    Entry,
    ErrorDetail,
    EventRecord,
    Extra,
    Finish,
    JobRecord,
    Logprobs,
    Native,
    OpenPart,
    Position,
    Record,
    RewindRecord,
    Status,
    Timings,
    UnknownRecord,
    chunk_field,
    chunk_run,
    decode,
    position,
)

R = TypeVar("R", bound=BaseModel)

AT = Position("1795333381712503-1")

# -- any record ---------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(0, 2**53)
runs = st.integers(0, 2**31)
positions = st.builds(position, st.integers(0, MAX), st.integers(0, MAX))
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(text, json_values, max_size=3)


def records_of(kind: type[R], /, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[R]:
    """Records with these fields, and with any of the optional ones left out."""
    required = {name: value for name, value in fields.items() if kind.model_fields[name].is_required()}
    may_be = {name: value for name, value in fields.items() if name not in required}
    return st.fixed_dictionaries(required, optional=may_be).map(kind.model_validate)


def optional(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


deltas = st.one_of(
    st.builds(
        OpenPart,
        part=st.sampled_from(["text", "reasoning", "refusal", "tool_call"]),
        choice=numbers,
        index=numbers,
        id=st.none() | text,
        name=st.none() | text,
    ),
    st.builds(Logprobs, choice=numbers, logprobs=json_values),
    st.builds(Finish, choice=numbers, reason=text),
    st.builds(Extra, choice=numbers, fields=objects),
    st.builds(Native, event=objects),
)
errors = st.builds(ErrorDetail, type=text, message=text, code=st.none() | text, retryable=st.booleans())
timings = st.builds(Timings, created=st.none() | numbers, first_chunk_ms=st.none() | numbers)
any_record: st.SearchStrategy[Record] = st.one_of(
    records_of(
        JobRecord,
        position=positions,
        digest=text,
        incarnation=text,
        ts=numbers,
        deadline=numbers,
        retention_ms=numbers,
        api=text,
        model=optional(text),
        task=optional(text),
        max_attempts=numbers,
        on_restart=st.sampled_from(["splice", "continue", "fail"]),
        metadata=objects,
        tags=st.lists(text, max_size=3),
    ),
    records_of(
        AttemptRecord,
        position=positions,
        attempt=numbers,
        worker=text,
        nonce=text,
        incarnation=text,
        ts=numbers,
        after=positions,
        replay=st.booleans(),
    ),
    records_of(ChunkRecord, position=positions, run=runs, text=text),
    records_of(DeltaRecord, position=positions, run=runs, delta=deltas),
    records_of(
        EventRecord,
        position=positions,
        run=runs,
        event=text,
        run_id=optional(text),
        name=optional(text),
        parents=optional(st.lists(runs, max_size=3)),
        tags=optional(st.lists(text, max_size=3)),
        metadata=optional(objects),
        data=objects,
        ts=numbers,
    ),
    records_of(RewindRecord, position=positions, run=runs, to=positions),
    records_of(
        EndRecord,
        position=positions,
        status=st.sampled_from(Status),
        last=positions,
        ts=numbers,
        finish_reason=optional(text),
        usage=optional(objects),
        error=optional(errors),
        attempts=optional(numbers),
        timings=optional(timings),
    ),
)


def entry_of(record: Record) -> Entry:
    field = chunk_field(record.run) if isinstance(record, ChunkRecord) else record.kind
    return Entry(record.position, field, record.value())


@given(any_record)
def test_any_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode(entry_of(record)) == record


@given(any_record)
def test_any_record_is_the_same_as_json_with_its_kind_and_position(record: Record) -> None:
    assert RECORD.validate_json(record.model_dump_json()) == record


@given(any_record)
def test_the_value_of_a_record_repeats_neither_its_kind_nor_its_position(record: Record) -> None:
    if not isinstance(record, ChunkRecord):
        assert not {"kind", "position"} & set(json.loads(record.value()))


# -- the hot path -------------------------------------------------------------------------------------------------


@given(text, runs)
def test_the_hot_path_and_the_models_read_a_chunk_alike(chunk: str, run: int) -> None:
    entry = Entry(AT, chunk_field(run), chunk)
    by_hot_path = (chunk_run(entry.field), entry.value)
    model = RECORD.validate_python({"kind": "chunk", "position": AT, "run": run, "text": chunk})
    assert decode(entry) == model
    assert isinstance(model, ChunkRecord)
    assert (model.run, model.text) == by_hot_path == (run, model.value())


def test_the_roots_chunks_have_the_shortest_field() -> None:
    assert chunk_field(ROOT) == CHUNK == "chunk"
    assert chunk_field(7) == "chunk:7"


@pytest.mark.parametrize(
    "field",
    [
        "",
        "chunks",
        "chunk:",
        "chunk:0",
        "chunk:07",
        "chunk:-1",
        "chunk:1\n",
        "chunk:²",
        "chunk:٣",
        "chunk:a",
        "delta",
        "chunk:" + "9" * 5000,
    ],
)
def test_a_field_that_is_no_chunks_is_none(field: str) -> None:
    assert chunk_run(field) is None


@given(st.text(max_size=12).map(lambda rest: f"chunk:{rest}"))
def test_a_run_has_one_name(field: str) -> None:
    run = chunk_run(field)
    assert run is None or chunk_field(run) == field


# -- what is not known --------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=8), st.text(max_size=12))
def test_a_kind_that_is_not_known_is_passed_over_whatever_it_holds(kind: str, value: str) -> None:
    if kind not in {"job", "attempt", "chunk", "delta", "event", "rewind", "end"}:
        assert decode(Entry(AT, kind, value)) == UnknownRecord(position=AT, kind=kind, raw=value)


def test_a_delta_of_a_type_that_is_not_known_is_passed_over() -> None:
    value = '{"delta":{"type":"hologram","voxels":[1]}}'
    assert decode(Entry(AT, "delta", value)) == UnknownRecord(position=AT, kind="delta", raw=value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rewind", '{"to":"5-1","colour":"blue"}'),
        ("delta", '{"delta":{"type":"finish","reason":"stop","colour":"blue"},"colour":"blue"}'),
        ("end", '{"status":"failed","last":"5-1","ts":1,"error":{"type":"a","message":"b","colour":"blue"}}'),
    ],
)
def test_fields_that_are_not_known_are_passed_over(field: str, value: str) -> None:
    with_it, without_it = decode(Entry(AT, field, value)), decode(Entry(AT, field, _without_colour(value)))
    assert with_it == without_it
    assert "blue" not in with_it.model_dump_json()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("end", "no JSON"),
        ("end", "[]"),
        ("end", "{}"),
        ("end", '{"status":"nirvana","last":"5-1","ts":1}'),
        ("delta", '{"delta":{"part":"text"}}'),
        ("delta", '{"delta":{"type":"finish"}}'),
        ("delta", '{"delta":5}'),
        ("rewind", '{"run":"root","to":"5-1"}'),
    ],
)
def test_a_value_that_no_tailrace_wrote_is_an_error(field: str, value: str) -> None:
    with pytest.raises(ValidationError):
        decode(Entry(AT, field, value))


def test_a_value_cannot_speak_for_another_kind_or_position() -> None:
    value = '{"to":"5-1","kind":"end","position":"9-9"}'
    assert decode(Entry(AT, "rewind", value)) == RewindRecord(position=AT, to=Position("5-1"))


def test_an_end_stands_at_the_end() -> None:
    assert EndRecord(status=Status.COMPLETED, last=AT, ts=1).position == END


def _without_colour(value: str) -> str:
    return value.replace(',"colour":"blue"', "")
