"""The streams and bodies of chat completions and legacy completions, frame by frame. Pure.

Source: platform.openai.com/docs/api-reference/chat-streaming and .../completions.
"""

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tailrace.upstreams._answer import Choice, Piece
from tailrace.upstreams._ask import Ask
from tailrace.upstreams._script import Script
from tailrace.upstreams._words import tokenize

Kind = Literal["plain", "token", "finish", "done"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event. A fault strikes before a `token` or a `finish`, never before a `plain` one."""

    kind: Kind
    body: Mapping[str, Any] | str
    event: str | None = None


class Wire(Protocol):
    """One API's way to write an answer. Used for one call: it counts what it writes."""

    def frames(self, choices: Sequence[Choice]) -> Iterator[Frame]:
        """The stream, to the end."""
        ...

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The same in one body. The choices must have an end."""
        ...

    def failure(self, error: Mapping[str, Any], instead: Frame) -> Frame:
        """How this API says in a stream that the model failed, in place of a frame that was not sent."""
        ...

    def flat_error(self, error: Mapping[str, Any], instead: Frame) -> Frame:
        """An `event: error` with the error's fields at the top, in place of a frame that was not sent."""
        ...


def interleaved(choices: Sequence[Choice]) -> Iterator[tuple[int, Piece | None]]:
    """The pieces of all choices in turn, each with its choice's index; None when a choice is over."""
    running = {index: iter(choice.pieces) for index, choice in enumerate(choices)}
    while running:
        for index, pieces in list(running.items()):
            piece = next(pieces, None)
            if piece is None:
                del running[index]
            yield index, piece


def logprob(token: str) -> float:
    """A small negative number, the same for the same token."""
    return -(1 + zlib.crc32(token.encode(errors="surrogatepass")) % 200) / 100


def token_logprob(token: str, top: int) -> dict[str, Any]:
    """One token's entry in `logprobs.content`."""
    own = {"token": token, "logprob": logprob(token), "bytes": list(token.encode(errors="surrogatepass"))}
    return own | {"top_logprobs": [own] if top else []}


class _Completions:
    """What chat and legacy completions have in common."""

    def __init__(self, ask: Ask, script: Script, serial: int, created: int) -> None:
        self._ask = ask
        self._script = script
        self._serial = serial
        self._created = created
        self._tokens = 0
        self._reasoning = 0

    def failure(self, error: Mapping[str, Any], instead: Frame) -> Frame:  # noqa: ARG002  # nothing is numbered here
        return Frame("finish", {"error": dict(error)})

    def flat_error(self, error: Mapping[str, Any], instead: Frame) -> Frame:  # noqa: ARG002  # as above
        return Frame("finish", dict(error), "error")

    def frames(self, choices: Sequence[Choice]) -> Iterator[Frame]:
        """All choices interleaved, then usage if it was asked for, then `[DONE]`."""
        for index in range(len(choices)):
            yield from self._opening(index)
        left = len(choices)
        for index, piece in interleaved(choices):
            if piece is not None:
                counted = self._count(piece)
                yield Frame("token" if counted else "plain", self._body([self._delta(index, piece)]))
                continue
            left -= 1
            last = self._body([self._finish(index, choices[index].finish)])
            if left == 0 and self._script.usage_in_last_choice:
                last["usage"] = self._usage()
            yield Frame("plain" if left else "finish", last)
        if self._ask.include_usage and not self._script.usage_in_last_choice:
            yield Frame("finish", self._body([]) | {"usage": self._usage()})
        yield Frame("done", "[DONE]")

    def _count(self, piece: Piece) -> bool:
        counted = piece.part != "call" or bool(piece.text)
        self._tokens += counted
        self._reasoning += counted and piece.part == "reasoning"
        return counted

    def _usage(self) -> dict[str, Any]:
        prompt = len(tokenize(self._ask.history)) + len(tokenize(self._ask.prefill))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._tokens,
            "total_tokens": prompt + self._tokens,
            "completion_tokens_details": {"reasoning_tokens": self._reasoning},
        }

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body: dict[str, Any] = {
            **self._identity(),
            "created": self._created,
            "model": self._ask.model,
            "choices": choices,
        }
        if self._ask.stream and self._ask.include_usage and not self._script.usage_in_last_choice:
            body["usage"] = None
        return body

    def _identity(self) -> dict[str, str]:
        raise NotImplementedError

    def _opening(self, index: int) -> Iterator[Frame]:
        raise NotImplementedError

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _finish(self, index: int, finish: str) -> dict[str, Any]:
        raise NotImplementedError


