"""Streams made of `choices`: chat completions and legacy completions.

Kept: text, reasoning, refusals, tool calls, log probabilities, finish reasons, and whatever else a choice or its delta
holds (Extra). Not kept in the log: fields beside `choices` other than usage and model (ids, timestamps, fingerprints).
They differ from attempt to attempt, so that a restarted stream could never be spliced onto what stands.
"""

from typing import Any, Final, cast

from tailrace.schemas import Extra, Finish, Logprobs, OpenPart
from tailrace.worker.sources.decoding import (
    DONE,
    EventReader,
    Item,
    Outcome,
    Part,
    PartWriter,
    counted,
    objects,
    outcome,
)
from tailrace.worker.sources.errors import broken, reported
from tailrace.worker.sources.pattern import Path, TextPattern
from tailrace.worker.sse import Event

_DELTA: Final = frozenset({"role", "content", "refusal", "reasoning", "reasoning_content", "tool_calls"})
_CALL: Final = frozenset({"index", "id", "type", "function"})
_FUNCTION: Final = frozenset({"name", "arguments"})
_CHOICE: Final = frozenset({"index", "delta", "text", "logprobs", "finish_reason"})


class _ChoicesDecoder:
    """Subclasses say how a choice becomes items."""

    #: Where the text of choice 0 stands in an event.
    _text_path: Path

    def __init__(self, secret: str = "") -> None:
        self._reader = EventReader(secret)
        self._secret = secret
        self._parts = PartWriter()
        self._pattern = TextPattern()
        self._finished: dict[int, str] = {}
        self._appeared: set[int] = set()
        self._usage: dict[str, Any] | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._done = False

    @property
    def complete(self) -> bool:
        return self._done

    def feed(self, event: Event) -> list[Item]:
        """The items of one event. Raises: UpstreamError."""
        items: list[Item] = []
        if self._done:
            return items
        data, name, bare = event
        if bare:
            self._pattern.forget()
        elif name is None:
            text = self._pattern.text(data)
            if text is not None and self._parts.put_text(text, items):
                return items
        if data == DONE:
            self._done = True
            self._parts.flush(items)
            return items
        body = self._reader.read(event)
        if self._model is None and isinstance(body.get("model"), str):
            self._model = self._reader.clean(body["model"])
        if self._id is None and isinstance(body.get("id"), str):
            self._id = self._reader.clean(body["id"])
        usage = body.get("usage")
        if isinstance(usage, dict):
            self._usage = self._reader.clean(usage)
        choices = body.get("choices")
        if choices is None and ("message" in body or "detail" in body):  # an error without the word error
            raise reported(self._reader.clean(body), secret=self._secret)
        for choice in objects(choices, "choices"):
            index = counted(choice.get("index"), "a choice index")
            self._appeared.add(index)
            self._choice(index, choice, items)
        if len(items) == 1 and name is None and isinstance(items[0], str) and not self._reader.lossy:
            self._pattern.learn(data, body, self._text_path, items[0])
        return items

    def close(self) -> Outcome:
        """How it ended. A finish reason or [DONE] makes an end; but no choice may be left in the middle of others.

        Raises: UpstreamError.
        """
        self._reader.check_end()
        unfinished = self._appeared - set(self._finished)
        if not self._finished and not self._done:
            raise broken("the stream ended without a finish reason and without [DONE]")
        if self._finished and unfinished:
            raise broken(f"the stream ended before choice {min(unfinished)} was finished")
        reason = self._finished.get(0) or next(iter(self._finished.values()), None)
        if reason == "error":
            raise reported(None, secret=self._secret)
        return outcome(reason, self._usage, self._model, self._id)

    def _choice(self, index: int, choice: dict[str, Any], items: list[Item]) -> None:
        raise NotImplementedError

    def _put(self, part: Part, choice: int, text: str, items: list[Item]) -> None:
        lossy = self._reader.lossy
        if part == "text" and choice == 0 and not lossy and self._parts.put_text(text, items):
            return
        self._parts.put(OpenPart(part=part, choice=choice), text, items, lossy=lossy)

    def _rest(self, index: int, choice: dict[str, Any], extra: dict[str, Any], items: list[Item]) -> None:
        """What follows the text of a choice: log probabilities, what has no part, the finish."""
        logprobs = choice.get("logprobs")
        if logprobs and (not isinstance(logprobs, dict) or any(cast("dict[str, Any]", logprobs).values())):
            items.append(Logprobs(choice=index, logprobs=self._reader.clean(logprobs)))
        if not choice.keys() <= _CHOICE:
            extra.update(_unknown(choice, _CHOICE))
        if extra:
            items.append(Extra(choice=index, fields=self._reader.clean(extra)))
        reason = choice.get("finish_reason")
        if reason is not None and index not in self._finished:
            self._parts.flush(items, index)
            self._finished[index] = self._reader.clean(str(reason))
            items.append(Finish(choice=index, reason=self._finished[index]))


