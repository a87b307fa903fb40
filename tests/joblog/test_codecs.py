"""Publications and snapshots: what goes in comes out, and junk is told from it."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.joblog import Publication, decode_snapshot, encode_snapshot, parse_publication
from tailrace.schemas import END, FIRST, MAX, Entry, HistoryLost, Position

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
FIELDS = st.sampled_from(["chunk", "chunk:1", "chunk:23", "delta", "event", "rewind", "of a later version"])


def published(publication: Publication) -> bytes:
    """As the script writes it."""
    lines = [
        f"{entry.position} {entry.field} {len(entry.value.encode())}\n{entry.value}\n" for entry in publication.entries
    ]
    return f"{publication.after}\n{''.join(lines)}".encode()


@st.composite
def appends(draw: st.DrawFn) -> Publication:
    epoch, seq = draw(st.integers(1, 2**53)), draw(st.integers(0, 2**40))
    pairs = draw(st.lists(st.tuples(st.sampled_from(["chunk", "chunk:1", "delta"]), TEXTS), min_size=1))
    entries = [Entry(Position(f"{epoch}-{number}"), *pair) for number, pair in enumerate(pairs, seq + 1)]
    return Publication(Position(f"{epoch}-{seq}"), entries)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Whole logs: epochs grow, sequences have no holes (a snapshot would keep them if they had)."""
    entries = [Entry(FIRST, "job", draw(TEXTS))]
    for epoch in sorted(draw(st.sets(st.integers(1, 2**53), max_size=4))):
        entries.append(Entry(Position(f"{epoch}-0"), "attempt", draw(TEXTS)))
        for seq, pair in enumerate(draw(st.lists(st.tuples(FIELDS, TEXTS), max_size=8)), 1):
            entries.append(Entry(Position(f"{epoch}-{seq}"), *pair))
    return [*entries, Entry(END, "end", draw(TEXTS))]


@given(appends())
def test_an_append_is_read_as_it_was_published(publication: Publication) -> None:
    assert parse_publication(published(publication)) == publication


@given(st.binary())
def test_junk_on_a_channel_is_no_publication(junk: bytes) -> None:
    assert parse_publication(junk) is None


@given(appends(), st.data())
def test_a_damaged_publication_is_none_or_follows_from_its_beginning(
    publication: Publication, data: st.DataObject
) -> None:
    payload = published(publication)
    at = data.draw(st.integers(0, len(payload) - 1))
    damaged = payload[:at] + data.draw(st.binary(max_size=3)) + payload[at + data.draw(st.integers(0, 3)) :]
    found = parse_publication(damaged)
    if found is not None and found.entries[0].field not in ("attempt", "end"):
        epoch, seq = found.after.split("-")
        expected = [f"{epoch}-{int(seq) + number}" for number in range(1, len(found.entries) + 1)]
        assert [entry.position for entry in found.entries] == expected


@pytest.mark.parametrize(
    ("after", "entry", "good"),
    [
        ("5-3", Entry(Position("9-0"), "attempt", '{"after":"5-3"}'), True),
        ("5-3", Entry(Position("9-0"), "attempt", '{"after":"5-2"}'), False),
        ("5-3", Entry(Position("4-0"), "attempt", '{"after":"5-3"}'), False),
        ("5-3", Entry(Position("9-0"), "attempt", "{}"), False),
        ("5-3", Entry(Position("9-0"), "attempt", "[]"), False),
        ("5-3", Entry(Position("9-0"), "attempt", "junk"), False),
        ("5-3", Entry(END, "end", '{"last":"5-3"}'), True),
        ("5-3", Entry(END, "end", '{"last":"5-2"}'), False),
        ("5-3", Entry(END, "chunk", "text"), False),
        ("5-3", Entry(Position("5-4"), "end", '{"last":"5-3"}'), False),
        ("5-3", Entry(Position("5-5"), "chunk", "text"), False),
        ("5-3", Entry(Position("5-04"), "chunk", "text"), False),
        ("5-03", Entry(Position("5-4"), "chunk", "text"), False),
        ("5-3", Entry(Position("6-1"), "chunk", "text"), False),
    ],
)
def test_a_publication_that_no_script_made_is_none(after: str, entry: Entry, good: bool) -> None:
    publication = Publication(Position(after), [entry])
    assert parse_publication(published(publication)) == (publication if good else None)


@given(logs())
def test_a_snapshot_holds_every_record_with_its_boundaries(entries: list[Entry]) -> None:
    assert decode_snapshot("job", encode_snapshot(entries)) == entries


def test_a_snapshot_of_tokens_is_a_few_bytes_each() -> None:
    entries = [Entry(Position(f"1795300000000000-{seq}"), "chunk", f" word{seq % 50}") for seq in range(1000)]
    assert len(encode_snapshot(entries)) < 4 * len(entries)


@given(st.binary())
def test_a_damaged_snapshot_is_a_typed_error(junk: bytes) -> None:
    for blob in (junk, b"\x01" + junk, b"\x01" + zlib.compress(junk)):
        with pytest.raises(HistoryLost):
            decode_snapshot("job", blob)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@given(JSON)
def test_a_snapshot_of_another_shape_is_a_typed_error_or_records(shape: Any) -> None:
    blob = b"\x01" + zlib.compress(json.dumps(shape).encode())
    try:
        entries = decode_snapshot("job", blob)
    except HistoryLost:
        return
    assert all(type(entry.value) is str and type(entry.field) is str for entry in entries)


OTHER_SHAPES: list[Any] = [
    [["chunk", 1, 1, [-1, 3], "ab"]],
    [["chunk", 1, 1, [1], "ab"]],
    [["chunk", 1, 1, ["1"], "a"]],
    [["chunk", 1, 1, {}, "a"]],
    [["chunk", 1]],
    ["chunk"],
    [["delta", 1, 1, 5]],
]


@pytest.mark.parametrize("segments", OTHER_SHAPES)
def test_a_snapshot_with_a_segment_of_another_shape_is_a_typed_error(segments: Any) -> None:
    end = ["end", MAX, MAX, "{}"]
    assert decode_snapshot("job", b"\x01" + zlib.compress(json.dumps([end]).encode()))
    with pytest.raises(HistoryLost):
        decode_snapshot("job", b"\x01" + zlib.compress(json.dumps([*segments, end]).encode()))


@pytest.mark.parametrize("shape", [{}, [], "", [["chunk", 1, 1, [2], "ab"]]])
def test_a_snapshot_without_an_end_is_a_typed_error(shape: Any) -> None:
    with pytest.raises(HistoryLost):
        decode_snapshot("job", b"\x01" + zlib.compress(json.dumps(shape).encode()))


def test_a_snapshot_of_a_later_version_is_a_typed_error() -> None:
    blob = encode_snapshot([Entry(END, "end", "{}")])
    with pytest.raises(HistoryLost):
        decode_snapshot("job", b"\x02" + blob[1:])
