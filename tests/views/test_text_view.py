"""Text as it comes, and what is told when some of it is void."""

import pytest
from view_logs import Log

from tailrace.schemas import Chunk, Entry, Logprobs, Native, OpenPart, Position, Status
from tailrace.views import Rewound, TextView, View


def song() -> Log:
    log = Log()
    log.attempt()
    log.start()
    for text in ("Bub", "bles ", "rise"):
        log.chunk(text)
    return log


def test_chunks_are_strings_that_know_their_position() -> None:
    log = song()
    chunks = TextView().feed(log.entries)
    assert chunks == ["Bub", "bles ", "rise"]
    assert [c.position for c in chunks if isinstance(c, Chunk)] == [e.position for e in log.entries[-3:]]


def test_the_view_of_another_run_shows_that_runs_text() -> None:
    log = song()
    log.chunk("one", 1)
    log.chunk("twelve", 12)
    assert TextView(1).feed(log.entries) == ["one"]
    assert TextView(12).feed(log.entries) == ["twelve"]


def test_only_text_of_the_first_choice_is_shown() -> None:
    log = song()
    for number, part in enumerate(
        (
            OpenPart(part="reasoning"),
            OpenPart(part="refusal"),
            OpenPart(part="tool_call", id="c", name="f"),
            OpenPart(choice=1),
            OpenPart(),
        )
    ):
        log.delta(part)
        log.chunk(str(number))
    assert TextView().feed(log.entries) == ["Bub", "bles ", "rise", "4"]


def test_text_of_a_part_that_a_newer_writer_opened_is_not_taken_for_the_answer() -> None:
    log = song()
    log.raw("delta", '{"run": 0, "delta": {"type": "open", "part": "audio"}}')
    log.chunk("UklGR")
    log.raw("delta", '{"run": 0, "delta": {"type": "open", "part": "text"}}')
    log.chunk("!")
    assert TextView().feed(log.entries) == ["Bub", "bles ", "rise", "!"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("telemetry", "{}"),
        ("chunk:x", "?"),
        ("chunky", "?"),
        ("delta", "[]"),
        ("delta", "{"),
        ("delta", '{"run": "one", "delta": {}}'),
        ("delta", '{"delta": {"type": ["open"]}}'),
        ("delta", '{"delta": {"type": "logprobs", "choice": "?"}}'),
        ("rewind", '{"to": "yesterday"}'),
        ("rewind", "null"),
        ("event", "{}"),
    ],
)
def test_what_a_newer_writer_says_is_passed_over(field: str, value: str) -> None:
    log = song()
    log.raw(field, value)
    log.chunk("!")
    assert TextView().feed(log.entries) == ["Bub", "bles ", "rise", "!"]


def test_text_inside_native_events_is_shown() -> None:
    log = song()
    events = (
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "message"}},
        {"type": "response.output_text.delta", "output_index": 1, "delta": " up", "logprobs": [{"token": " up"}]},
        {"type": "response.output_text.delta", "output_index": 2, "delta": "another message"},
        {"type": "response.output_text.done", "output_index": 1, "text": " up"},
    )
    for event in events:
        log.delta(Native.model_validate({"event": event}))
    assert TextView().feed(log.entries) == ["Bub", "bles ", "rise", " up"]


def test_text_that_was_shown_and_is_void_is_told_with_what_stands() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries)
    rewind = log.rewind(log.entries[-2].position)
    again = log.chunk("fall")
    assert view.feed([rewind, again]) == [Rewound(rewind.position, "Bubbles "), "fall"]


def test_text_that_is_void_before_the_call_ends_is_never_shown() -> None:
    log = song()
    log.rewind(log.entries[-2].position)
    log.chunk("fall")
    assert TextView().feed(log.entries) == ["Bub", "bles ", "fall"]


def test_a_rewind_of_text_of_this_call_says_nothing_of_earlier_text() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries)
    stands = log.top
    batch = [log.chunk(" up"), log.rewind(stands), log.chunk(" down")]
    assert view.feed(batch) == [" down"]


def test_a_rewind_of_reasoning_or_of_another_run_leaves_the_answer_alone() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries)
    stands = log.top
    batch = [
        log.delta(OpenPart(part="reasoning")),
        log.chunk("hm"),
        log.rewind(stands),
        log.rewind(log.entries[0].position, 1),
    ]
    assert view.feed(batch[:2]) == []
    assert view.feed(batch[2:]) == []
    # the rewind closed the reasoning again
    assert view.feed([log.chunk("!")]) == ["!"]


def test_a_rewind_opens_the_part_that_was_open_there() -> None:
    log = song()
    log.delta(OpenPart(part="reasoning"))
    thought = log.chunk("hm")
    log.delta(OpenPart())
    log.chunk("!")
    log.rewind(thought.position)
    log.chunk(" still thinking")
    assert TextView().feed(log.entries) == ["Bub", "bles ", "rise"]


