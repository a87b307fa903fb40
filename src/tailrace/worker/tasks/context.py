"""The context that a task is given, for one attempt."""

import asyncio
import hashlib
import math
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from pydantic_core import PydanticSerializationError, to_jsonable_python

from tailrace.joblog import LogRefusal
from tailrace.schemas import PROGRESS_EVENT, Duration, InvalidRequest, JobRequest, JsonObject, StepFailed, seconds
from tailrace.tasks import Child, Context, Emitted, Identity, LlmStep, input_hash
from tailrace.worker.log_writer import LogWriter
from tailrace.worker.memory import Line
from tailrace.worker.recorder import OutputLimit
from tailrace.worker.tasks.ledger import Called, Ledger
from tailrace.worker.tasks.llm import LlmRun
from tailrace.worker.tasks.scope import Scope, current_scope, entered
from tailrace.worker.tasks.steps import ChildStep, FunctionStep
from tailrace.worker.tasks.trying import Policy
from tailrace.worker.tools import Tools

_KEYS: Final = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
_PROGRESS_S: Final = 0.1


class _Told(Emitted):
    """An event that was told, now or in an earlier attempt."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def __await__(self) -> Generator[Any, None, None]:
        return self._writer.flushed().__await__()


class TaskContext(Context):
    """See Context."""

    def __init__(self, ledger: Ledger, tools: Tools, *, attempt: int) -> None:
        job = ledger.recorder.job
        self.job_id, self.attempt = job.job_id, attempt
        self.metadata, self.tags, self.params = job.request.metadata, job.request.tags, job.request.params
        self._ledger, self._tools, self._job = ledger, tools, job
        self._root = Scope("", key=self._key("root"))
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._progress_at: dict[tuple[int, str | None], float] = {}

    @property
    def root(self) -> Scope:
        """The task's own scope."""
        return self._root

    @property
    def idempotency_key(self) -> str:
        return self._scope().key

    def llm(
        self,
        prompt: str | None = None,
        *,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        retries: int = 2,
        timeout: Duration | None = None,
        **asked: Any,
    ) -> LlmStep:
        request = self._request(prompt, **asked)
        if request.api == "task":
            raise InvalidRequest("ctx.llm() asks a model: a task is asked by ctx.child(task=..., input=...)")
        known = name or request.model or ("OpenAI" if request.api == "completions" else "ChatOpenAI")
        called = self._call(known, "llm", json_of(request))
        return LlmRun(
            called,
            request,
            ledger=self._ledger,
            upstreams=self._tools.upstreams,
            policy=self._policy(called, request, retries=retries, timeout=timeout),
            name=known,
            tags=tags,
            metadata=metadata,
        )

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        retries: int = 0,
        backoff: Duration = 0.5,
        timeout: Duration | None = None,
        kind: str = "chain",
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Awaitable[Any]:
        called = self._call(name, function, args)
        return FunctionStep(
            called,
            function,
            args,
            ledger=self._ledger,
            policy=self._policy(called, None, retries=retries, timeout=timeout, backoff=backoff),
            kind=kind,
            name=name,
            tags=tags,
            metadata=metadata,
            key=self._key(str(called.identity)),
        )

    def child(
        self, prompt: str | None = None, *, name: str | None = None, queue: str | None = None, **asked: Any
    ) -> Child:
        request = self._request(prompt, queue=self._job.request.queue if queue is None else queue, **asked)
        known = name or request.task or request.model or "child"
        called = self._call(known, "child", json_of(request))
        return ChildStep(
            called,
            request,
            job_id=self._child_id(called.identity),
            ledger=self._ledger,
            jobs=self._tools.jobs,
            name=known,
            policy=self._policy(called, request, retries=0, timeout=None),
        )

    def _child_id(self, identity: Identity) -> str:
        """The id of a child: one for each run of its step, so that a step which is tried again asks anew."""
        history = self._ledger.history
        known = history.steps.get(identity.path)
        run = history.runs_of(identity.path) - (known is not None)
        # The incarnation is random: who does not know this job's log cannot guess its children's ids.
        secret = f"{self._job.record.incarnation}/{self.job_id}/{identity}" + (f"~{run}" if run else "")
        return hashlib.sha256(secret.encode()).hexdigest()[:32]

    async def gather(self, *branches: Awaitable[Any], limit: int | None = None) -> list[Any]:
        if limit is not None and limit < 1:
            raise InvalidRequest(f"limit must be at least 1, not {limit!r}")
        scope = self._scope()
        scope.called()
        paths = scope.paths.branches(len(branches))
        gate = asyncio.Semaphore(limit or max(1, len(branches)))
        failures: list[Exception] = []

        async def carry_out(path: str, branch: Awaitable[Any]) -> Any:
            own = Scope(path, run=scope.run, above=scope.above, branch=path, key=self._key(path))
            async with gate:
                if failures and not self._ledger.history.came_to(_path_of(branch, path)):
                    raise asyncio.CancelledError  # nobody wants it any more
                try:
                    with entered(own):
                        value = await branch
                    self._ledger.complete(own)
                except Exception as error:
                    failures.append(error)
                    raise
            return value

        tasks = [
            asyncio.create_task(carry_out(path, branch), name=f"tailrace-{self.job_id}-{path}")
            for path, branch in zip(paths, branches, strict=True)
        ]
        try:
            if tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            ended = [task for task in tasks if task.done() and not task.cancelled()]
            blow = next((error for task in ended if (error := task.exception()) and error not in failures), None)
            if blow is not None or failures:
                raise blow or min(failures, key=self._failed_at)
            return [task.result() for task in tasks]
        finally:
            await self._call_off(tasks, branches)

    def _failed_at(self, error: Exception) -> float:
        """Of several failures the one that the log has first is raised: in every attempt the same."""
        return self._ledger.history.failed_at(error.step) if isinstance(error, StepFailed) else math.inf

    async def _call_off(self, tasks: Sequence["asyncio.Task[Any]"], branches: Sequence[Awaitable[Any]]) -> None:
        """End what still runs of a `gather`: nothing, if all went well."""
        running = [task for task in tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for branch in branches:
            if isinstance(branch, Coroutine):
                branch.close()  # it may never have begun
            elif isinstance(branch, LlmRun | FunctionStep | ChildStep):
                self._ledger.history.excuse(branch.called.identity.path)

    def emit(self, name: str, value: Any = None) -> Emitted:
        if not isinstance(cast("object", name), str) or not name or name.startswith("tailrace."):
            raise InvalidRequest(f"an event needs a name of its own, which does not begin with 'tailrace.': {name!r}")
        scope = self._scope()
        source, number = (scope.run, scope.branch, name), scope.told[name]
        scope.told[name] += 1
        if not self._ledger.history.repeats(source, number):
            line = self._line(scope, name, value if isinstance(value, dict) else {"value": value})  # pyright: ignore[reportUnknownArgumentType]  # the author's
            self._ledger.history.told(source, line)
            self._write(line)
        return _Told(self._ledger.recorder.writer)

    def progress(self, done: float, total: float | None = None) -> Emitted:
        scope, now = self._scope(), time.monotonic()
        place, history = (scope.run, scope.branch), self._ledger.history
        last = self._progress_at.get(place, float("-inf"))
        if done > history.progress(*place) and (done == total or now - last >= _PROGRESS_S):
            history.progressed(*place, done)
            self._progress_at[place] = now
            data = {"done": done, "total": total}
            self._write(
                self._line(scope, PROGRESS_EVENT, {name: value for name, value in data.items() if value is not None})
            )
        return _Told(self._ledger.recorder.writer)

    def _line(self, scope: Scope, name: str, value: Any) -> Line:
        try:
            data: JsonObject = to_jsonable_python(value)
        except (PydanticSerializationError, ValueError) as error:
            raise InvalidRequest(f"event {name!r} carries what is no JSON: {error}") from None
        return self._ledger.recorder.event("on_custom_event", run=scope.run, name=name, data=data, step=scope.branch)

    def _write(self, line: Line) -> None:
        """Tell it; from a step's thread too."""
        recorder = self._ledger.recorder

        def write() -> None:
            recorder.said(line.text)
            recorder.write(line)

        def write_or_leave_it() -> None:
            with suppress(LogRefusal, OutputLimit):  # the attempt's end says so
                write()

        if threading.get_ident() == self._thread:
            write()
        else:
            self._loop.call_soon_threadsafe(write_or_leave_it)

    def _scope(self) -> Scope:
        return current_scope(self._root)

    def _call(self, name: str, *given: object) -> Called:
        return self._ledger.call(self._scope(), name, input_hash(*given))

    def _request(self, prompt: str | None, **asked: Any) -> JobRequest:
        request = JobRequest.of(prompt, limits=self._tools.limits, **asked)
        return request.model_copy(update={"tenant": self._job.request.tenant})

    def _policy(
        self,
        called: Called,
        asked: JobRequest | None,
        *,
        retries: int,
        timeout: Duration | None,
        backoff: Duration = 0.5,
    ) -> Policy:
        return Policy(
            path=called.identity.path,
            request=self._job.request,
            asked=asked,
            retries=retries,
            backoff_s=seconds("backoff", backoff, 0.5),
            timeout_s=None if timeout is None else seconds("timeout", timeout, 0.0, above=0.0),
        )

    def _key(self, what: str) -> str:
        return str(uuid.uuid5(_KEYS, f"{self._job.record.incarnation}/{self.job_id}/{what}"))


def _path_of(branch: Awaitable[Any], path: str) -> str:
    """Where a branch of `gather` takes its steps, or is one."""
    return branch.called.identity.path if isinstance(branch, LlmRun | FunctionStep | ChildStep) else path


def json_of(request: JobRequest) -> JsonObject:
    """What a step's request asks for, as it is hashed."""
    asked: JsonObject = request.model_dump(mode="json", exclude_defaults=True)
    return asked
