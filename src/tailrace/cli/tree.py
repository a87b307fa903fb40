"""A job's runs as a tree, folded from its events. Pure: what it looks like is `tree_lines`' affair."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Final, NamedTuple

from pydantic import JsonValue

from tailrace.schemas import PROGRESS_EVENT, RETRY_EVENT, REWIND_EVENT, START, Position, StreamEvent, parse_position

_CUSTOM_EVENT: Final = "on_custom_event"
_MODELS: Final = frozenset({"llm", "chat_model"})
#: Of texts, outputs and values no more than this is kept: a line shows less.
_KEPT: Final = 500
_NOTES_KEPT: Final = 20
#: What is nested deeper stands beside its parent: indented further there would be no room for its name.
_DEEPEST: Final = 12


class State(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    VOID = "void"
    """Its start was taken back."""


class Sign(StrEnum):
    """What a note tells of."""

    EVENT = "event"
    RETRY = "retry"
    REWIND = "rewind"


class Note(NamedTuple):
    """Something that happened in a run."""

    position: Position
    sign: Sign
    text: str


class Progress(NamedTuple):
    """How far a run says it is."""

    position: Position
    done: float
    total: float | None


@dataclass(eq=False, slots=True)
class Run:
    """One run, and the runs below it in the order in which they were first heard of."""

    run_id: str
    name: str = ""
    """Empty as long as only its children were heard of."""
    kind: str = ""
    parent: "Run | None" = None
    children: list["Run"] = field(default_factory=list["Run"])
    depth: int = 0
    state: State = State.RUNNING
    started: Position = START
    started_ms: int | None = None
    ended: Position | None = None
    ended_ms: int | None = None
    text: str = ""
    """The end of what it has said so far."""
    output: str = ""
    """What it ended with: output, or error."""
    progress: Progress | None = None
    notes: list[Note] = field(default_factory=list[Note])
    notes_dropped: int = 0
    usage: int | None = None
    """Tokens as the upstream counted them."""
    pieces: list[Position] = field(default_factory=list[Position])
    """Where its pieces of text stand: a token each, as far as anybody knows before the upstream has counted."""
    part: str = ""
    """Of what sort `text` is: a model's reasoning is not mixed with its answer."""

    @property
    def over(self) -> bool:
        return self.state is not State.RUNNING

    @property
    def settled(self) -> bool:
        """Whether it and all runs below it are over."""
        return self.over and all(child.settled for child in self.children)

    @property
    def tokens(self) -> int:
        """Of the models in it. What a chain passes on was counted where it came from."""
        own = len(self.pieces) if self.usage is None else self.usage
        below = sum(child.tokens for child in self.children)
        return below + own if self.kind in _MODELS else below or own

    def below(self) -> Iterator["Run"]:
        """All runs below it."""
        for child in self.children:
            yield child
            yield from child.below()

    def elapsed_ms(self, now_ms: float) -> float | None:
        """How long it took, or has been running by now; None if nobody knows."""
        if self.started_ms is None or (self.over and self.ended_ms is None):
            return None
        return max((now_ms if self.ended_ms is None else self.ended_ms) - self.started_ms, 0)


class RunTree:
    """The runs of a job. `fold` its events in their order, from the beginning or from any position."""

    def __init__(self) -> None:
        self.roots: list[Run] = []
        self.attempt = 1
        self._runs: dict[str, Run] = {}

    def fold(self, event: StreamEvent) -> None:
        self.attempt = max(self.attempt, event["attempt"])
        run = self._run(event)
        if event["event"] == _CUSTOM_EVENT:
            self._happened(run, event)
            return
        kind, _, phase = event["event"].removeprefix("on_").rpartition("_")
        # Whoever came late has not heard its start.
        run.name, run.kind = event["name"], kind
        match phase:
            case "start":
                run.state, run.started, run.started_ms = State.RUNNING, event["position"], event["ts"]
                run.ended = run.ended_ms = None
            case "stream":
                _said(run, event)
            case "end" | "error":
                run.state = State.DONE if phase == "end" else State.FAILED
                run.ended, run.ended_ms = event["position"], event["ts"]
                found = event["data"].get("output" if phase == "end" else "error")
                run.output = (_text_of(found) if phase == "end" else _error_of(found))[:_KEPT]
                run.usage = _usage_of(found)
            case _:
                pass

    def _run(self, event: StreamEvent) -> Run:
        parent: Run | None = None
        for run_id in event["parent_ids"]:
            parent = self._known(run_id, parent)
        return self._known(event["run_id"], parent)

    def _known(self, run_id: str, parent: Run | None) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            while parent is not None and parent.depth >= _DEEPEST:
                parent = parent.parent
            run = self._runs[run_id] = Run(run_id, parent=parent)
            if parent is None:
                self.roots.append(run)
            else:
                run.depth = parent.depth + 1
                parent.children.append(run)
        return run

    def _happened(self, run: Run, event: StreamEvent) -> None:
        name, data, position = event["name"], event["data"], event["position"]
        if name == REWIND_EVENT:
            _rewind(run, event)
        elif name == RETRY_EVENT:
            why = _error_of(data.get("error")) if "error" in data else "handed back by its worker"
            _note(run, Note(position, Sign.RETRY, f"tried again: {why}"))
        elif name == PROGRESS_EVENT and (done := _number(data.get("done"))) is not None:
            run.progress = Progress(position, done, _number(data.get("total")))
        else:
            value = data["value"] if data.keys() == {"value"} else data
            _note(run, Note(position, Sign.EVENT, f"{name}  {_text_of(value)}" if value else name))


