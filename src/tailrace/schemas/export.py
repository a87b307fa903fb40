"""The wire format as JSON Schema, for readers in other languages: `python -m tailrace.schemas.export [FILE]`.

The schema describes a record as tailrace shows it: the JSON of the entry's field, with its `kind` and `position`. Text
travels bare: the field `chunk` (or `chunk:<run>`) is the record `{"kind": "chunk", "run": 0, "text": <value>}`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tailrace.schemas.records import RECORD, WIRE_VERSION


def wire_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of any record, told apart by `kind`. Fields that it does not name are to be ignored."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"tailrace wire version {WIRE_VERSION}: a record of a job's log",
        **RECORD.json_schema(),
    }


def wire_schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(wire_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _main(arguments: list[str]) -> None:
    if arguments:
        Path(arguments[0]).write_text(wire_schema_text(), encoding="utf-8")
    else:
        sys.stdout.write(wire_schema_text())


if __name__ == "__main__":
    _main(sys.argv[1:])