class CompletionsDecoder(_ChoicesDecoder):
    """Legacy completions: `choices[].text`."""

    _text_path = ("choices", 0, "text")

    def _choice(self, index: int, choice: dict[str, Any], items: list[Item]) -> None:
        text = choice.get("text")
        extra: dict[str, Any] = {}
        if isinstance(text, str):
            self._put("text", index, text, items)
        elif text is not None:
            extra["text"] = text
        self._rest(index, choice, extra, items)


class ChatDecoder(_ChoicesDecoder):
    """Chat completions: `choices[].delta`."""

    _text_path = ("choices", 0, "delta", "content")

    def __init__(self, secret: str = "") -> None:
        super().__init__(secret)
        self._calls: dict[int, dict[int, tuple[str | None, str | None]]] = {}  # choice -> index -> id, name

    def _choice(self, index: int, choice: dict[str, Any], items: list[Item]) -> None:
        delta = choice.get("delta")
        extra: dict[str, Any] = {}
        if isinstance(delta, dict):
            fields = cast("dict[str, Any]", delta)
            content = fields.get("content")
            if isinstance(content, str) and len(fields) == 1:  # nearly every event of a stream
                self._put("text", index, content, items)
            else:
                self._delta(index, fields, extra, items)
        elif delta:
            extra["delta"] = delta
        self._rest(index, choice, extra, items)

    def _delta(self, index: int, delta: dict[str, Any], extra: dict[str, Any], items: list[Item]) -> None:
        extra.update(_unknown(delta, _DELTA))
        if delta.get("role") not in (None, "assistant"):
            extra["role"] = delta["role"]
        self._reasoning(index, delta, extra, items)
        parts: tuple[tuple[str, Part], ...] = (("content", "text"), ("refusal", "refusal"))
        for name, part in parts:
            value = delta.get(name)
            if isinstance(value, str):
                self._put(part, index, value, items)
            elif value:
                extra[name] = value
        unknown_calls: list[dict[str, Any]] = []
        for call in objects(delta.get("tool_calls"), "tool calls"):
            self._call(index, call, unknown_calls, items)
        if unknown_calls:
            extra["tool_calls"] = unknown_calls

    def _reasoning(self, index: int, delta: dict[str, Any], extra: dict[str, Any], items: list[Item]) -> None:
        # Two names for the same thing; some upstreams send both with the same text.
        told: str | None = None
        for name in ("reasoning_content", "reasoning"):
            value = delta.get(name)
            if isinstance(value, str):
                if not told:
                    told = value
                    self._put("reasoning", index, value, items)
                elif value != told:
                    extra[name] = value
            elif value:
                extra[name] = value

    def _call(self, choice: int, call: dict[str, Any], unknown: list[dict[str, Any]], items: list[Item]) -> None:
        calls = self._calls.setdefault(choice, {})
        given = self._reader.clean(call.get("id"))
        call_id = given if isinstance(given, str) and given else None
        if call.get("index") is None:  # some upstreams send whole calls and leave the index out
            index = len(calls) if call_id is not None or not calls else max(calls)
        else:
            index = counted(call["index"], "a tool call index")
        function = call.get("function")
        fields = cast("dict[str, Any]", function) if isinstance(function, dict) else {}
        given = self._reader.clean(fields.get("name"))
        name = given if isinstance(given, str) and given else None
        known_id, known_name = calls.get(index, (None, None))
        if index not in calls or (call_id and not known_id) or (name and not known_name):
            calls[index] = (call_id or known_id, name or known_name)
            opening = OpenPart(part="tool_call", choice=choice, index=index, id=call_id, name=name)
            self._parts.open(opening, items)
        arguments = fields.get("arguments")
        if isinstance(arguments, str):
            opening = OpenPart(part="tool_call", choice=choice, index=index)
            self._parts.put(opening, arguments, items, lossy=self._reader.lossy)
        rest = _unknown(call, _CALL)
        if call.get("type") not in (None, "function"):
            rest["type"] = call["type"]
        inner = _unknown(fields, _FUNCTION)
        if arguments is not None and not isinstance(arguments, str):
            inner["arguments"] = arguments
        if inner:
            rest["function"] = inner
        if rest:
            unknown.append({"index": index, **rest})


def _unknown(fields: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in known and value not in (None, "", {}, [])}
