"""What to answer: a script and a request folded into pieces. Pure: no clock, no I/O, no state between calls."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tailrace.upstreams._ask import Ask
from tailrace.upstreams._script import Finish, Script, ScriptedCall
from tailrace.upstreams._words import answer, cut_at_stop, instance_of, keys_in, numbered, skip_to, tokenize

#: Stands for the bytes that are no UTF-8 until the very end, where it becomes them. A private-use character.
NOT_UTF8: Final = "\uf8ff"

Part = Literal["reasoning", "refusal", "text", "call"]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call's head; its arguments follow as pieces."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of one part. `call` says to which call a piece of arguments belongs."""

    part: Part
    text: str
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. `pieces` of an endless one can be walked once and has no end."""

    pieces: Iterable[Piece]
    finish: Finish


def plan(ask: Ask, script: Script, number: int) -> list[Choice]:
    """The choices, in the order of their index; `number` counts the calls for this key, from 1."""
    return [_choice(ask, script, number, prompt, index) for prompt in ask.prompts for index in range(ask.n)]


def text_tokens(ask: Ask, script: Script, prompt: str, choice: int = 0) -> list[str]:
    """The whole text for a prompt, before limits, stops, faults and what the caller has of it already."""
    if script.chunks is not None:
        return list(script.chunks)
    if script.text is not None:
        return tokenize(script.text)
    if script.tokens is not None:
        return numbered(script.tokens)
    if ask.schema is not None:
        wish = instance_of(ask.schema, prompt) if ask.schema else dict.fromkeys(keys_in(prompt) or ["answer"], "water")
        return tokenize(json.dumps(wish))
    return tokenize(answer(prompt, choice))


def _choice(ask: Ask, script: Script, number: int, prompt: str, index: int) -> Choice:
    calls = _calls(ask, script, prompt, index)
    finish: Finish = "tool_calls" if calls else "stop"
    pieces = [Piece("reasoning", token) for token in tokenize(script.reasoning or "")]
    if script.refusal is not None:
        pieces += [Piece("refusal", token) for token in tokenize(script.refusal)]
    elif not calls or (script.text, script.chunks, script.tokens) != (None, None, None):
        pieces += _text(ask, script, number, prompt, index)
    for call, arguments in calls:
        # An empty piece opens the call: without it, a call without arguments would not be seen.
        pieces += [Piece("call", part, call) for part in ("", *_fragments(arguments))]
    pieces = _with_fault(pieces, script)
    if ask.limit is not None and _cost(pieces) > ask.limit:
        pieces, finish = _limited(pieces, ask.limit), "length"
    if script.fault == "endless":
        return Choice(_endless(pieces), "stop")
    return Choice(pieces, script.finish or finish)


def _text(ask: Ask, script: Script, number: int, prompt: str, index: int) -> list[Piece]:
    tokens = text_tokens(ask, script, prompt, index)
    if ask.prefill and "".join(tokens).startswith(ask.prefill):
        tokens = skip_to(tokens, len(ask.prefill))[1]
    elif script.seed_by == "call" and number > 1:
        tokens = [f"{token}.{number}" if at >= script.differ_at else token for at, token in enumerate(tokens)]
    tokens, _ = cut_at_stop(tokens, ask.stops)
    return [Piece("text", token) for token in tokens]


def _calls(ask: Ask, script: Script, prompt: str, index: int) -> list[tuple[Call, str]]:
    wished = script.calls
    if isinstance(wished, tuple):
        return [(_head(at, index, call.name), _written(call)) for at, call in enumerate(wished)]
    scripted_text = (script.text, script.chunks, script.tokens, script.refusal) != (None, None, None, None)
    if wished is None:
        wished = 0 if ask.after_tool or scripted_text or ask.tool_choice == "none" or ask.schema is not None else 1
    tools: Sequence[Any] = ask.tools
    if ask.tool_choice.startswith("="):
        tools = [tool for tool in ask.tools if tool.name == ask.tool_choice[1:]]
    if not tools:
        return []
    chosen = itertools.islice(itertools.cycle(tools), wished)
    return [
        (_head(at, index, tool.name), json.dumps(instance_of(tool.parameters, prompt) or {}, ensure_ascii=False))
        for at, tool in enumerate(chosen)
    ]


def _head(at: int, choice: int, name: str) -> Call:
    return Call(at, f"call_rehearsal_{choice}_{at}", name)


def _written(call: ScriptedCall) -> str:
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)


def _fragments(arguments: str, width: int = 8) -> list[str]:
    return [arguments[at : at + width] for at in range(0, len(arguments), width)]


def _cost(pieces: Sequence[Piece]) -> int:
    return sum(1 for piece in pieces if piece.part != "call" or piece.text)


def _limited(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    kept: list[Piece] = []
    for piece in pieces:
        if _cost((piece,)) > limit:
            break
        limit -= _cost((piece,))
        kept.append(piece)
    return kept


def _with_fault(pieces: list[Piece], script: Script) -> list[Piece]:
    """The faults that lie in the content, not in the way it is sent."""
    match script.fault:
        case "no_content":
            return []
        case "huge":
            odd = Piece("text", "x" * script.size)
        case "invalid_utf8":
            odd = Piece("text", f" {NOT_UTF8}")
        case _:
            return pieces
    at = min(script.at, len(pieces))
    return [*pieces[:at], odd, *pieces[at + 1 :]]


def _endless(pieces: Sequence[Piece]) -> Iterable[Piece]:
    yield from pieces
    for number in itertools.count():
        yield Piece("text", f" token{number}")
