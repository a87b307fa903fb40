"""What is damaged: streams as the rehearsal upstream writes them, and a log with a record of every kind."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import aiohttp

from tailrace.schemas import END, FIRST, Entry, Position
from tailrace.upstreams.rehearsal import Rehearsal

Api = Literal["chat", "completions", "responses"]

_PATHS: Final[dict[Api, str]] = {"chat": "/chat/completions", "completions": "/completions", "responses": "/responses"}
_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
_SCRIPTS: Final[tuple[dict[str, Any], ...]] = (
    {"tokens": 6},
    {"text": "Grüße, 世界 🎈 \\ud83c \"quoted\" \x00", "ascii": True},
    {"text": "one two\nthree", "crlf": True, "comments": True},
    {"text": "answer", "reasoning": "think first"},
    {"refusal": "no thanks"},
    {"calls": 2, "text": "calling"},
    {"tokens": 3, "finish": "length"},
    {"tokens": 3, "usage_in_last_choice": True},
    {"tokens": 4, "fault": "error_data", "at": 2},
    {"tokens": 4, "fault": "error_bare", "at": 2},
    {"tokens": 4, "fault": "error_event", "at": 2},
    {"tokens": 4, "fault": "failed", "at": 2},
    {"tokens": 4, "fault": "malformed", "at": 2},
    {"tokens": 4, "fault": "empty_data", "at": 2},
    {"tokens": 4, "fault": "clean_end", "at": 2},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stream:
    """One body as it came off the wire."""

    api: Api
    body: bytes


def streams() -> list[Stream]:
    """Every script in every API, and some choices and tools."""
    return asyncio.run(_streams())


async def _streams() -> list[Stream]:
    found: list[Stream] = []
    async with Rehearsal() as rehearsal, aiohttp.ClientSession() as session:
        for api, path in _PATHS.items():
            for script in _SCRIPTS:
                for more in _more(api):
                    body = {"model": "gpt-4o-mini", "stream": True, "rehearsal": script, **_asked(api), **more}
                    async with session.post(rehearsal.base_url + path, json=body) as response:
                        read = await response.read()
                        if response.status == 200 and read:
                            found.append(Stream(api, read))
    return found


def _asked(api: Api) -> dict[str, Any]:
    match api:
        case "chat":
            return {"messages": [{"role": "user", "content": "hello"}], "tools": [_TOOL]}
        case "completions":
            return {"prompt": "hello"}
        case "responses":
            return {"input": "hello", "tools": [{"type": "function", "name": "f", "parameters": {}}]}


def _more(api: Api) -> list[dict[str, Any]]:
    match api:
        case "chat":
            return [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 1}]
        case "completions":
            return [{}, {"n": 2}]
        case "responses":
            return [{}]


def log() -> list[Entry]:
    """A whole log."""
    values: list[tuple[str, Any]] = [
        ("event", {"run": 0, "event": "on_llm_start", "run_id": "r", "name": "m", "parents": [], "data": {}, "ts": 5}),
        ("chunk", "Hello"),
        ("chunk", " 世界 🎈\x00\n"),
        ("chunk:7", "child"),
        ("delta", {"run": 0, "delta": {"type": "open", "part": "tool_call", "index": 1, "id": "c", "name": "f"}}),
        ("delta", {"run": 0, "delta": {"type": "logprobs", "logprobs": {"content": [{"token": "a"}]}}}),
        ("delta", {"run": 0, "delta": {"type": "extra", "fields": {"annotations": [1, None, {"a": 1.5}]}}}),
        ("delta", {"run": 0, "delta": {"type": "native", "event": {"type": "response.created", "n": [1, [2]]}}}),
        ("delta", {"run": 0, "delta": {"type": "finish", "reason": "stop"}}),
        ("event", {"run": 0, "event": "on_custom_event", "name": "x", "data": {"a": {"b": []}}, "ts": 7}),
        ("rewind", {"run": 0, "to": "1700000000000000-2"}),
        ("a later kind", {"odd": True}),
    ]
    job = {
        "wire": 1, "views": 1, "digest": "d" * 64, "incarnation": "i", "ts": 1, "deadline": 2, "retention_ms": 3,
        "api": "chat", "model": "m", "max_attempts": 3, "on_restart": "splice", "metadata": {"a": [1]}, "tags": ["t"],
    }  # fmt: skip
    attempt = {"attempt": 1, "worker": "w", "nonce": "n", "incarnation": "i", "ts": 4, "after": "0-1", "replay": False}
    end = {
        "status": "failed", "last": f"{EPOCH}-{len(values)}", "ts": 9, "usage": {"total_tokens": 3}, "attempts": 1,
        "error": {"type": "t", "message": "m", "retryable": True}, "timings": {"created": 1, "total_ms": 2},
    }  # fmt: skip
    middle = [
        Entry(Position(f"{EPOCH}-{seq}"), field, value if isinstance(value, str) else json.dumps(value))
        for seq, (field, value) in enumerate(values, 1)
    ]
    return [
        Entry(FIRST, "job", json.dumps(job)),
        Entry(Position(f"{EPOCH}-0"), "attempt", json.dumps(attempt)),
        *middle,
        Entry(END, "end", json.dumps(end)),
    ]


EPOCH: Final = 1_700_000_000_000_000
