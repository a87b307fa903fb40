"""Logs whose stream is a response: of every upstream API, restarted and not."""

from typing import Any

from view_logs import Log

from tailrace.schemas import Entry, ErrorDetail, Extra, Finish, Logprobs, Native, OpenPart, Status

JOB = "resp_1"
USAGE: dict[str, Any] = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def chat() -> Log:
    """Two choices; reasoning, text with log probabilities, a refusal, parallel calls."""
    log = Log("chat", "gpt-4o-mini")
    log.attempt()
    log.start("chat_model")
    log.delta(OpenPart(part="reasoning"))
    log.chunk("hm")
    log.delta(OpenPart())
    log.chunk("Bub")
    log.delta(Logprobs(logprobs={"content": [{"token": "Bub", "logprob": -0.5, "bytes": [66], "top_logprobs": []}]}))
    log.chunk("bles")
    log.delta(OpenPart(choice=1))
    log.chunk("Foam")
    log.delta(OpenPart(part="refusal", choice=1))
    log.chunk("no")
    log.delta(OpenPart(part="tool_call", id="c0", name="f"))
    log.chunk('{"a":')
    log.delta(OpenPart(part="tool_call", index=1, id="c1", name="g"))
    log.chunk("{")
    log.delta(OpenPart(part="tool_call"))
    log.chunk("1}")
    log.delta(OpenPart(part="tool_call", index=1))
    log.chunk("}")
    log.delta(Extra(fields={"audio": {"id": "a"}}))
    log.delta(Finish(reason="tool_calls"))
    log.delta(Finish(choice=1, reason="stop"))
    log.end(finish_reason="tool_calls", usage=USAGE)
    return log


def restarted() -> Log:
    """A worker died; what the next one generated parts from it in the middle of the message."""
    log = Log("chat", "gpt-4o-mini")
    log.attempt()
    log.delta(OpenPart(part="reasoning"))
    log.chunk("hm")
    log.delta(OpenPart())
    log.chunk("Sparkling ")
    stands = log.chunk("water ").position
    log.chunk("is wet")
    log.attempt()
    log.rewind(stands)
    log.chunk("is great")
    log.delta(Finish(reason="length"))
    log.end(Status.INCOMPLETE, finish_reason="length")
    return log


def failed() -> Log:
    log = Log()
    log.attempt()
    log.chunk("Bub")
    log.end(Status.FAILED, error=ErrorDetail(type="upstream_status", message="slow down", http_status=429))
    return log


def cancelled() -> Log:
    log = Log()
    log.attempt()
    log.chunk("Bub")
    log.end(Status.CANCELLED)
    return log


def native() -> Log:
    """An upstream's own response, told from the start by a second attempt whose ids are others."""
    log = Log("responses", "gpt-4o-mini")
    log.attempt()
    base = log.top
    script = native_script("one")
    for field, value in script[: len(script) // 2]:
        log.raw(field, value)
    log.attempt()
    log.rewind(base)
    for field, value in native_script("two"):
        log.raw(field, value)
    log.end(usage=NATIVE_USAGE)
    return log


NATIVE_USAGE: dict[str, Any] = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 14,
}


def native_script(ids: str, *, word: str = "Bubbles") -> list[tuple[str, str]]:
    """The records of a whole response: reasoning, a search, a message, a call. `ids` is part of all ids."""
    log = Log("responses")
    life: dict[str, Any] = {
        "id": f"resp_{ids}",
        "object": "response",
        "created_at": 1,
        "model": "gpt-4o-mini-2026",
        "output": [],
    }
    life |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    _native(log, "created", response={**life, "status": "in_progress"})
    _native(log, "in_progress", response={**life, "status": "in_progress"})
    reasoning: dict[str, Any] = {"id": f"rs_{ids}", "type": "reasoning", "summary": []}
    _native(log, "output_item.added", output_index=0, item=reasoning)
    at: dict[str, Any] = {"item_id": reasoning["id"], "output_index": 0}
    summary = {"type": "summary_text", "text": ""}
    _native(log, "reasoning_summary_part.added", **at, summary_index=0, part=summary)
    log.delta(OpenPart(part="reasoning", id=f"rs_{ids}"))
    log.chunk("h")
    log.chunk("m")
    reasoning = {**reasoning, "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "e"}
    _native(log, "output_item.done", output_index=0, item=reasoning)
    search: dict[str, Any] = {"id": f"ws_{ids}", "type": "web_search_call", "status": "in_progress", "action": _ACTION}
    _native(log, "output_item.added", output_index=1, item=search)
    _native(log, "web_search_call.searching", item_id=search["id"], output_index=1)
    _native(log, "output_item.done", output_index=1, item={**search, "status": "completed"})
    message: dict[str, Any] = {
        "id": f"msg_{ids}",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    _native(log, "output_item.added", output_index=2, item=message)
    at = {"item_id": message["id"], "output_index": 2, "content_index": 0}
    part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    _native(log, "content_part.added", **at, part=part)
    log.delta(OpenPart(id=f"msg_{ids}"))
    for letter in word:
        log.chunk(letter)
    annotation: dict[str, Any] = {
        "type": "url_citation",
        "url": "https://example.org",
        "title": "t",
        "start_index": 0,
        "end_index": 1,
    }
    _native(log, "output_text.annotation.added", **at, annotation_index=0, annotation=annotation)
    part = {**part, "text": word, "annotations": [annotation]}
    _native(log, "content_part.done", **at, part=part)
    message = {**message, "status": "completed", "content": [part]}
    _native(log, "output_item.done", output_index=2, item=message)
    call: dict[str, Any] = {
        "id": f"fc_{ids}",
        "type": "function_call",
        "call_id": f"call_{ids}",
        "name": "f",
        "arguments": "",
    }
    _native(log, "output_item.added", output_index=3, item={**call, "status": "in_progress"})
    log.delta(OpenPart(part="tool_call", id=f"call_{ids}", name="f"))
    log.chunk('{"a":')
    log.chunk("1}")
    call = {**call, "arguments": '{"a":1}', "status": "completed"}
    _native(log, "output_item.done", output_index=3, item=call)
    log.delta(Finish(reason="tool_calls"))
    output = [reasoning, {**search, "status": "completed"}, message, call]
    more = {"service_tier": "flex", "background": False, "x_upstream": 1, "metadata": {}, "usage": NATIVE_USAGE}
    _native(log, "completed", response={**life, **more, "status": "completed", "output": output})
    return [(entry.field, entry.value) for entry in log.entries[1:]]


_ACTION: dict[str, Any] = {"type": "search", "query": "q", "queries": ["q"]}


def _native(log: Log, kind: str, **fields: Any) -> Entry:
    return log.delta(Native(event={"type": f"response.{kind}", "sequence_number": 7, **fields}))
