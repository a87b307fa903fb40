"""Fields of records, read so that what a newer writer says in another way is passed over."""

from typing import cast

from pydantic import JsonValue
from pydantic_core import from_json

from tailrace.schemas import ROOT, EndRecord, Entry, InvalidRequest, decode, parse_position

JsonObject = dict[str, JsonValue]
#: A position that compares as Redis orders entries.
Point = tuple[int, int]


def json_object(value: str) -> JsonObject:
    """The fields of a record; none if its value is no JSON object."""
    try:
        fields: JsonValue = from_json(value)
    except ValueError:
        return {}
    return json_dict(fields)


def json_dict(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def string(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def strings(value: JsonValue) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def number(value: JsonValue, default: int) -> int:
    return value if isinstance(value, int) else default


def run_of(fields: JsonObject) -> int | None:
    """The run that a record belongs to. None if what stands there is no number."""
    run = fields.get("run", ROOT)
    return run if isinstance(run, int) else None


def point(position: JsonValue) -> Point | None:
    """None if it is no position."""
    if not isinstance(position, str):
        return None
    try:
        return parse_position(position)
    except InvalidRequest:
        return None


def read_end(entry: Entry) -> EndRecord:
    """The end is read strictly: what a job came to is not guessed. Raises: pydantic.ValidationError."""
    return cast("EndRecord", decode(entry))
