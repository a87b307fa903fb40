"""Following a job on standard output: as text, events or records, with a position to go on from."""

import sys
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from enum import StrEnum
from typing import Final

from rich.console import Console

from tailrace import AsyncJob, AsyncTailrace
from tailrace.cli.output import Output, compact, error_fields, is_terminal
from tailrace.cli.tree import RunTree
from tailrace.cli.tree_screen import TreeScreen, screen_of
from tailrace.client import OnRewind
from tailrace.schemas import END, START, JobEnded, Position, Status, StreamRewound, UnknownRecord

_REWOUND: Final = "-- rewound: a restarted attempt went another way; the text from its beginning is now --"


class Form(StrEnum):
    """The three ways to read a job."""

    TEXT = "text"
    EVENTS = "events"
    RECORDS = "records"


class Tail:
    """Follows one job to its end. `position` is where it stands: after an interruption, go on from there."""

    def __init__(
        self, job_id: str, output: Output, *, after: str = START, form: Form = Form.TEXT, namespace: str | None = None
    ) -> None:
        """`namespace`: the one that was given on the command line, to be repeated in advice."""
        self._job_id, self._output, self._form, self._namespace = job_id, output, form, namespace
        self.position = Position(after)
        self._mid_line = False

    async def run(self, tailrace: AsyncTailrace) -> None:
        """Raises: JobFailed, JobCancelled or JobExpired after what came; JobNotFound and the other errors of reading."""
        job = tailrace.job(self._job_id)
        try:
            match self._form:
                case Form.TEXT:
                    await self._text(job)
                case Form.EVENTS:
                    screen = screen_of(self._output)
                    await (self._events(job) if screen is None else self._tree(tailrace, job, screen))
                case Form.RECORDS:
                    await self._records(job)
        finally:
            if self._mid_line and self._output.on_terminal:
                self._output.line("")

    def how_to_go_on(self) -> str:
        """What an interrupted reader may type next."""
        words = ["tailrace", "tail", self._job_id]
        words += ["--after", self.position] if self.position != START else []
        words += [f"--{self._form}"] if self._form is not Form.TEXT else []
        words += ["--namespace", self._namespace] if self._namespace else []
        return f"interrupted; the job goes on. To follow it from here: {' '.join(words)}"

    async def _text(self, job: AsyncJob) -> None:
        output = self._output
        try:
            with self._waiting(await job.status()) as came:
                # On a pipe nothing can be taken back: there a rewind ends the command instead.
                on_rewind: OnRewind = self._rewound if output.json or output.on_terminal else "raise"
                async with aclosing(job.stream(after=self.position, on_rewind=on_rewind)) as chunks:
                    async for chunk in chunks:
                        came()
                        if output.json:
                            output.object({"kind": "chunk", "position": chunk.position, "text": chunk})
                        else:
                            output.text(chunk)
                            self._mid_line = not chunk.endswith("\n") if chunk else self._mid_line
                        self.position = chunk.position
        except JobEnded as ended:
            self._end(await job.status(), ended)
            raise
        self._end(await job.status())

    def _rewound(self, rewound: StreamRewound) -> None:
        self.position = rewound.position
        if self._output.json:
            self._output.object({"kind": "rewind", "position": rewound.position, "text_before": rewound.text_before})
            return
        self._output.text(f"\n{_REWOUND}\n{rewound.text_before}")
        self._mid_line = not rewound.text_before.endswith("\n")

    def _end(self, status: Status, ended: JobEnded | None = None) -> None:
        self.position = END
        if self._output.json:
            fields = {"kind": "end", "position": END, "status": status.value}
            self._output.object(fields if ended is None else {**fields, "error": error_fields(ended)})

    async def _events(self, job: AsyncJob) -> None:
        async with aclosing(job.stream_events(after=self.position)) as events:
            async for event in events:
                if self._output.json:
                    self._output.object(event)
                else:
                    self._output.line(
                        f"{event['position']}  {event['event']}  {event['name']}  {compact(event['data'])}"
                    )
                self.position = event["position"]

    async def _tree(self, tailrace: AsyncTailrace, job: AsyncJob, console: Console) -> None:
        tree, status = RunTree(), await job.status()
        waiting = "" if status.ended else _waiting_for(status)
        screen = TreeScreen(tree, console, now_ms=await tailrace.broker.now_ms(), waiting=waiting)
        async with screen.showing(), aclosing(job.event_batches("v2", self.position)) as batches:
            async for events in batches:
                for event in events:
                    tree.fold(event)
                    self.position = event["position"]

    async def _records(self, job: AsyncJob) -> None:
        async with aclosing(job.records(after=self.position)) as records:
            async for record in records:
                if self._output.json:
                    self._output.object(record.model_dump(mode="json", exclude_none=True))
                else:
                    value = record.raw if isinstance(record, UnknownRecord) else record.value()
                    value = compact(value) if record.kind == "chunk" else value
                    self._output.line(f"{record.position}  {record.kind}  {value}")
                self.position = record.position

    @contextmanager
    def _waiting(self, status: Status) -> Generator[Callable[[], None]]:
        """A line that says what is waited for, on a terminal, until the first text comes."""
        stop: Callable[[], None] = _nothing
        if is_terminal(sys.stderr) and not status.ended:
            spinner = self._output.console().status(_waiting_for(status))
            spinner.start()
            stop = spinner.stop
        try:
            yield stop
        finally:
            stop()


def _waiting_for(status: Status) -> str:
    if status is Status.QUEUED:
        return f"{status.value}: waiting for a worker (`tailrace worker` starts one; is one there? `tailrace doctor`)"
    return f"{status.value}: waiting for text"


def _nothing() -> None:
    pass
