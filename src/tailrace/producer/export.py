"""What other languages need, as files: `python -m tailrace.producer.export FOLDER` writes docs/wire again.

The JSON Schemas of records and requests, and the scripts that a client calls: docs/wire.md tells how.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tailrace.joblog.writing import SEAL
from tailrace.producer.storing import SUBMIT
from tailrace.schemas import JobRequest
from tailrace.schemas.export import wire_schema_text
from tailrace.schemas.records import WIRE_VERSION


def request_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a request as submit stores it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **JobRequest.model_json_schema(),
        "title": f"tailrace wire version {WIRE_VERSION}: a request",
        "description": "What a job asks for. Leave out what is as by default: then equal requests have equal digests.",
    }


def wire_files() -> dict[str, str]:
    """Name and text of every file of docs/wire."""
    return {
        f"v{WIRE_VERSION}.schema.json": wire_schema_text(),
        f"v{WIRE_VERSION}.request.schema.json": json.dumps(
            request_schema(), indent=2, sort_keys=True, ensure_ascii=False
        )
        + "\n",
        # To the byte what tailrace itself sends: one entry in the server's script cache for all languages.
        "submit.lua": SUBMIT.source,
        "seal.lua": SEAL.source,
    }


def _main(folder: str) -> None:
    for name, text in wire_files().items():
        (Path(folder) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
