"""The splitter of server-sent events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.worker.sse import Event, EventTooLarge, Splitter

_PIECES = st.sampled_from(
    [
        b"data: {}", b"data:x", b"data", b"data: ", b"data:  two", b"event: error", b"event:", b"id: 7", b"retry: 5", b":",
        b": keep-alive", b'{"error": {"message": "m"}}', b'error: {"code": 500}', b"  }", b"odd", b"odd: {", b"\xff\xfe",
        b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xc3\xa9", b"data: a\n\n", b"\n\n\n",
    ]
)  # fmt: skip
_STREAMS = st.lists(_PIECES, max_size=40).map(b"".join)


def split(*pieces: bytes, limit: int = 1000) -> tuple[list[Event], bool, bool]:
    """All events, whether data was pending at the end, whether the limit struck."""
    splitter = Splitter(limit)
    events: list[Event] = []
    try:
        for piece in pieces:
            events += splitter.feed(piece)
        events += splitter.close()
    except EventTooLarge as error:
        return events + error.before, False, True
    return events, splitter.pending, False


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(edges)]


@given(_STREAMS, st.lists(st.integers(min_value=0, max_value=400), max_size=12), st.sampled_from([8, 20, 1000]))
def test_every_cut_of_a_stream_gives_the_events_of_the_whole(stream: bytes, places: list[int], limit: int) -> None:
    assert split(*cut(stream, places), limit=limit) == split(stream, limit=limit)


@given(_STREAMS)
def test_a_stream_byte_by_byte_gives_the_events_of_the_whole(stream: bytes) -> None:
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == split(stream)


@given(_STREAMS.filter(lambda stream: b"\r" not in stream))
def test_line_ends_do_not_matter(stream: bytes) -> None:
    for end in (b"\r\n", b"\r"):
        assert split(stream.replace(b"\n", end)) == split(stream)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
        (b"data: a\ndata: b\n\n", [Event(b"a\nb")]),
        (b"data\n\n", [Event(b"")]),
        (b"data:x\n\n", [Event(b"x")]),
        (b"data:  x\n\n", [Event(b" x")]),
        (b"event: ping\nid: 3\nretry: 9\nodd: y\ndata: z\n\n", [Event(b"z", "ping")]),
        (b"event: ping\n\ndata: z\n\n", [Event(b"z")]),
        (b": comment\n\n:\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
        (b"\n\n\ndata: a\r\r", [Event(b"a")]),
    ],
)
def test_fields_mean_what_the_specification_says(stream: bytes, events: list[Event]) -> None:
    assert split(stream) == (events, False, False)


def test_the_fast_path_gives_what_the_slow_one_gives() -> None:
    splitter = Splitter()
    assert splitter.feed(b": hello\n\n") == []
    assert splitter.feed(b'data: {"a":1}\n\ndata: {"b":2}\n\n') == [Event(b'{"a":1}'), Event(b'{"b":2}')]
    assert splitter.feed(b"event: x\ndata: 1\n\n") == [Event(b"1", "x")]
    assert not splitter.pending


@pytest.mark.parametrize("rest", [b"data: a", b"data: a\n", b"data: a\ndata: b", b"event: x\ndata: y\n"])
def test_an_event_that_the_end_cuts_off_is_not_given_but_told(rest: bytes) -> None:
    assert split(b"data: whole\n\n", rest) == ([Event(b"whole")], True, False)


@pytest.mark.parametrize("rest", [b"", b": comment", b"event: x", b"id: 3\n"])
def test_an_end_between_events_leaves_nothing_pending(rest: bytes) -> None:
    assert split(b"data: whole\n\n", rest) == ([Event(b"whole")], False, False)


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\r\n"])
def test_a_json_line_without_data_is_told_not_dropped(end: bytes) -> None:
    events, pending, _ = split(b"data: a\n\n", b'{"error": {"message": "m"}}', end)
    assert events == [Event(b"a"), Event(b'{"error": {"message": "m"}}', bare=True)]
    assert not pending


def test_a_pretty_printed_error_comes_line_by_line() -> None:
    events, _, _ = split(b'{\n  "error": {\n    "code": 5\n  }\n}')
    assert [event.data for event in events] == [b"{", b'"error": {', b'"code": 5', b"}", b"}"]
    assert all(event.bare for event in events)


def test_an_event_above_the_limit_is_an_error_that_keeps_what_came_before() -> None:
    splitter = Splitter(limit=100)
    with pytest.raises(EventTooLarge) as caught:
        splitter.feed(b"data: a\n\ndata: " + b"x" * 100)
    assert caught.value.before == [Event(b"a")]
    assert caught.value.limit == 100


def test_a_large_event_in_small_pieces_is_refused_before_it_is_whole() -> None:
    splitter = Splitter(limit=1000)
    for _ in range(100):
        splitter.feed(b"x" * 10)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x" * 10)
