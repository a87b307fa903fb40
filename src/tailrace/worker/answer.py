"""One answer of an upstream into one run of a job: generated, compared with what stands of it, written.

A prompt job is one of these; a task has one for each of its calls of a model.
"""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from tailrace.schemas import ROOT, JobRequest, OnRestart, OpenPart
from tailrace.telemetry import metrics_catalogue as told
from tailrace.telemetry.metrics_counts import Distribution
from tailrace.telemetry.tracing import NOTHING, Span
from tailrace.worker.memory import Line
from tailrace.worker.recorder import Recorder
from tailrace.worker.sources import Item, Outcome, UpstreamError
from tailrace.worker.splice import Splice
from tailrace.worker.upstreams import Upstreams, UpstreamStream


class Answer:
    """Asks until it is told the whole answer, at most once at a time: `write()` or `pieces()` is one try.

    The openai package's retries of the request phase and tries of ours never multiply: `retries_left` is one budget.
    """

    def __init__(
        self,
        request: JobRequest,
        *,
        recorder: Recorder,
        upstreams: Upstreams,
        base: Line,
        run: int = ROOT,
        on_restart: OnRestart = "splice",
        retries_left: int | None = None,
        span: Span = NOTHING,
    ) -> None:
        """`base`: the run's start, to rewind to. `retries_left`: what tries before this answer left of the upstream's setting.
        `span`: what the calls are below, if it is not the one at hand."""
        self._span = span
        self._request, self._recorder, self._upstreams = request, recorder, upstreams
        self._base, self._run, self._on_restart = base, run, on_restart
        self.retries_left = upstreams.retries(request.upstream) if retries_left is None else retries_left
        self.first_s: float | None = None
        """From the beginning of the last try to its first text."""
        self.continued = False
        """Whether the last try went on from what stands, instead of beginning anew."""
        self.outcome: Outcome | None = None

    async def write(self, stands: Sequence[Line]) -> None:
        """Give to the writer what the upstream says and what of it does not stand; then `outcome` is known.

        `stands`: the run's output that stands. Raises: UpstreamError, OutputLimit, LogRefusal.
        """
        async with self._asked(stands) as (stream, pen):
            await stream.pour(pen.take, self._recorder.writer.ready)

    async def pieces(self, stands: Sequence[Line]) -> AsyncGenerator[list[Line]]:
        """As `write`; the lines of the answer, also those that stand, once they are given to the writer."""
        async with self._asked(stands) as (stream, pen):
            async for items in stream:
                pen.take(items)
                await self._recorder.writer.ready()
                yield pen.lines

    @asynccontextmanager
    async def _asked(self, stands: Sequence[Line]) -> AsyncGenerator[tuple[UpstreamStream, "_Pen"]]:
        go_on_from = _plain_text(stands) if self._on_restart == "continue" else None
        pen = _Pen(self._recorder, self._run, self._upstreams)
        asked = self._upstreams.open(self._request, continue_from=go_on_from or None, max_retries=self.retries_left)
        try:
            async with AsyncExitStack() as stack:
                with self._span.entered():
                    stream = await stack.enter_async_context(asked)
                self.retries_left = max(0, self.retries_left - stream.retries_taken)
                self.continued = stream.continued
                if stream.continued:
                    for line in stands:
                        self._recorder.said(line.text)
                pen.splice = Splice([] if stream.continued else stands, base=self._base, run=self._run)
                pen.first_tokens = self._upstreams.counts.distribution(told.FIRST_TOKEN, stream.upstream)
                try:
                    yield stream, pen
                finally:
                    stream.call.began(pen.first_at, stream.retries_taken)
                self.outcome = ended = stream.outcome
                stream.call.answered(
                    reason=ended.finish_reason, model=ended.model, response_id=ended.response_id, usage=ended.usage
                )
        except UpstreamError as error:
            if error.phase == "request":
                self.retries_left = 0  # the openai package has used them up
            raise
        finally:
            if self.first_s is None:
                self.first_s = pen.first_s
        self._recorder.write(*pen.splice.close())


class _Pen:
    """Turns the items of one answer into lines, and gives to the writer those that do not stand."""

    splice: Splice
    first_tokens: Distribution

    def __init__(self, recorder: Recorder, run: int, upstreams: Upstreams) -> None:
        self._recorder, self._run, self._upstreams = recorder, run, upstreams
        self._began = time.monotonic()
        self.first_at: float | None = None
        self.lines: list[Line] = []
        """Of the last items."""

    @property
    def first_s(self) -> float | None:
        """From its making to its first text."""
        return None if self.first_at is None else self.first_at - self._began

    def take(self, items: Sequence[Item]) -> bool:
        """Whether the writer has room for more. Raises: OutputLimit, LogRefusal."""
        recorder, splice = self._recorder, self.splice
        self._upstreams.pieces += len(items)
        lines: list[Line] = []
        for item in items:
            if self.first_at is None and isinstance(item, str):
                self.first_at = time.monotonic()
                self.first_tokens.observe(self.first_at - self._began)
            line = recorder.item(item, self._run)
            lines.append(line)
            # One by one: what came before the one that is too much is written.
            recorder.write(*splice.feed(line))
        self.lines = lines
        return recorder.writer.has_room


def _plain_text(stands: Sequence[Line]) -> str | None:
    """The text that stands, if there is nothing but text of the answer."""
    text: list[str] = []
    for line in stands:
        if line.field != "delta":
            text.append(line.text)
        elif json.loads(line.text)["delta"] != OpenPart().model_dump(mode="json", exclude_none=True):
            return None
    return "".join(text)
