"""Attempts at a task: its function is called from its beginning, and finds in the log what it has done already."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import cast

from tailrace.joblog import LogRefusal
from tailrace.schemas import (
    ROOT,
    BrokerUnavailable,
    BrokerUnsuitable,
    ErrorDetail,
    InvalidRequest,
    JsonObject,
    StepFailed,
    StepMismatch,
)
from tailrace.tasks import Task
from tailrace.worker.attempts import Failed, completed
from tailrace.worker.discretion import storable, told_of, where_raised
from tailrace.worker.job import Job
from tailrace.worker.recorder import OutputLimit, Recorder
from tailrace.worker.sources import Outcome
from tailrace.worker.splice import Splice
from tailrace.worker.tasks.context import TaskContext
from tailrace.worker.tasks.history import History
from tailrace.worker.tasks.ledger import Again, Ledger
from tailrace.worker.tasks.scope import entered
from tailrace.worker.tools import Tools

logger = logging.getLogger(__name__)


class TaskAttempts:
    """The attempts of one worker at a job that is a task."""

    def __init__(self, job: Job, task: Task, tools: Tools) -> None:
        self.first_s: float | None = None
        self._job, self._task, self._tools = job, task, tools

    async def attempt(self, recorder: Recorder, number: int) -> Outcome:
        base = recorder.start()
        ledger = Ledger(recorder, History(self._job.memory.lines))
        if ledger.history.ended is not None:  # only its seal was lost
            for step in ledger.history.steps.values():
                ledger.used_by(step)
            return completed(ledger.usage)
        context = TaskContext(ledger, self._tools, attempt=number)
        began = time.monotonic()
        splice = Splice(self._job.memory.output(), base=base)
        try:
            arguments = self._task.arguments(self._job.request.input)
            with entered(context.root):
                data: JsonObject | None = None
                made = self._task.function(context, **arguments)
                if self._task.streams:
                    async with aclosing(made) as pieces:
                        async for piece in cast("AsyncIterator[object]", pieces):
                            await self._say(piece, recorder, splice, began)
                else:
                    value: object = await made
                    output = self._task.returned.dump(value)
                    if isinstance(value, str):
                        if value:
                            await self._say(str(value), recorder, splice, began)
                    elif output is not None:
                        data = {"output": output}
                        recorder.said(str(output))
            ledger.complete(context.root)
        except (OutputLimit, LogRefusal, Failed):
            raise
        except Exception as error:
            _check(ledger)
            raise Failed(self._detail(error), again=False) from error
        except (Again, BaseExceptionGroup):
            _check(ledger)
            raise
        finally:
            await ledger.close()
        _check(ledger)
        recorder.write(*splice.close())
        if data is not None:
            recorder.write(recorder.event("on_chain_end", data=data))
        return completed(ledger.usage)

    async def _say(self, piece: object, recorder: Recorder, splice: Splice, began: float) -> None:
        if not isinstance(piece, str):
            raise TypeError(
                f"a task yields str (its text), not {type(piece).__qualname__}: emit() carries what is no text"
            )
        if not piece:
            return
        if self.first_s is None:
            self.first_s = time.monotonic() - began
        recorder.write(*splice.feed(recorder.item(str(piece), ROOT)))
        await recorder.writer.ready()

    def _detail(self, error: Exception) -> ErrorDetail:
        """What readers are told. Raises: what is Redis' fault, not the task's."""
        match error:
            case StepFailed():
                return error.error
            case StepMismatch():
                return ErrorDetail(type="step_mismatch", message=str(error), code=error.step)
            case InvalidRequest():
                return ErrorDetail(type="invalid_request", message=storable(str(error)))
            case BrokerUnavailable() | BrokerUnsuitable():
                raise error
            case _:
                logger.warning("job %r: task %r raised %s", self._job.job_id, self._task.name, where_raised(error))
                return ErrorDetail(type="task_error", message=told_of(error))


def _check(ledger: Ledger) -> None:
    """What ends an attempt whether the task has let it pass or not. Raises it."""
    refusal = ledger.recorder.writer.refusal
    if refusal is not None:
        raise refusal
    ledger.recorder.check()
    if ledger.failed_attempt is not None:
        raise ledger.failed_attempt
    if ledger.mismatch is not None:
        mismatch = ledger.mismatch
        raise Failed(ErrorDetail(type="step_mismatch", message=str(mismatch), code=mismatch.step), again=False)
