"""What readers get: chunks that are text and know where they stand, results that cross process boundaries."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas import START, Choice, Chunk, ErrorDetail, Position, Result, Status, Timings, ToolCall


@given(st.text())
def test_a_chunk_is_the_text_itself(text: str) -> None:
    chunk = Chunk(text, Position("5-1"))
    assert isinstance(chunk, str)
    assert chunk == text
    assert hash(chunk) == hash(text)
    assert repr(chunk) == repr(text)
    assert f"{chunk}" == text
    assert "".join([chunk, chunk]) == text + text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_chunk_keeps_its_position_when_it_is_pickled(protocol: int) -> None:
    same = pickle.loads(pickle.dumps(Chunk("große", Position("5-1")), protocol))
    assert type(same) is Chunk
    assert (str(same), same.position) == ("große", "5-1")


def test_a_chunk_keeps_its_position_when_it_is_copied() -> None:
    chunk = Chunk("a", Position("5-1"))
    for same in (copy.copy(chunk), copy.deepcopy(chunk)):
        assert (same, same.position) == ("a", "5-1")


def test_a_chunk_made_by_hand_stands_at_the_start() -> None:
    assert Chunk("a").position == START


def test_a_result_is_the_same_after_json_and_after_pickling() -> None:
    result = Result(
        job_id="j",
        status=Status.INCOMPLETE,
        text="Oh",
        choices=[Choice(text="Oh", tool_calls=[ToolCall(id="1", name="weather", arguments="{")], logprobs=[None])],
        finish_reason="length",
        usage={"total_tokens": 3},
        error=ErrorDetail(type="x", message="y"),
        timings=Timings(total_ms=5),
        metadata={"user": None},
        last=Position("5-1"),
    )
    assert Result.model_validate_json(result.model_dump_json()) == result
    assert pickle.loads(pickle.dumps(result)) == result


@pytest.mark.parametrize("status", Status)
def test_a_status_is_its_word_and_knows_whether_it_is_an_end(status: Status) -> None:
    assert f"{status}" == status.value
    assert status.ended == (status not in {"queued", "in_progress"})
    assert status.well == (status in {"completed", "incomplete"})
