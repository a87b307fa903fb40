"""A task's call of a model: a run of its own, spliced, continued or taken from the log."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from tailrace.schemas import START, Entry, ErrorDetail, JobRequest, JsonObject
from tailrace.tasks import Answered, LlmStep
from tailrace.views import Parts, Text, output_of
from tailrace.worker.answer import Answer
from tailrace.worker.memory import Line
from tailrace.worker.sources import UpstreamError
from tailrace.worker.tasks.history import StepRun
from tailrace.worker.tasks.ledger import Called, Ledger
from tailrace.worker.tasks.trying import Policy
from tailrace.worker.upstreams import Upstreams


class LlmRun(LlmStep):
    """One call, not begun before it is awaited or iterated over."""

    def __init__(
        self,
        called: Called,
        request: JobRequest,
        *,
        ledger: Ledger,
        upstreams: Upstreams,
        policy: Policy,
        name: str,
        tags: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
    ) -> None:
        self.called, self._request = called, request
        self._ledger, self._upstreams, self._policy = ledger, upstreams, policy
        self._name, self._tags, self._metadata = name, tags, metadata
        self._kind = "llm" if request.api == "completions" else "chat_model"
        self._taken = False

    def __await__(self) -> Generator[Any, None, Answered]:
        return self._whole().__await__()

    def __aiter__(self) -> AsyncIterator[str]:
        text = self._text()
        self._ledger.answering(self.called.scope, text)
        return text

    async def _whole(self) -> Answered:
        step = self._begin()
        if step.ended is None:
            async with aclosing(self._tries(step)) as pieces:
                async for _ in pieces:
                    pass
        return self._answered(step)

    async def _text(self) -> AsyncGenerator[str]:
        step = self._begin()
        parts = Parts(step.number)
        if step.ended is not None:
            for line in self._standing(step):
                if text := _answer_in(parts, line):
                    yield text
            self._answered(step)
            return
        shown = False
        reading = self._ledger.reads(self.called.scope, step, self._kind)
        try:
            async with aclosing(self._tries(step, may_repeat=lambda: not shown)) as pieces:
                async for lines in pieces:
                    for line in lines:
                        if text := _answer_in(parts, line):
                            shown = True
                            yield text
        except GeneratorExit:
            reading.left = True
            raise
        except BaseException:
            self._ledger.read(step)
            raise
        self._ledger.read(step)

    def _begin(self) -> StepRun:
        """Raises: StepMismatch, StepFailed, RuntimeError."""
        if self._taken:
            raise RuntimeError(
                "a call of a model is awaited or iterated over once: call ctx.llm(...) again for another"
            )
        self._taken = True
        step = self._ledger.begin(self.called, self._kind, self._name, tags=self._tags, metadata=self._metadata)
        if step.error is not None:
            raise self._ledger.failed(step)
        return step

    async def _tries(self, step: StepRun, may_repeat: Any = lambda: True) -> AsyncGenerator[list[Line]]:
        """The answer's lines as they come, at last the whole of it. Raises: StepFailed, Again."""
        ledger, recorder = self._ledger, self._ledger.recorder
        answer = Answer(
            self._request,
            recorder=recorder,
            upstreams=self._upstreams,
            base=step.start,
            run=step.number,
            on_restart="continue" if recorder.job.request.on_restart == "continue" else "splice",
            span=step.span,
        )
        stands, tries = step.output, 0
        while True:
            lines: list[Line] = []
            limit = self._policy.limit()
            try:
                async with aclosing(answer.pieces(stands)) as pieces:
                    while (new := await limit.within(anext(pieces, None))) is not None:
                        if answer.continued and not lines:
                            new = [*stands, *new]
                        lines += new
                        yield new
            except (UpstreamError, TimeoutError) as error:
                detail = _detail(error, self._policy)
                tries += 1
                if not detail.retryable or tries > self._policy.retries:
                    raise await ledger.fail(step, self._kind, self._policy.discreet(detail), error) from error
                if not may_repeat():
                    raise ledger.again_whole(detail) from error
                stands = await ledger.again(step, self._policy.discreet(detail))
                await self._policy.pause(tries)
            else:
                break
        step.output = lines
        data: JsonObject = {}
        if answer.outcome is not None:
            data = {"finish_reason": answer.outcome.finish_reason, "usage": answer.outcome.usage}
        await ledger.end(step, self._kind, {name: value for name, value in data.items() if value is not None})

    def _standing(self, step: StepRun) -> list[Line]:
        """The lines of a finished run. Of one that was left before its end the log knows best how far it came."""
        left = step.ended is not None and step.ended.get("left")
        return self._ledger.recorder.job.memory.output(step.number) if left else step.output

    def _answered(self, step: StepRun) -> Answered:
        data: Any = step.ended or {}
        usage = data.get("usage")
        self._ledger.used(usage)
        output = output_of((Entry(START, line.field, line.text) for line in self._standing(step)), step.number)
        first = output.first
        return Answered(
            first.text,
            choices=output.choices,
            finish_reason=data.get("finish_reason") or first.finish_reason,
            usage=usage,
            run_id=step.run_id,
        )


def _answer_in(parts: Parts, line: Line) -> str:
    piece = parts.read(Entry(START, line.field, line.text))
    return piece.text if isinstance(piece, Text) and piece.part == "text" and piece.choice == 0 else ""


def _detail(error: UpstreamError | TimeoutError, policy: Policy) -> ErrorDetail:
    return error.detail if isinstance(error, UpstreamError) else policy.timed_out()
