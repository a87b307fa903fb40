"""The streams of the OpenAI API, folded from records."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from view_logs import Log

from tailrace.schemas import START, Entry, Extra, Finish, Logprobs, Native, OpenPart, Position, Status
from tailrace.views import (
    ChatChunksView,
    CompletionsView,
    Frame,
    NativeResponsesView,
    OpenAIView,
    Rewound,
    chat_completion,
    completion,
    result_of,
)

JOB = "job-1"


def chat_log() -> Log:
    log = Log("chat", "gpt-4o-mini")
    log.attempt()
    log.start("chat_model")
    log.delta(OpenPart(part="reasoning"))
    log.chunk("hm")
    log.delta(OpenPart())
    log.chunk("Bub")
    log.chunk("bles")
    log.delta(OpenPart(choice=1))
    log.chunk("Foam")
    log.delta(OpenPart(part="tool_call", choice=1, id="c1", name="f"))
    log.chunk('{"a":')
    log.chunk("1}")
    log.delta(Extra(fields={"audio": {"id": "a"}}))
    log.delta(Finish(reason="stop"))
    log.delta(Finish(choice=1, reason="tool_calls"))
    return log


def frames(items: list[Frame | Rewound]) -> list[Frame]:
    assert not [item for item in items if isinstance(item, Rewound)]
    return [item for item in items if isinstance(item, Frame)]


def deltas(items: list[Frame | Rewound]) -> list[Any]:
    bodies: list[Any] = [frame.body for frame in frames(items)]
    return [(choice["index"], choice["delta"]) for body in bodies for choice in body["choices"]]


def text(items: list[Frame | Rewound]) -> str:
    return "".join(delta.get("content") or "" for index, delta in deltas(items) if index == 0)


def test_each_choice_opens_with_its_role_and_every_part_has_its_field() -> None:
    log = chat_log()
    role = {"role": "assistant", "content": "", "refusal": None}
    opening = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert deltas(ChatChunksView(JOB).feed(log.entries)) == [
        (0, role),
        (0, {"reasoning_content": "hm"}),
        (0, {"content": "Bub"}),
        (0, {"content": "bles"}),
        (1, role),
        (1, {"content": "Foam"}),
        (1, {"tool_calls": [opening]}),
        (1, {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        (1, {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        (0, {"audio": {"id": "a"}}),
        (0, {}),
        (1, {}),
    ]


def test_usage_is_told_only_to_those_who_asked() -> None:
    log = chat_log()
    log.end(usage={"total_tokens": 7})
    plain, asked = (
        [frame.body for frame in frames(ChatChunksView(JOB, include_usage=wanted).feed(log.entries))]
        for wanted in (False, True)
    )
    assert not [body for body in plain if "usage" in body]
    assert [body["usage"] for body in asked] == [None] * len(plain) + [{"total_tokens": 7}]
    assert asked[-1]["choices"] == []


def test_log_probabilities_go_with_the_text_that_they_came_with() -> None:
    log = Log("chat")
    log.attempt()
    log.chunk("Bub")
    log.delta(Logprobs(logprobs={"content": [1]}))
    view = ChatChunksView(JOB)
    bodies: list[Any] = [frame.body for frame in frames(view.feed(log.entries))]
    assert [choice["logprobs"] for body in bodies for choice in body["choices"]] == [None, {"content": [1]}]
    late: list[Any] = [frame.body for frame in frames(view.feed([log.delta(Logprobs(logprobs={"content": [2]}))]))]
    assert late[0]["choices"] == [{"index": 0, "delta": {}, "logprobs": {"content": [2]}, "finish_reason": None}]


def test_a_job_that_gave_no_finish_reason_is_finished_by_its_end() -> None:
    for view, log in ((ChatChunksView(JOB), Log("chat")), (CompletionsView(JOB), Log())):
        log.attempt()
        log.chunk("Bub")
        log.end()
        last: Any = frames(view.feed(log.entries))[-1].body
        assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.EXPIRED])
def test_a_bad_end_gives_no_last_frame(status: Status) -> None:
    log = chat_log()
    view = ChatChunksView(JOB)
    view.feed(log.entries)
    assert view.feed([log.end(status)]) == []
    assert view.end is not None
    assert view.end.status is status


VIEWS: list[Callable[[], OpenAIView]] = [
    lambda: ChatChunksView(JOB, include_usage=True),
    lambda: CompletionsView(JOB, include_usage=True),
    lambda: NativeResponsesView(JOB),
]


def responses_log() -> Log:
    log = Log("responses")
    log.attempt()
    place: dict[str, Any] = {"item_id": "m", "output_index": 0}
    log.delta(Native(event={"type": "response.created", "sequence_number": 0}))
    item: Any = {"id": "m", "type": "message", "content": []}
    log.delta(Native(event={"type": "response.output_item.added", "output_index": 0, "item": item}))
    part: Any = {"type": "output_text", "text": "", "annotations": []}
    log.delta(Native(event={"type": "response.content_part.added", **place, "content_index": 0, "part": part}))
    log.delta(OpenPart(id="m"))
    log.chunk("Bub")
    log.chunk("bles")
    log.delta(Native(event={"type": "response.output_item.done", "output_index": 0, "item": {"id": "m"}}))
    log.delta(Finish(reason="stop"))
    log.delta(Native(event={"type": "response.completed", "response": {"id": "r"}}))
    return log


def test_what_the_log_leaves_out_of_a_response_is_put_back_and_numbered() -> None:
    bodies: list[Any] = [frame.body for frame in frames(NativeResponsesView(JOB).feed(responses_log().entries))]
    assert [body["type"].removeprefix("response.") for body in bodies] == [
        "created",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [body["sequence_number"] for body in bodies] == list(range(9))
    assert [body["delta"] for body in bodies[3:5]] == ["Bub", "bles"]
    assert bodies[5]["text"] == bodies[6]["part"]["text"] == "Bubbles"


def test_a_done_event_that_came_whole_is_not_said_twice() -> None:
    log = responses_log()
    done: dict[str, Any] = {"type": "response.output_text.done", "item_id": "m", "output_index": 0, "content_index": 0}
    entry = log.delta(Native(event={**done, "text": "Bubbles!"}))
    log.entries.remove(entry)
    log.entries.insert(-3, entry)
    kinds = [frame.body["type"] for frame in frames(NativeResponsesView(JOB).feed(log.entries))]
    assert kinds.count("response.output_text.done") == kinds.count("response.content_part.done") == 1


@settings(deadline=None)
@given(cut=st.integers(0, 16), which=st.integers(0, 2))
def test_cut_anywhere_and_resumed_the_frames_are_the_same(cut: int, which: int) -> None:
    log = responses_log() if which == 2 else chat_log()
    log.end(usage={"total_tokens": 7})
    whole = VIEWS[which]().feed(log.entries)
    live = VIEWS[which]()
    assert [item for entry in log.entries for item in live.feed([entry])] == whole
    late = VIEWS[which]()
    before, after = log.entries[:cut], log.entries[cut:]
    late.feed(before, show=False)
    at: Position = before[-1].position if before else START
    late.resume(at)
    positions = {entry.position for entry in after}
    assert late.feed(after) == [item for item in frames(whole) if item.position in positions]


def rewound_log() -> tuple[Log, Position]:
    log = Log("chat")
    log.attempt()
    stands = log.chunk("Bub").position
    log.chunk("bles")
    return log, stands


def test_a_stream_that_showed_what_is_void_ends_there() -> None:
    log, stands = rewound_log()
    view = ChatChunksView(JOB)
    view.feed(log.entries)
    rewind = log.rewind(stands)
    (item,) = view.feed([rewind, log.chunk("ly")])
    assert isinstance(item, Rewound)
    assert item.position == rewind.position
    assert view.feed([log.chunk("!"), log.end()]) == []


def test_who_comes_late_gets_only_what_stands() -> None:
    log, stands = rewound_log()
    log.rewind(stands)
    log.chunk("ly")
    assert text(ChatChunksView(JOB).feed(log.entries)) == "Bubly"


def test_a_rewind_to_what_was_shown_last_voids_nothing_of_it() -> None:
    log, stands = rewound_log()
    view = ChatChunksView(JOB)
    shown = view.feed(log.entries[:-1])
    more = view.feed([log.entries[-1], log.rewind(stands), log.chunk("ly")])
    assert text(shown + more) == "Bubly"


def test_who_resumes_behind_a_rewind_stands_on_what_stands() -> None:
    log, stands = rewound_log()
    rewind = log.rewind(stands)
    view = ChatChunksView(JOB)
    assert view.feed(log.entries, show=False) == []
    view.resume(rewind.position)
    assert text(view.feed([log.chunk("ly"), log.delta(Finish(reason="stop"))])) == "ly"


@pytest.mark.parametrize("repeated", ["bles", "ly"])
def test_a_server_that_lost_shown_text_ends_the_stream(repeated: str) -> None:
    log, stands = rewound_log()
    view = ChatChunksView(JOB)
    view.feed(log.entries)
    log.lose(stands)
    items = view.feed([log.attempt(), log.chunk(repeated)])
    assert [type(item) for item in items] == [Rewound]


def test_a_loss_that_the_view_never_saw_ends_the_stream() -> None:
    log, stands = rewound_log()
    lost = log.top
    log.lose(stands)
    view = ChatChunksView(JOB)
    view.feed(log.entries, show=False)
    view.resume(lost)
    assert [type(item) for item in view.feed([log.attempt()])] == [Rewound]


def test_the_whole_answer_is_what_its_stream_adds_up_to() -> None:
    log = chat_log()
    log.end(finish_reason="stop", usage={"total_tokens": 7})
    answer: Any = chat_completion(result_of(JOB, log.entries))
    first, second = answer["choices"]
    assert first["message"] == {
        "role": "assistant",
        "content": "Bubbles",
        "refusal": None,
        "reasoning_content": "hm",
        "audio": {"id": "a"},
    }
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert second["message"]["tool_calls"] == [call]
    assert (first["finish_reason"], second["finish_reason"]) == ("stop", "tool_calls")
    assert answer["usage"] == {"total_tokens": 7}


def test_several_prompts_are_one_answer_with_their_choices_in_order() -> None:
    def answered(word: str) -> list[Entry]:
        log = Log()
        log.attempt()
        log.chunk(word)
        log.delta(Finish(reason="length"))
        log.end(usage={"total_tokens": 3, "details": {"cached": 1}})
        return log.entries

    answer: Any = completion([result_of(JOB, answered(word)) for word in ("one", "two")])
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "one"), (1, "two")]
    assert answer["usage"] == {"total_tokens": 6, "details": {"cached": 2}}