def _note(run: Run, note: Note) -> None:
    run.notes.append(note._replace(text=note.text[:_KEPT]))
    if len(run.notes) > _NOTES_KEPT:
        del run.notes[0]
        run.notes_dropped += 1


def _rewind(run: Run, event: StreamEvent) -> None:
    """Take back what the run had after a position."""
    to, at = event["data"].get("position"), event["position"]
    stands = parse_position(to if isinstance(to, str) else START)
    before = len(run.pieces)
    while run.pieces and parse_position(run.pieces[-1]) > stands:
        run.pieces.pop()
    run.notes = [note for note in run.notes if note.sign is not Sign.EVENT or parse_position(note.position) <= stands]
    if run.progress is not None and parse_position(run.progress.position) > stands:
        run.progress = None
    if run.ended is not None and parse_position(run.ended) > stands:
        run.state, run.ended, run.ended_ms, run.output, run.usage = State.RUNNING, None, None, "", None
    if parse_position(run.started) > stands:
        run.state = State.VOID
    text = event["data"].get("text")
    run.text, run.part = text[-_KEPT:] if isinstance(text, str) else "", "text"
    void = before - len(run.pieces)
    what = f"{void} token{'' if void == 1 else 's'}" if void else "what it had begun"
    _note(run, Note(at, Sign.REWIND, f"taken back: {what}; a restarted attempt went another way"))


def _said(run: Run, event: StreamEvent) -> None:
    part, text = _piece_of(event["data"].get("chunk"))
    if not text:
        return
    run.pieces.append(event["position"])
    if "choice" not in event["data"]:
        before = run.text if run.part == part else ""
        run.part, run.text = part, (before + text)[-_KEPT:]


def _piece_of(chunk: JsonValue) -> tuple[str, str]:
    """Of what sort it is, and its text."""
    if not isinstance(chunk, dict) or "content" not in chunk:
        return "text", _text_of(chunk)
    if text := _content(chunk["content"]):
        return "text", text
    more = chunk.get("additional_kwargs")
    for part in ("reasoning_content", "refusal"):
        found = more.get(part) if isinstance(more, dict) else None
        if isinstance(found, str) and found:
            return part, found
    calls = chunk.get("tool_call_chunks")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict):
            return "tool_call", "".join(str(call.get(word) or "") for word in ("name", "args"))
    return "", ""


def _text_of(value: JsonValue) -> str:
    """A value for people: text as it is, of messages and generations their text, else JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if "content" in value:
            return _content(value["content"]) or _calls_of(value.get("tool_calls"))
        match value.get("generations"):
            case [[{"text": str(text)}, *_], *_]:
                return text
            case _:
                pass
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str)


def _content(content: JsonValue) -> str:
    """A message's text, which may come in blocks."""
    if isinstance(content, list):
        blocks = [block.get("text") if isinstance(block, dict) else block for block in content]
        return "".join(block for block in blocks if isinstance(block, str))
    return content if isinstance(content, str) else ""


def _calls_of(calls: JsonValue) -> str:
    found = calls if isinstance(calls, list) else []
    return ", ".join(f"{call.get('name')}({_text_of(call.get('args'))})" for call in found if isinstance(call, dict))


def _error_of(error: JsonValue) -> str:
    if isinstance(error, dict):
        return ": ".join(str(error[word]) for word in ("type", "message") if error.get(word))
    return _text_of(error)


def _usage_of(output: JsonValue) -> int | None:
    match output:
        case {"usage_metadata": {"output_tokens": int(tokens)}}:
            return tokens
        case _:
            return None


def _number(value: JsonValue) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None
