"""Legacy completions: the stream of chunks, and the whole answer.

Source: platform.openai.com/docs/api-reference/completions. Only text has a place there.
"""

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from tailrace.schemas import Choice, Extra, Finish, JsonObject, Logprobs, Result
from tailrace.views._messages import joined_logprobs
from tailrace.views._openai import ChoicesView
from tailrace.views._parts import Piece, Text
from tailrace.views.chat_chunks import created_of


class CompletionsView(ChoicesView):
    """The bodies of a legacy completion's events; `include_usage` as in the API's `stream_options`."""

    def _fold(self, piece: Piece) -> Iterator[JsonObject]:
        match piece:
            case Text(part="text"):
                yield self._body([_choice(piece.choice, piece.text, piece.logprobs)])
            case Logprobs():
                yield self._body([_choice(piece.choice, logprobs=piece.logprobs)])
            case Extra():
                yield self._body([_choice(piece.choice) | piece.fields])
            case Finish():
                self._finished = True
                yield from self._finish(piece.choice, piece.reason)
            case _:
                pass

    def _finish(self, choice: int, reason: str) -> Iterator[JsonObject]:
        yield self._body([_choice(choice, finish=reason)])

    def _head(self) -> JsonObject:
        return {"id": completion_id(self.job_id), "object": "text_completion"}


def completion_id(job_id: str) -> str:
    """The `id` of a legacy completion that a job made."""
    return f"cmpl-{job_id}"


def completion(results: Sequence[Result]) -> JsonObject:
    """The answer that an unstreamed call gets: one job's for each of its prompts, their choices one after another."""
    choices: list[JsonValue] = []
    usage: JsonObject = {}
    for result in results:
        for choice in result.choices or [Choice()]:
            logprobs = joined_logprobs(choice.logprobs)["logprobs"] if choice.logprobs else None
            finish = choice.finish_reason or result.finish_reason or "stop"
            choices.append(_choice(len(choices), choice.text, logprobs, finish))
        usage = _sum(usage, result.usage or {})
    first = results[0]
    return {
        "id": completion_id(first.job_id),
        "object": "text_completion",
        "created": created_of(first),
        "model": first.model or "",
        "choices": choices,
        "usage": usage or None,
    }


def _choice(index: int, text: str = "", logprobs: JsonValue = None, finish: str | None = None) -> JsonObject:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _sum(counts: JsonObject, more: JsonObject) -> JsonObject:
    """Counts of several calls as one, nested ones too."""
    total = {**counts}
    for name, count in more.items():
        before = total.get(name)
        if isinstance(count, dict):
            total[name] = _sum(before if isinstance(before, dict) else {}, count)
        elif isinstance(count, int) and isinstance(before, int):
            total[name] = before + count
        else:
            total[name] = count
    return total
