"""Writes what happens inside a runnable into the job's log: which run is which, what readers are told of it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.messages import AIMessageChunk
from pydantic import JsonValue

from tailrace.schemas import ROOT, ErrorDetail, JsonObject
from tailrace.views import split_event
from tailrace.worker.attempts import add_usage
from tailrace.worker.discretion import texts_of, told_of, without_prompt
from tailrace.worker.memory import Line
from tailrace.worker.recorder import Recorder
from tailrace.worker.runnables.chunks import ModelStream, text_of
from tailrace.worker.runnables.encoding import encode, encode_object, placeholder
from tailrace.worker.runnables.past import Past, usage_in
from tailrace.worker.runnables.watching import RunFailed
from tailrace.worker.splice import Splice

_MODELS: Final = ("chat_model", "llm")
_OURS: Final = "tailrace."


@dataclass(eq=False, slots=True)
class _Run:
    number: int
    kind: str
    stream: ModelStream = field(default_factory=ModelStream)
    ended: bool = False


class Publisher:
    """One attempt's."""

    def __init__(
        self, recorder: Recorder, past: Past, splice: Splice, *, everything: bool, inputs: bool, room: int
    ) -> None:
        """`everything`: the streams of all kinds of runs. `inputs`: whether they are shown. `room`: how much may be told
        beside the job's text and its models'; what is over it is told without its content."""
        self.streamed = False
        """Whether the runnable has streamed any text."""
        self.returned: object = None
        self.complete = False
        """Whether the runnable has come to its end."""
        self._recorder, self._splice = recorder, splice
        self._everything, self._inputs, self._room = everything, inputs, room
        request = recorder.job.request
        self._hidden = frozenset[str]() if inputs else texts_of(request)
        self._last = past.last_run
        self._runs: dict[str, _Run] = {}
        self._root: str | None = None
        self._text = ModelStream()
        self.usage: dict[str, int] = {}
        for used in past.usage:
            add_usage(self.usage, used)

    def take_over(self, past: Past) -> None:
        """End the runs that an earlier attempt has left open: the last to begin first, parents after their children."""
        message = "the attempt that it belonged to died; the runnable is run again"
        error = ErrorDetail(type="restarted", message=message, retryable=True)
        for number, kind in reversed(past.open.items()):
            data: JsonObject = {"error": error.model_dump(mode="json")}
            self._recorder.write(self._recorder.event(f"on_{kind}_error", run=number, data=data))

    def take(self, event: Mapping[str, Any]) -> None:
        """Raises: OutputLimit, and the refusal that an earlier append met."""
        name, run_id = str(event["event"]), str(event["run_id"])
        run = self._runs.get(run_id)
        if name == "on_custom_event":
            self._custom(event, run)
            return
        kind, phase = split_event(name)
        data: Mapping[str, Any] = event.get("data") or {}
        if phase == "start" and run is None:
            self._start(event, run_id, kind, data)
        elif run is None or run.ended:
            return
        elif phase == "stream":
            self._stream(run_id, run, data.get("chunk"))
        elif phase == "end":
            self._end(run_id, run, data)
        elif phase == "error":
            self._error(run, data.get("error"), data)

    def fail(self, failed: RunFailed) -> None:
        """As `take`, of an error."""
        run = self._runs.get(failed.run_id)
        if run is not None and not run.ended:
            self._error(run, failed.error, {})

    def say(self, text: str) -> None:
        """Text of the job itself."""
        self._say(self._text.text(text))

    def close(self) -> None:
        """No more text comes."""
        self._say(self._text.close())
        self._recorder.write(*self._splice.close())

    def describe(self, error: BaseException, kind: str) -> ErrorDetail:
        """What readers are told of an exception."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            detail = ErrorDetail(type="cancelled", message="it was called off")
        else:
            detail = ErrorDetail(type=kind, message=told_of(error))
        return without_prompt(detail, self._recorder.job.request)

    def _start(self, event: Mapping[str, Any], run_id: str, kind: str, data: Mapping[str, Any]) -> None:
        self._last += 1
        run = self._runs[run_id] = _Run(self._last, kind or "chain")
        above = [known.number for parent in event.get("parent_ids") or () if (known := self._runs.get(str(parent)))]
        self._root = self._root or run_id
        self._tell(
            f"on_{run.kind}_start",
            run,
            {"input": encode(data["input"])} if self._inputs and "input" in data else {},
            name=encode_text(str(event.get("name") or "")) or run.kind,
            run_id=run_id,
            parents=[ROOT, *above],
            tags=[encode_text(str(tag)) for tag in event.get("tags") or ()] or None,
            metadata=encode_object(event.get("metadata")) or None,
        )

    def _stream(self, run_id: str, run: _Run, chunk: object) -> None:
        if run_id == self._root:
            self.say(text_of(chunk))
        if run.kind in _MODELS or (self._everything and isinstance(chunk, str)):
            piece = run.stream.read(chunk)
            self._recorder.write(*(self._recorder.item(item, run.number) for item in piece.items))
            chunk = piece.rest
        elif not self._everything:
            return
        if chunk is not None:
            shown = self._shown(run, chunk)
            if isinstance(chunk, AIMessageChunk) and isinstance(shown, dict):
                shown = {name: value for name, value in shown.items() if value or name == "content"}
            self._tell(f"on_{run.kind}_stream", run, {"chunk": shown})

    def _end(self, run_id: str, run: _Run, data: Mapping[str, Any]) -> None:
        run.ended = True
        self._recorder.write(*(self._recorder.item(item, run.number) for item in run.stream.close()))
        output = data.get("output")
        if run_id == self._root:
            self.returned, self.complete = output, True
        told: JsonObject = {"output": self._shown(run, output)}
        if self._inputs and "input" in data:
            told["input"] = encode(data["input"])
        used = usage_in(run.kind, "end", told)
        add_usage(self.usage, used)
        self._tell(f"on_{run.kind}_end", run, told)

    def _error(self, run: _Run, error: object, data: Mapping[str, Any]) -> None:
        run.ended = True
        raised = error if isinstance(error, BaseException) else RuntimeError(str(error))
        told: JsonObject = {"error": self.describe(raised, "run_error").model_dump(mode="json")}
        if data.get("tool_call_id") is not None:
            told["tool_call_id"] = encode(data["tool_call_id"])
        if self._inputs and "input" in data:
            told["input"] = encode(data["input"])
        self._tell(f"on_{run.kind}_error", run, told)

    def _custom(self, event: Mapping[str, Any], run: _Run | None) -> None:
        name = encode_text(str(event.get("name") or "")) or "custom"
        if name.startswith(_OURS):  # words that tailrace itself acts on
            name = f"custom.{name}"
        value = event.get("data")
        data = encode(value)
        told: JsonObject = data if isinstance(value, dict) and isinstance(data, dict) else {"value": data}
        self._tell("on_custom_event", run, told, name=name)

    def _shown(self, run: _Run, value: object) -> JsonValue:
        """What readers see of an output: what a prompt came to is the question itself."""
        if run.kind == "prompt" and not self._inputs:
            return placeholder(value, "withheld")
        return encode(value, hidden=frozenset[str]() if run.kind in _MODELS else self._hidden)

    def _tell(self, event: str, run: _Run | None, data: JsonObject, **fields: Any) -> None:
        number = ROOT if run is None else run.number
        line = self._recorder.event(event, run=number, data=data, **fields)
        if len(line.text) > self._room and not event.endswith("_error"):  # what went wrong is short, and wanted
            size = len(json.dumps(data))
            left_out: JsonObject = {name: placeholder(value, "output_limit", size) for name, value in data.items()}
            line = self._recorder.event(event, run=number, data=left_out, **fields)
        self._room = max(0, self._room - len(line.text))
        self._recorder.write(line)

    def _say(self, items: list[Any]) -> None:
        lines: list[Line] = []
        for item in items:
            lines += self._splice.feed(self._recorder.item(item, ROOT))
        self.streamed = self.streamed or bool(items)
        self._recorder.write(*lines)


def encode_text(text: str) -> str:
    """Text that can be stored."""
    return str(encode(text))
