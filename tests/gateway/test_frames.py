"""Events as bytes: whatever the text, one event, read back equal by any reader that keeps to the standard."""

import json

from hypothesis import given
from hypothesis import strategies as st
from memory_logs import MemoryLog, a_log
from sse import SseReader, read_sse

from tailrace.gateway.native.encoders import events_kind, records_kind, text_kind
from tailrace.gateway.streams import json_payload, ndjson_line, sse_comment, sse_event
from tailrace.schemas import END

#: Everything that has ever ended a line or a string somewhere.
NASTY = "\r\n\0\u2028\u2029\x85\x0b\x0c\ufeffdata: id: \\\"'</script>é😀"
texts = st.text() | st.text(alphabet=NASTY)


@given(texts, st.lists(st.integers(0, 400)))
def test_any_text_is_one_event_and_comes_back_equal_however_it_is_cut(text: str, cuts: list[int]) -> None:
    sent = sse_event(json_payload({"text": text}), id="1-1") + sse_comment() + sse_event(b"1", event="end")
    reader = SseReader()
    at = 0
    for cut in [*sorted(cuts), len(sent)]:
        reader.feed(sent[at:cut])
        at = max(at, cut)
    first, second = reader.messages
    assert (first.event, first.json, first.last_id) == ("message", {"text": text}, "1-1")
    assert (second.event, second.last_id) == ("end", "1-1")


@given(texts)
def test_any_text_is_one_line_of_json(text: str) -> None:
    line = ndjson_line(json_payload({"text": text}), id="1-1")
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == {"id": "1-1", "event": "message", "data": {"text": text}}


def test_text_that_is_no_character_is_escaped_instead_of_refused() -> None:
    assert json.loads(json_payload({"text": "a\ud800b"})) == {"text": "a\ud800b"}


def test_numbers_that_json_does_not_have_become_null() -> None:
    assert json.loads(json_payload({"nan": float("nan"), "inf": float("inf")})) == {"nan": None, "inf": None}


def test_only_the_last_event_of_a_record_has_its_id_so_that_none_is_missed_after_a_cut() -> None:
    log = MemoryLog()
    log.attempt()
    log.start("chain", 0, [])
    log.start("llm", 1, [0])
    log.end()
    encoded = events_kind("sse", "v2", {}).encoder("job").feed(log.entries)
    reader = SseReader()
    ids = [reader.feed(event.data)[0].last_id for event in encoded]
    names = [message.json.get("event") for message in reader.messages]
    assert names[-3:] == ["on_llm_error", "on_chain_end", None]
    assert ids[-4] == ids[-3] == ids[-2] != END
    assert ids[-1] == END


def test_every_stream_ends_with_an_end_that_tells_the_status_and_is_the_last_position() -> None:
    log = a_log(1)
    for kind in (text_kind("sse"), events_kind("sse", "v2", {}), records_kind("sse")):
        encoded = kind.encoder("job").feed(log.entries)
        end = read_sse(encoded[-1].data)[0]
        assert (end.event, end.last_id, end.json["status"]) == ("end", END, "completed")


def test_whose_job_it_is_is_not_told() -> None:
    (event,) = records_kind("sse").encoder("job").feed(MemoryLog(tenant="acme").entries)
    assert b"acme" not in event.data
