"""What docs/wire holds for other languages is what the code does; the page has its names and numbers."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from wire_clients import ROOT

from tailrace.producer.export import wire_files
from tailrace.queue import payload_key, queue_payload
from tailrace.schemas import GRACE_S, JobRequest, Keys

WIRE = ROOT / "docs" / "wire"


def request_schema() -> Any:
    schema = json.loads((WIRE / "v1.request.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_files_in_the_docs_are_the_codes() -> None:
    # After a change: python -m tailrace.producer.export docs/wire
    files = wire_files()
    assert {path.name for path in WIRE.iterdir()} == set(files)
    for name, text in files.items():
        assert (WIRE / name).read_text(encoding="utf-8") == text, name


def test_the_page_has_the_codes_names_and_numbers() -> None:
    page = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    keys = Keys("ns")
    names = [keys.log("job"), keys.request("job"), keys.snapshot("job"), keys.live("job"), keys.worker("worker")]
    names += [keys.queue, keys.wake, keys.open, payload_key(keys, "job")]
    plain = page.replace("<ns>", "ns").replace("<job>", "job").replace("<worker>", "worker")
    assert [name for name in names if f"`{name}`" not in plain] == []
    default = JobRequest.of("hello")
    for number in (GRACE_S, default.deadline_s, default.retention_s):
        assert f" {number * 1000:.0f}" in page
    assert f"`{queue_payload(0).decode()}`" in page


@pytest.mark.parametrize(
    "request_",
    [
        JobRequest.of("hello", model="m", temperature=0.5, tags=["a"], metadata={"n": None}, deadline=60),
        JobRequest.of("hello", model="gpt-3.5-turbo-instruct", max_tokens=5),
        JobRequest.of(input=[{"role": "user", "content": "hello"}], api="responses", delay=5),
        JobRequest.of(task="index", input={"any": ["thing"]}),
    ],
)
def test_the_request_schema_takes_what_submit_stores(request_: JobRequest) -> None:
    request_schema().validate(request_.model_dump(mode="json", exclude_defaults=True))


@pytest.mark.parametrize(
    "request_", [{}, {"api": "chat", "prompt": "x", "base_url": "http://elsewhere"}, {"api": "telepathy"}]
)
def test_the_request_schema_refuses_what_a_worker_would_not_read(request_: dict[str, Any]) -> None:
    assert not request_schema().is_valid(request_)
