"""Attempts at a runnable: it is run from its beginning, whatever an earlier attempt has done."""

import logging
import time
from contextlib import aclosing
from typing import Final

from tailrace.schemas import ErrorDetail, InvalidRequest, JsonObject
from tailrace.tasks import RunnableJob, RunnableTask
from tailrace.worker.attempts import Failed, completed
from tailrace.worker.discretion import where_raised
from tailrace.worker.job import Job
from tailrace.worker.recorder import Recorder
from tailrace.worker.runnables.chunks import text_of
from tailrace.worker.runnables.encoding import encode
from tailrace.worker.runnables.past import Past
from tailrace.worker.runnables.publishing import Publisher
from tailrace.worker.runnables.watching import Over, RunFailed, happenings
from tailrace.worker.sources import Outcome
from tailrace.worker.splice import Splice

logger = logging.getLogger(__name__)

_TASK_ERROR: Final = "task_error"


class RunnableAttempts:
    """The attempts of one worker at a job that is a runnable."""

    def __init__(self, job: Job, task: RunnableTask, *, output_bytes: int) -> None:
        self.first_s: float | None = None
        self._job, self._task, self._output_bytes = job, task, output_bytes

    async def attempt(self, recorder: Recorder, number: int) -> Outcome:
        job, task = self._job, self._task
        base, past = recorder.start(), Past(job.memory.lines)
        publisher = Publisher(
            recorder,
            past,
            Splice(job.memory.output(), base=base),
            everything=task.events == "all",
            inputs=task.inputs,
            room=self._output_bytes,
        )
        if past.returned is not None:  # only its seal was lost
            return completed(publisher.usage)
        if past.last_run and job.request.on_restart == "fail":
            message = 'an attempt died after the runnable had begun, and on_restart="fail"'
            raise Failed(ErrorDetail(type="restarted", message=message, retryable=True), again=False)
        publisher.take_over(past)
        began = time.monotonic()
        try:
            given = task.given(job.request.input)
            config = task.config_for(RunnableJob(job.job_id, number, job.request.metadata, job.request.tags))
        except InvalidRequest as error:
            raise Failed(publisher.describe(error, "invalid_request"), again=False) from error
        except Exception as error:
            raise self._failed(error, publisher) from error
        async with aclosing(happenings(task.function, given, config)) as happened:
            async for happening in happened:
                if isinstance(happening, RunFailed):
                    publisher.fail(happening)
                elif not isinstance(happening, Over):
                    publisher.take(happening)
                    if self.first_s is None and publisher.streamed:
                        self.first_s = time.monotonic() - began
                elif happening.error is not None:
                    raise self._failed(happening.error, publisher) from happening.error
                await recorder.writer.ready()
        if not publisher.complete:
            message = "the runnable was cancelled from within"
            raise Failed(ErrorDetail(type=_TASK_ERROR, message=message), again=False)
        self._return(recorder, publisher)
        return completed(publisher.usage)

    def _return(self, recorder: Recorder, publisher: Publisher) -> None:
        """Write what the runnable has returned."""
        if not publisher.streamed:
            publisher.say(text_of(publisher.returned))
        publisher.close()
        data: JsonObject = {"output": encode(publisher.returned)}
        line = recorder.event("on_chain_end", data=data)
        if not isinstance(publisher.returned, str):  # a text has been counted as it came
            recorder.said(line.text)
        recorder.write(line)

    def _failed(self, error: Exception, publisher: Publisher) -> Failed:
        logger.warning("job %r: runnable %r raised %s", self._job.job_id, self._task.name, where_raised(error))
        return Failed(publisher.describe(error, _TASK_ERROR), again=False)
