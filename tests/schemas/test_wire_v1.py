"""Wire version 1 as it lies in people's servers: golden files that never change, and the schema for other languages."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from tailrace.joblog import decode_snapshot
from tailrace.schemas import WIRE_VERSION, Entry, Position, chunk_run, decode
from tailrace.schemas.export import wire_schema, wire_schema_text

GOLDEN = Path(__file__).with_name("golden") / "wire-v1"
SCHEMA = Path(__file__).parents[2] / "docs" / "wire" / "v1.schema.json"

#: A change of the wire format is a new version with files of its own; these stay as they are.
SHA256 = {
    "later-records.json": "0ae16e0afedf35561bc439de48170ae7e94c212ff0e95f08f99f070c0292062c",
    "later.json": "512017e0ac0703d6dc0af7cd341b9a7bd97761d871a0b7320f1d5a818cecb981",
    "log.json": "a128edee51a7427560650893e697644a5fc579117632f0adf9d27227b4b1a3e6",
    "records.json": "7f8f922e8bc3f3230b457276ba1aec2f2a86ab9913ea73d1d08baff5ce6ae4e3",
    "snapshot.bin": "ec8b34b53887f7d0f3f26073ad67a37d12aaa772b74532cdcbbb31eaf97109ef",
}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def entries(name: str) -> list[Entry]:
    return [Entry(Position(position), field, value) for position, field, value in golden(name)]


def holds(now: object, then: object) -> bool:
    """Everything that was read then is read now; a later version may know optional fields beyond."""
    if isinstance(then, dict) and isinstance(now, dict):
        fields, known = cast("dict[str, object]", then), cast("dict[str, object]", now)
        return all(name in known and holds(known[name], value) for name, value in fields.items())
    return now == then


def test_the_golden_files_never_change() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in GOLDEN.iterdir()} == SHA256


@pytest.mark.parametrize("name", ["log", "later"])
def test_an_old_log_is_read_as_it_ever_was(name: str) -> None:
    read = [decode(entry).model_dump(mode="json") for entry in entries(f"{name}.json")]
    expected = golden(f"{name}-records.json" if name == "later" else "records.json")
    assert len(read) == len(expected)
    for now, then in zip(read, expected, strict=True):
        assert holds(now, then), (now, then)


def test_an_old_snapshot_holds_the_log_with_all_its_boundaries() -> None:
    assert decode_snapshot("job", (GOLDEN / "snapshot.bin").read_bytes()) == entries("log.json")


def test_the_golden_log_has_every_kind_and_every_type_of_delta() -> None:
    schema = wire_schema()
    kinds = {"chunk" if chunk_run(entry.field) is not None else entry.field for entry in entries("log.json")}
    deltas = {json.loads(entry.value)["delta"]["type"] for entry in entries("log.json") if entry.field == "delta"}
    assert kinds == set(schema["discriminator"]["mapping"])
    assert deltas == set(schema["$defs"]["DeltaRecord"]["properties"]["delta"]["discriminator"]["mapping"])


def test_the_schema_in_the_docs_is_the_codes() -> None:
    # After a change: python -m tailrace.schemas.export docs/wire/v1.schema.json
    assert SCHEMA.name == f"v{WIRE_VERSION}.schema.json"
    assert SCHEMA.read_text(encoding="utf-8") == wire_schema_text()


def as_shown(entry: Entry) -> dict[str, Any]:
    """An entry as the schema describes it, put together by hand as a reader in another language would."""
    run = chunk_run(entry.field)
    if run is not None:
        return {"kind": "chunk", "position": entry.position, "run": run, "text": entry.value}
    return {"kind": entry.field, "position": entry.position, **json.loads(entry.value)}


def test_every_golden_record_follows_the_schema() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    validator: Any = Draft202012Validator(schema)
    for entry in entries("log.json"):
        validator.validate(as_shown(entry))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "heartbeat", "position": "5-1"},
        {"kind": "chunk", "position": "5-1"},
        {"kind": "chunk", "position": "5-1", "text": 5},
        {"kind": "end", "position": "5-1", "status": "nirvana", "last": "5-1", "ts": 1},
        {"kind": "rewind", "to": "5-1"},
    ],
)
def test_the_schema_refuses_what_is_no_record(record: dict[str, Any]) -> None:
    validator: Any = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert not validator.is_valid(record)