class ChatWire(_Completions):
    """Chat completions."""

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        written = [self._message(index, choice) for index, choice in enumerate(choices)]
        return self._body(written) | {"usage": self._usage()}

    def _identity(self) -> dict[str, str]:
        kind = "chat.completion.chunk" if self._ask.stream else "chat.completion"
        return {"id": f"chatcmpl-rehearsal{self._serial}", "object": kind}

    def _opening(self, index: int) -> Iterator[Frame]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        yield Frame("plain", self._body([self._choice(index, delta, None)]))

    def _choice(self, index: int, delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
        return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        match piece.part:
            case "reasoning":
                delta: dict[str, Any] = {"reasoning_content": piece.text}
            case "refusal":
                delta = {"refusal": piece.text}
            case "text":
                delta = {"content": piece.text}
            case "call":
                delta = {"tool_calls": [self._fragment(piece)]}
        choice = self._choice(index, delta, None)
        if self._ask.logprobs and piece.part == "text":
            content = [token_logprob(piece.text, self._ask.top_logprobs)]
            choice["logprobs"] = {"content": content, "refusal": None}
        return choice

    def _fragment(self, piece: Piece) -> dict[str, Any]:
        assert piece.call is not None  # noqa: S101  # pieces of calls are made with one
        if piece.text:
            return {"index": piece.call.index, "function": {"arguments": piece.text}}
        function = {"name": piece.call.name, "arguments": ""}
        return {
            "index": piece.call.index,
            "id": piece.call.call_id,
            "type": "function",
            "function": function,
        }

    def _finish(self, index: int, finish: str) -> dict[str, Any]:
        return self._choice(index, {}, finish)

    def _message(self, index: int, choice: Choice) -> dict[str, Any]:
        texts: dict[str, list[str]] = {"reasoning": [], "refusal": [], "text": []}
        calls: dict[int, dict[str, Any]] = {}
        for piece in choice.pieces:
            self._count(piece)
            if piece.call is None:
                texts[piece.part].append(piece.text)
            elif piece.text:
                calls[piece.call.index]["function"]["arguments"] += piece.text
            else:
                calls[piece.call.index] = self._fragment(piece)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(texts["text"]) if texts["text"] or not (calls or texts["refusal"]) else None,
            "refusal": "".join(texts["refusal"]) or None,
        }
        if texts["reasoning"]:
            message["reasoning_content"] = "".join(texts["reasoning"])
        if calls:
            message["tool_calls"] = [
                {key: value for key, value in call.items() if key != "index"} for call in calls.values()
            ]
        logprobs = None
        if self._ask.logprobs:
            content = [token_logprob(token, self._ask.top_logprobs) for token in texts["text"]]
            logprobs = {"content": content, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}


class LegacyWire(_Completions):
    """Legacy completions: text only; reasoning, refusals and tool calls have no place there and are left out."""

    def __init__(self, ask: Ask, script: Script, serial: int, created: int) -> None:
        super().__init__(ask, script, serial, created)
        self._offsets: dict[int, int] = {}

    def frames(self, choices: Sequence[Choice]) -> Iterator[Frame]:
        return super().frames([Choice(_only_text(choice), choice.finish) for choice in choices])

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        written: list[dict[str, Any]] = []
        for index, choice in enumerate(choices):
            tokens: list[str] = []
            for piece in _only_text(choice):
                self._count(piece)
                tokens.append(piece.text)
            written.append(self._choice(index, tokens, choice.finish))
        return self._body(written) | {"usage": self._usage()}

    def _identity(self) -> dict[str, str]:
        return {"id": f"cmpl-rehearsal{self._serial}", "object": "text_completion"}

    def _opening(self, index: int) -> Iterator[Frame]:  # noqa: ARG002  # legacy completions have no opening frame
        return iter(())

    def _delta(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._choice(index, [piece.text], None)

    def _finish(self, index: int, finish: str) -> dict[str, Any]:
        return self._choice(index, [], finish)

    def _choice(self, index: int, tokens: Sequence[str], finish: str | None) -> dict[str, Any]:
        logprobs = None
        if self._ask.logprobs:
            start = self._offsets.get(index, len(self._ask.prompt))
            offsets = list(itertools.accumulate((len(token) for token in tokens), initial=start))
            self._offsets[index] = offsets.pop()
            logprobs = {
                "tokens": list(tokens),
                "token_logprobs": [logprob(token) for token in tokens],
                "top_logprobs": [{token: logprob(token)} for token in tokens] if self._ask.top_logprobs else None,
                "text_offset": offsets,
            }
        return {"index": index, "text": "".join(tokens), "logprobs": logprobs, "finish_reason": finish}


def _only_text(choice: Choice) -> Iterator[Piece]:
    return (piece for piece in choice.pieces if piece.part == "text")