def test_an_attempt_that_does_not_know_the_last_records_voids_them() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries)
    log.lose(log.entries[-3].position)
    attempt = log.attempt(replay=True)
    assert view.feed([attempt]) == [Rewound(attempt.position, "Bub")]


def test_an_end_that_does_not_know_the_last_records_voids_them() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries)
    log.lose(log.entries[-3].position)
    end = log.end(Status.CANCELLED)
    assert view.feed([end]) == [Rewound(end.position, "Bub")]
    assert view.end is not None
    assert view.end.status is Status.CANCELLED


def test_what_a_lost_rewind_had_voided_stands_again() -> None:
    log = song()
    whole = log.top
    view = TextView()
    view.feed(log.entries)
    view.feed([log.rewind(log.entries[3].position), log.chunk("other")])
    log.lose(whole)
    attempt = log.attempt(replay=True)
    assert view.feed([attempt]) == [Rewound(attempt.position, "Bubbles rise")]


def test_a_new_attempt_that_knows_all_records_voids_nothing() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries)
    assert view.feed([log.attempt(), log.chunk("!")]) == ["!"]


def test_a_reader_whose_position_is_lost_is_always_told_what_stands() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries, show=False)
    view.resume(Position("1000-9"))  # it was shown up to here, by a server that forgot
    attempt = log.attempt(replay=True)
    rest = [attempt, log.chunk("!")]
    assert view.feed(rest) == [Rewound(attempt.position, "Bubbles rise"), "!"]
    # told once: the next attempt is like any other
    assert view.feed([log.attempt(), log.chunk("?")]) == ["?"]


def test_a_loss_of_what_was_not_shown_says_nothing_of_the_text() -> None:
    log = song()
    whole = log.top
    view = TextView()
    log.delta(OpenPart(part="reasoning"))
    log.chunk("hm")
    view.feed(log.entries)
    log.lose(whole)
    batch = [log.attempt(replay=True), log.chunk("!")]
    assert view.feed([*batch, log.rewind(log.top)]) == ["!"]


def test_a_call_that_loses_text_and_rewinds_tells_of_both() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries)
    log.lose(log.entries[-3].position)
    batch = [log.attempt(replay=True), log.chunk("!")]
    rewind = log.rewind(log.top)
    assert view.feed([*batch, rewind]) == [Rewound(rewind.position, "Bub!")]


def test_a_reader_who_was_told_of_a_loss_is_not_told_of_it_again() -> None:
    log = song()
    view = TextView()
    view.feed(log.entries, show=False)
    view.resume(Position("1000-9"))
    view.feed([log.attempt(replay=True)])
    whole = log.top
    view.feed([log.delta(OpenPart(part="reasoning"))])
    log.lose(whole)
    assert view.feed([log.attempt(replay=True), log.chunk("!")]) == ["!"]


def test_what_came_before_the_readers_position_is_not_shown() -> None:
    log = song()
    log.rewind(log.entries[-2].position)
    assert TextView().feed(log.entries, show=False) == []


def test_a_reader_who_resumes_from_a_rewind_goes_on_after_it() -> None:
    log = song()
    rewind = log.rewind(log.entries[-2].position)
    view = TextView()
    view.feed(log.entries, show=False)
    view.resume(rewind.position)
    assert view.feed([log.chunk("fall")]) == ["fall"]


def test_positions_compare_as_numbers() -> None:
    log = song()
    chunks = [log.chunk(str(n)) for n in range(20)]
    view = TextView()
    view.feed(log.entries)
    rewind = log.rewind(chunks[8].position)  # as strings "1000-9" > "1000-12"
    assert view.feed([rewind]) == [Rewound(rewind.position, "Bubbles rise012345678")]


def test_the_end_is_kept_and_shows_nothing() -> None:
    log = song()
    log.delta(Logprobs(logprobs={"content": []}))
    log.end(finish_reason="stop")
    view: View[Chunk | Rewound] = TextView()
    assert view.feed(log.entries[:-1]) == ["Bub", "bles ", "rise"]
    ends = [view.end]
    assert view.feed(log.entries[-1:]) == []
    ends.append(view.end)
    assert [end and end.finish_reason for end in ends] == [None, "stop"]


def test_a_view_does_not_keep_the_callers_list() -> None:
    log = song()
    view = TextView()
    batch: list[Entry] = list(log.entries)
    view.feed(batch)
    batch.clear()
    rewind = log.rewind(log.entries[-2].position)
    assert view.feed([rewind]) == [Rewound(rewind.position, "Bubbles ")]
