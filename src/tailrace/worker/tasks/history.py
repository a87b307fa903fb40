"""What earlier attempts have left in the log of a task: its steps, how far each came, what was told. Pure: no I/O."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailrace.schemas import PROGRESS_EVENT, RETRY_EVENT, ROOT, ErrorDetail, JsonObject, chunk_run
from tailrace.tasks.identity import Identity, parent_of
from tailrace.telemetry.tracing import NOTHING, Span
from tailrace.worker.memory import Line

#: Where custom events come from: the run, and the branch of `gather` if it was in one; then their name.
Source = tuple[int, str | None, str]


@dataclass(eq=False, slots=True)
class StepRun:
    """The run of a step: begun, and perhaps over."""

    number: int
    run_id: str
    identity: Identity
    start: Line
    output: list[Line] = field(default_factory=list[Line])
    """Its chunks and deltas that stand."""
    ended: JsonObject | None = None
    """What its end event carries."""
    error: ErrorDetail | None = None
    """It is over, and has failed."""
    failed_at: float = math.inf
    """Which of the failures of this log it is, in order."""
    resumed: bool = False
    """Whether this attempt has come to it."""
    span: Span = NOTHING
    """Of this attempt, if it is carried out in it."""


class History:
    """Folded from the lines of a log, and kept up with what the attempt does."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.steps: dict[str, StepRun] = {}
        """The last run of each step, by path."""
        self.ended: JsonObject | None = None
        """What the task returned, if it had come so far."""
        self._order = {id(line): number for number, line in enumerate(lines)}
        self._within: defaultdict[str, list[StepRun]] = defaultdict(list)
        self._runs_of: Counter[str] = Counter()
        self._told: defaultdict[Source, list[Line]] = defaultdict(list)
        self._repeated: Counter[Source] = Counter()
        self._last_run = ROOT
        self._failures = len(lines)
        self._progress: dict[tuple[int, str | None], float] = {}
        self._fold(lines)

    def _fold(self, lines: Sequence[Line]) -> None:
        standing: defaultdict[int, list[Line]] = defaultdict(list)
        tried_again: dict[int, int] = {}
        for line in lines:
            if line.field in ("attempt", "job", "end"):
                continue
            run = line.run
            self._last_run = max(self._last_run, run)
            if line.field == "rewind":
                edge = self._order_of(line.target)
                standing[run] = [known for known in standing[run] if self._order_of(known) <= edge]
            else:
                standing[run].append(line)
                if run != ROOT and _name_of(line) == RETRY_EVENT:
                    # Also if a rewind takes it back, which only says that the run's text goes on from before it.
                    tried_again[run] = self._order_of(line)
        steps = [step for run, own in standing.items() if (step := self._fold_run(run, own)) is not None]
        for step in sorted(steps, key=lambda step: self._order_of(step.start)):
            self.begun(step)
        for step in steps:
            if step.number in tried_again:
                self._let_go(step.identity.path, tried_again[step.number])

    def _let_go(self, path: str, at: int) -> None:
        """A step was tried again: what an earlier try came to need not be come to, as in the attempt that tried it."""
        for below, step in list(self.steps.items()):
            if below.startswith(f"{path}/") and self._order_of(step.start) < at:
                step.resumed = True
                if step.failed_at < at:
                    self._forget(step)

    def _fold_run(self, run: int, lines: Sequence[Line]) -> StepRun | None:
        step: StepRun | None = None
        for line in lines:
            if line.field != "event":
                if step is not None and (line.field == "delta" or chunk_run(line.field) is not None):
                    step.output.append(line)
                continue
            fields: Any = json.loads(line.text)
            event, data = str(fields["event"]), fields.get("data", {})
            if event == "on_custom_event":
                self._take_told(run, fields, line)
            elif event.endswith("_start"):
                if run != ROOT and isinstance(fields.get("step"), str):
                    step = StepRun(run, str(fields["run_id"]), Identity.parse(fields["step"]), line)
            elif run == ROOT:
                self.ended = data
            elif step is not None and event.endswith("_end"):
                step.ended = data
            elif step is not None and event.endswith("_error"):
                step.error = ErrorDetail.model_validate(data["error"])
                step.failed_at = self._order_of(line)
        return step

    def _take_told(self, run: int, fields: Any, line: Line) -> None:
        name, branch, data = str(fields.get("name")), fields.get("step"), fields.get("data", {})
        if name == PROGRESS_EVENT:
            self._progress[run, branch] = max(self.progress(run, branch), float(data.get("done", 0)))
        elif name != RETRY_EVENT:
            self._told[run, branch, name].append(line)

    def _order_of(self, line: Line | None) -> int:
        # What is not from an earlier attempt comes after everything that is.
        return self._order.get(id(line), len(self._order))

    # Steps.

    def begun(self, step: StepRun) -> None:
        """A step has a run (again): it counts from now on."""
        path = step.identity.path
        before = self.steps.get(path)
        siblings = self._within[parent_of(path)]
        if before is not None:
            siblings.remove(before)
        siblings.append(step)
        self.steps[path] = step
        self._runs_of[path] += 1
        self._last_run = max(self._last_run, step.number)

    def next_run(self) -> int:
        return self._last_run + 1

    def runs_of(self, path: str) -> int:
        """How many runs a step has had: more than one if what it is part of was tried again."""
        return self._runs_of[path]

    def passed_over(self, path: str) -> Iterator[StepRun]:
        """The steps of a scope that an earlier attempt came to and this one has not (yet)."""
        return (step for step in self._within[path] if not step.resumed)

    def came_to(self, path: str) -> bool:
        """Whether there is a run of this step, or of one within."""
        return path in self.steps or any(below.startswith(f"{path}/") for below in self.steps)

    def excuse(self, path: str) -> None:
        """A step that was called off need not be come to."""
        step = self.steps.get(path)
        if step is not None:
            step.resumed = True

    def forget_failures(self, path: str) -> None:
        """What a step is part of is tried again: what failed within runs anew, what is finished stands."""
        for step in [step for below, step in self.steps.items() if below.startswith(f"{path}/")]:
            if step.error is not None:
                self._forget(step)

    def _forget(self, step: StepRun) -> None:
        del self.steps[step.identity.path]
        self._within[parent_of(step.identity.path)].remove(step)

    def failed(self, step: StepRun, error: ErrorDetail) -> None:
        """A step has failed in this attempt."""
        step.error, step.failed_at = error, self._failures
        self._failures += 1

    def failed_at(self, path: str) -> float:
        """Where the failure of a step stands among those of the job: the same in every attempt."""
        step = self.steps.get(path)
        return math.inf if step is None else step.failed_at

    # What was told.

    def repeats(self, source: Source, number: int) -> bool:
        """Whether the `number`-th event of a source (from 0) stands already."""
        if number < len(self._told[source]):
            self._repeated[source] = max(self._repeated[source], number + 1)
            return True
        return False

    def told(self, source: Source, line: Line) -> None:
        self._told[source].append(line)

    def rewound(self, rewind: Line) -> list[Line]:
        """A rewind takes the run's events with it. Those that this attempt has relied on: they are to be told again."""
        edge, run = self._order_of(rewind.target), rewind.run
        again: list[Line] = []
        for source, lines in self._told.items():
            if source[0] != run:
                continue
            stand = [line for line in lines if self._order_of(line) <= edge]
            void = [
                line for line in lines[len(stand) : self._repeated[source]] if self._order_of(line) < len(self._order)
            ]
            copies = [Line(line.field, line.text) for line in void]
            again += copies
            self._told[source] = [*stand, *copies]
        return again

    def progress(self, run: int, branch: str | None) -> float:
        """How far it is, as readers know."""
        return self._progress.get((run, branch), float("-inf"))

    def progressed(self, run: int, branch: str | None, done: float) -> None:
        self._progress[run, branch] = done


def _name_of(line: Line) -> str | None:
    return json.loads(line.text).get("name") if line.field == "event" else None
