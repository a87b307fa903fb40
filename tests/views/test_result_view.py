"""The result: what stands, in one object."""

from view_logs import Log

from tailrace.schemas import START, ErrorDetail, Extra, Finish, Logprobs, Native, OpenPart, Status, ToolCall
from tailrace.views import ResultView, result_of


def test_a_log_folds_into_a_result() -> None:
    log = Log()
    log.attempt()
    log.start()
    log.chunk("Bub")
    log.delta(Logprobs(logprobs={"tokens": ["Bub"]}))
    log.chunk("bles")
    log.delta(Finish(reason="stop"))
    last = log.top
    log.end(finish_reason="stop", usage={"total_tokens": 3})
    result = result_of("j1", log.entries)
    assert result.model_dump(exclude_defaults=True) == {
        "job_id": "j1",
        "status": Status.COMPLETED,
        "text": "Bubbles",
        "choices": [{"text": "Bubbles", "finish_reason": "stop", "logprobs": [{"tokens": ["Bub"]}]}],
        "finish_reason": "stop",
        "usage": {"total_tokens": 3},
        "attempts": 1,
        "model": "gpt-3.5-turbo-instruct",
        "metadata": {"user": "u1"},
        "tags": ["song"],
        "last": last,
    }


def test_choices_parts_and_parallel_tool_calls_are_told_apart() -> None:
    log = Log("chat", "gpt-4o-mini")
    log.attempt()
    for part, text in (
        (OpenPart(part="reasoning"), "hm"),
        (OpenPart(), "Let me "),
        (OpenPart(choice=1, part="refusal"), "No"),
        (OpenPart(), "look."),
        (OpenPart(part="tool_call", index=1, id="b", name="tide"), '{"at":'),
        (OpenPart(part="tool_call", index=0, id="a", name="moon"), "{}"),
        (OpenPart(part="tool_call", index=1), '"sea"}'),
    ):
        log.delta(part)
        log.chunk(text)
    log.delta(Extra(fields={"annotations": [1]}))
    log.delta(Finish(reason="tool_calls"))
    log.delta(Finish(choice=1, reason="content_filter"))
    first, second = result_of("j", log.entries).choices
    assert (first.text, first.reasoning, first.finish_reason) == ("Let me look.", "hm", "tool_calls")
    assert first.tool_calls == [
        ToolCall(id="a", name="moon", arguments="{}"),
        ToolCall(id="b", name="tide", arguments='{"at":"sea"}'),
    ]
    assert first.extra == [{"annotations": [1]}]
    assert (second.index, second.refusal, second.finish_reason) == (1, "No", "content_filter")


def test_choices_are_in_the_order_of_their_index() -> None:
    log = Log()
    log.attempt()
    for choice in (2, 0, 1):
        log.delta(OpenPart(choice=choice))
        log.chunk(str(choice))
    result = result_of("j", log.entries)
    assert ([choice.text for choice in result.choices], result.text) == (["0", "1", "2"], "0")


def test_the_text_is_that_of_the_first_choice_only() -> None:
    log = Log()
    log.attempt()
    log.delta(OpenPart(choice=1))
    log.chunk("b")
    assert result_of("j", log.entries).text == ""


def test_a_job_that_is_queued_or_under_way_has_a_result_of_what_stands_so_far() -> None:
    assert result_of("j", []).last == START
    log = Log()
    assert result_of("j", log.entries).status is Status.QUEUED
    log.attempt()
    log.chunk("Bub")
    result = result_of("j", log.entries)
    assert (result.status, result.text, result.last) == (Status.IN_PROGRESS, "Bub", log.top)


def test_a_failed_job_keeps_its_text_and_says_why() -> None:
    log = Log()
    log.attempt()
    log.attempt()
    log.chunk("Bub")
    error = ErrorDetail(type="upstream_broken", message="cut", retryable=True)
    log.end(Status.FAILED, error=error)
    result = result_of("j", log.entries)
    assert (result.status, result.text, result.error, result.attempts) == (Status.FAILED, "Bub", error, 2)


def test_a_zero_length_completion_has_a_choice_without_text() -> None:
    log = Log()
    log.attempt()
    log.delta(Finish(reason="stop"))
    log.end(finish_reason="stop")
    result = result_of("j", log.entries)
    assert (result.text, len(result.choices), result.finish_reason) == ("", 1, "stop")


def test_the_final_response_of_a_responses_upstream_is_kept_whole() -> None:
    log = Log("responses")
    log.attempt()
    log.delta(Native(event={"type": "response.created", "response": {"id": "r", "status": "in_progress"}}))
    log.delta(
        Native(event={"type": "response.output_text.delta", "output_index": 0, "delta": "Hi", "logprobs": [{"t": 1}]})
    )
    log.delta(Native(event={"type": "response.completed", "response": {"id": "r", "status": "completed"}}))
    log.end()
    result = result_of("j", log.entries)
    assert result.native == {"id": "r", "status": "completed"}
    assert result.text == "Hi"
    assert result.choices[0].logprobs == [[{"t": 1}]]


def test_void_records_are_not_in_the_result() -> None:
    log = Log()
    log.attempt()
    log.chunk("Bub")
    stands = log.top
    log.delta(OpenPart(part="tool_call", id="a", name="moon"))
    log.delta(Finish(reason="tool_calls"))
    log.rewind(stands)
    log.chunk("bles")
    log.end()
    (choice,) = result_of("j", log.entries).choices
    assert (choice.text, choice.tool_calls, choice.finish_reason) == ("Bubbles", [], None)


def test_records_that_the_server_lost_are_not_in_the_result() -> None:
    log = Log()
    log.attempt()
    log.chunk("Bub")
    stands = log.top
    view = ResultView("j")
    log.chunk("lost")
    view.feed(log.entries)
    log.lose(stands)
    view.feed([log.attempt(replay=True), log.chunk("bles")])
    assert view.result().text == "Bubbles"


def test_a_job_record_of_a_newer_writer_is_read_as_far_as_it_is_known() -> None:
    log = Log()
    job = log.entries[0]._replace(value='{"on_restart": "rewrite", "model": "m", "tags": "x", "metadata": [1]}')
    result = result_of("j", [job])
    assert (result.model, result.tags, result.metadata) == ("m", [], {})
