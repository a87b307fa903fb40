"""The event stream and body of the Responses API. Pure.

Source: platform.openai.com/docs/api-reference/responses-streaming.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tailrace.upstreams._answer import Choice, Piece
from tailrace.upstreams._ask import Ask
from tailrace.upstreams._frames import Frame, Kind, token_logprob
from tailrace.upstreams._words import tokenize

#: The field of a content part in which its text stands.
_FIELD = {"text": "text", "refusal": "refusal", "reasoning": "text"}
#: The type of a content part, which also names its events: `response.<type>.delta`.
_TYPE = {"text": "output_text", "refusal": "refusal", "reasoning": "reasoning_text"}


class ResponsesWire:
    """One response: items one after another, each opened, filled and closed; `sequence_number` from 0 without holes."""

    def __init__(self, ask: Ask, body: Mapping[str, Any], serial: int, created: int) -> None:
        self._ask = ask
        self._asked = body
        self._serial = serial
        self._created = created
        self._sequence = 0
        self._tokens = 0
        self._reasoning = 0
        self._items: list[dict[str, Any]] = []
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def frames(self, choices: Sequence[Choice]) -> Iterator[Frame]:
        choice = choices[0]
        yield self._event("plain", "response.created", response=self._response("in_progress"))
        yield self._event("plain", "response.in_progress", response=self._response("in_progress"))
        open_as: tuple[str, int] | None = None
        for piece in choice.pieces:
            # Text and refusal are items of their own here: one content part per message keeps the shape plain.
            belongs = (piece.part, piece.call.index if piece.call else 0)
            if belongs != open_as:
                if open_as is not None:
                    yield from self._close("plain", "completed")
                yield from self._open(piece)
                open_as = belongs
            yield from self._fill(piece)
        status = _status(choice)
        if open_as is None:
            yield from self._open(Piece("text", ""))
        yield from self._close("finish", "completed" if status == "completed" else "incomplete")
        yield self._event("done", f"response.{status}", response=self._response(status, choice))

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        for _ in self.frames(choices):
            pass
        return self._response(_status(choices[0]), choices[0])

    def failure(self, error: Mapping[str, Any], instead: Frame) -> Frame:
        self._unsay(instead)
        self._settle()
        failed = self._response("failed") | {
            "error": {"code": error.get("code") or "server_error", "message": error["message"]}
        }
        return self._event("finish", "response.failed", response=failed)

    def flat_error(self, error: Mapping[str, Any], instead: Frame) -> Frame:
        self._unsay(instead)
        return self._event("finish", "error", **{key: error.get(key) for key in ("code", "message", "param")})

    def _unsay(self, frame: Frame) -> None:
        """The frame made last will not be sent: its number and its text are free again."""
        self._sequence -= 1
        if frame.kind == "token":
            self._tokens -= 1
            self._text.pop()

    def _event(self, kind: Kind, event: str, /, **fields: Any) -> Frame:
        body = {"type": event, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return Frame(kind, body, event)

    def _open(self, piece: Piece) -> Iterator[Frame]:
        index = len(self._items)
        item: dict[str, Any] = {"status": "in_progress"}
        if piece.call is not None:
            item |= {"id": f"fc_rehearsal{self._serial}_{index}", "type": "function_call", "arguments": ""}
            item |= {"call_id": piece.call.call_id, "name": piece.call.name}
        elif piece.part == "reasoning":
            item |= {"id": f"rs_rehearsal{self._serial}_{index}", "type": "reasoning", "summary": [], "content": []}
        else:
            item |= {"id": f"msg_rehearsal{self._serial}_{index}", "type": "message", "role": "assistant"}
            item["content"] = []
        self._items.append(item)
        self._text, self._logprobs = [], []
        yield self._event("plain", "response.output_item.added", output_index=index, item=_copy(item))
        if piece.call is None:
            part: dict[str, Any] = {"type": _TYPE[piece.part], _FIELD[piece.part]: ""}
            if piece.part == "text":
                part |= {"annotations": [], "logprobs": []}
            item["content"] = [part]
            yield self._event("plain", "response.content_part.added", **self._place(), part=dict(part))

    def _place(self) -> dict[str, Any]:
        item = self._items[-1]
        place = {"item_id": item["id"], "output_index": len(self._items) - 1}
        return place if item["type"] == "function_call" else place | {"content_index": 0}

    def _fill(self, piece: Piece) -> Iterator[Frame]:
        self._text.append(piece.text)
        if piece.call is not None:
            if not piece.text:
                return
            self._tokens += 1
            yield self._event("token", "response.function_call_arguments.delta", **self._place(), delta=piece.text)
            return
        self._tokens += 1
        self._reasoning += piece.part == "reasoning"
        extra: dict[str, Any] = {}
        if piece.part == "text":
            known = [token_logprob(piece.text, self._ask.top_logprobs)] if self._ask.logprobs else []
            self._logprobs += known
            extra["logprobs"] = known
        yield self._event("token", f"response.{_TYPE[piece.part]}.delta", **self._place(), delta=piece.text, **extra)

    def _settle(self) -> None:
        """Write what was sent of the last item into it (joined once: an endless text is long)."""
        if not self._items:
            return
        item = self._items[-1]
        if item["type"] == "function_call":
            item["arguments"] = "".join(self._text)
            return
        part = item["content"][0]
        part["refusal" if part["type"] == "refusal" else "text"] = "".join(self._text)
        if part["type"] == "output_text":
            part["logprobs"] = self._logprobs

    def _close(self, kind: Kind, status: str) -> Iterator[Frame]:
        self._settle()
        item = self._items[-1]
        item["status"] = status
        place = self._place()
        if item["type"] == "function_call":
            done = "response.function_call_arguments.done"
            yield self._event(kind, done, **place, name=item["name"], arguments=item["arguments"])
        else:
            part = item["content"][0]
            said = {key: value for key, value in part.items() if key not in ("type", "annotations")}
            yield self._event(kind, f"response.{part['type']}.done", **place, **said)
            yield self._event(kind, "response.content_part.done", **place, part=dict(part))
        yield self._event(kind, "response.output_item.done", output_index=len(self._items) - 1, item=_copy(item))

    def _response(self, status: str, choice: Choice | None = None) -> dict[str, Any]:
        asked = self._asked
        reason = "content_filter" if choice and choice.finish == "content_filter" else "max_output_tokens"
        return {
            "id": f"resp_rehearsal{self._serial}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": bool(asked.get("background")),
            "error": None,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "metadata": asked.get("metadata") or {},
            "model": self._ask.model,
            "output": [_copy(item) for item in self._items],
            "parallel_tool_calls": asked.get("parallel_tool_calls", True),
            "previous_response_id": asked.get("previous_response_id"),
            "temperature": asked.get("temperature", 1.0),
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "top_p": asked.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": self._usage() if choice else None,
        }

    def _usage(self) -> dict[str, Any]:
        given = len(tokenize(self._ask.history)) + len(tokenize(self._ask.prefill))
        return {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._tokens,
            "output_tokens_details": {"reasoning_tokens": self._reasoning},
            "total_tokens": given + self._tokens,
        }


def _status(choice: Choice) -> str:
    return "incomplete" if choice.finish in ("length", "content_filter") else "completed"


def _copy(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item as it is now: its parts go on changing while the stream runs."""
    copied = dict(item)
    if "content" in copied:
        copied["content"] = [dict(part) for part in copied["content"]]
    return copied
