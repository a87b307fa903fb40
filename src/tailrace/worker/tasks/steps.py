"""A task's other steps: a function, another job."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from tailrace.joblog import LogRefusal
from tailrace.schemas import (
    START,
    BrokerUnavailable,
    BrokerUnsuitable,
    Entry,
    ErrorDetail,
    HistoryLost,
    InvalidRequest,
    JobCancelled,
    JobConflict,
    JobEnded,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobRequest,
    JsonObject,
    QueueFull,
    Result,
    StepFailed,
    StepMismatch,
    TailraceError,
)
from tailrace.tasks import Child, Jobs
from tailrace.tasks.declared import returned_by
from tailrace.views import output_of
from tailrace.worker.attempts import Failed
from tailrace.worker.recorder import OutputLimit
from tailrace.worker.splice import Splice
from tailrace.worker.tasks.history import StepRun
from tailrace.worker.tasks.ledger import Called, Ledger
from tailrace.worker.tasks.scope import Scope, entered
from tailrace.worker.tasks.trying import Policy

_CHAIN = "chain"


class FunctionStep(Awaitable[Any]):
    """A call of a function, not begun before it is awaited."""

    def __init__(
        self,
        called: Called,
        function: Callable[..., Any],
        args: Sequence[Any],
        *,
        ledger: Ledger,
        policy: Policy,
        kind: str,
        name: str,
        tags: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
        key: str,
    ) -> None:
        self.called, self._function, self._args = called, function, args
        self._ledger, self._policy, self._kind, self._name = ledger, policy, kind, name
        self._tags, self._metadata, self._key = tags, metadata, key
        self._returned = returned_by(function)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._carry_out().__await__()

    async def _carry_out(self) -> Any:
        ledger = self._ledger
        step = ledger.begin(self.called, self._kind, self._name, tags=self._tags, metadata=self._metadata)
        if step.error is not None:
            raise ledger.failed(step)
        if step.ended is None:
            await self._tries(step)
        return self._value(step)

    async def _tries(self, step: StepRun) -> None:
        """Raises: StepFailed."""
        ledger, policy, tries = self._ledger, self._policy, 0
        while True:
            cause: Exception
            try:
                data = await self._try(step)
            except (StepMismatch, OutputLimit, Failed, LogRefusal, BrokerUnavailable, BrokerUnsuitable):
                raise  # the job's trouble, not the step's
            except StepFailed as error:
                cause, detail = error, error.error
            except Exception as error:
                cause, detail = error, policy.raised(error)
                if isinstance(error, TimeoutError) and error.args == (step.run_id,):
                    detail = policy.timed_out()
            else:
                await ledger.end(step, self._kind, data)
                return
            tries += 1
            if tries > policy.retries or ledger.mismatch is not None:
                raise await ledger.fail(step, self._kind, detail, cause) from cause
            step.output = await ledger.again(step, detail)
            ledger.history.forget_failures(step.identity.path)
            await policy.pause(tries)

    async def _try(self, step: StepRun) -> JsonObject:
        """What the step's end is to carry."""
        scope = Scope(step.identity.path, run=step.number, above=(*self.called.scope.above, step.number), key=self._key)
        timeout = asyncio.timeout(self._policy.timeout_s)
        try:
            async with timeout:
                with entered(scope), step.span.entered():
                    if inspect.isasyncgenfunction(self._function):
                        await self._stream(step)
                        data: JsonObject = {}
                    else:
                        data = {"output": self._returned.dump(await self._call())}
        except TimeoutError:
            if timeout.expired():
                raise TimeoutError(step.run_id) from None
            raise
        finally:
            await self._ledger.close(scope.path)
        self._ledger.complete(scope)
        if "output" in data:
            self._ledger.recorder.said(str(data["output"]))
        return data

    async def _call(self) -> object:
        function = self._function
        if inspect.iscoroutinefunction(function):
            return await function(*self._args)
        value = await asyncio.to_thread(function, *self._args)
        return await cast("Awaitable[object]", value) if inspect.isawaitable(value) else value

    async def _stream(self, step: StepRun) -> None:
        recorder = self._ledger.recorder
        splice = Splice(step.output, base=step.start, run=step.number)
        step.output = []
        async with aclosing(self._function(*self._args)) as pieces:
            async for piece in cast("AsyncIterator[object]", pieces):
                if not isinstance(piece, str):
                    raise TypeError(f"a step yields str (its text), not {type(piece).__qualname__}")
                if piece:
                    line = recorder.item(str(piece), step.number)
                    step.output.append(line)
                    recorder.write(*splice.feed(line))
                    await recorder.writer.ready()
        recorder.write(*splice.close())

    def _value(self, step: StepRun) -> Any:
        data = step.ended or {}
        if "output" not in data:
            entries = (Entry(START, line.field, line.text) for line in step.output)
            return output_of(entries, step.number).first.text
        try:
            return self._returned.load(data["output"])
        except InvalidRequest:
            return self._ledger.differs(step.identity.path)


class ChildStep(Child):
    """Another job, not submitted before it is awaited."""

    def __init__(
        self,
        called: Called,
        request: JobRequest,
        *,
        job_id: str,
        ledger: Ledger,
        jobs: Jobs | None,
        name: str,
        policy: Policy,
    ) -> None:
        self.called, self.job_id = called, job_id
        self._request, self._ledger, self._jobs, self._name, self._policy = request, ledger, jobs, name, policy

    def __await__(self) -> Generator[Any, None, Result]:
        return self._carry_out().__await__()

    async def _carry_out(self) -> Result:
        ledger, jobs = self._ledger, self._jobs
        if jobs is None:
            raise RuntimeError("this worker was given no client to submit jobs with: pass jobs= to Worker")
        step = ledger.begin(self.called, _CHAIN, self._name, tags=None, metadata=None, data={"job_id": self.job_id})
        if step.error is not None:
            raise ledger.failed(step)
        if step.ended is None:
            # Whoever cancels this job looks into its log for the children to cancel.
            await ledger.recorder.writer.flushed()
            try:
                with step.span.entered():
                    await self._submit(jobs)
                result = await jobs.result(self.job_id)
            except (JobEnded, InvalidRequest, JobNotFound, JobConflict, HistoryLost) as error:
                detail = self._policy.discreet(_of_child(error))
                raise await ledger.fail(step, _CHAIN, detail, error) from error
            output = result.model_dump(mode="json", exclude={"native"}, exclude_defaults=True)
            ledger.recorder.said(str(output))
            await ledger.end(step, _CHAIN, {"output": output})
        stored: Any = (step.ended or {}).get("output")
        result = Result.model_validate(stored)
        ledger.used(result.usage)
        return result

    async def _submit(self, jobs: Jobs) -> None:
        tries = 0
        while True:
            try:
                await jobs.submit(self._request, self.job_id)
            except QueueFull:  # this job was accepted: it waits, until its deadline
                tries += 1
                await self._policy.pause(tries)
            else:
                return


def _of_child(error: TailraceError) -> ErrorDetail:
    match error:
        case JobFailed():
            return error.error
        case InvalidRequest():
            word = "invalid_request"
        case JobCancelled():
            word = "child_cancelled"
        case JobExpired():
            word = "child_expired"
        case _:  # deleted, evicted, or its id taken
            word = "child_lost"
    return ErrorDetail(type=word, message=str(error))
