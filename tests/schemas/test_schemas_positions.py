"""Positions: opaque to clients, ordered as Redis orders entries, refused unless they are exactly one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.schemas import END, FIRST, MAX, START, InvalidRequest, parse_position, position

numbers = st.integers(0, MAX)


@given(numbers, numbers)
def test_a_position_gives_back_its_epoch_and_sequence(epoch: int, seq: int) -> None:
    assert parse_position(position(epoch, seq)) == (epoch, seq)


@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers))
def test_parsed_positions_compare_as_redis_orders_entries(one: tuple[int, int], other: tuple[int, int]) -> None:
    # redis.io/docs/latest/develop/data-types/streams: a 64-bit time, then a 64-bit sequence.
    as_redis = one[0] << 64 | one[1], other[0] << 64 | other[1]
    assert (parse_position(position(*one)) < parse_position(position(*other))) == (as_redis[0] < as_redis[1])


def test_start_comes_before_the_first_record_and_nothing_after_the_end() -> None:
    assert parse_position(START) < parse_position(FIRST) < parse_position(END) == (MAX, MAX)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-",
        "1-",
        "-1",
        "1-1-1",
        "01-1",
        "1-01",
        "+1-1",
        "1--1",
        " 1-1",
        "1-1 ",
        "1-1\n",
        "1_0-1",
        "1.0-1",
        "٣-1",
        "1٣-1",
        "1-1٣",
        "$",
        "+",
        "(1-1",
        "1-*",
        "18446744073709551616-0",
        "0-18446744073709551616",
        "9" * 5000 + "-0",
        "0-1\0",
        "\ud800",
        None,
        5,
        b"0-1",
    ],
)
def test_what_is_no_position_is_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no position: pass one that") as caught:
        parse_position(text)
    assert repr(text) in str(caught.value)


@given(st.text(alphabet="0123456789-+ ()$*\n٣", max_size=24))
def test_a_text_is_refused_or_is_written_exactly_so(text: str) -> None:
    try:
        epoch, seq = parse_position(text)
    except InvalidRequest:
        return
    assert position(epoch, seq) == text
