"""tailrace for blocking code: the async client on an event loop in a thread of its own."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from threading import Thread
from typing import Any, Literal, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from tailrace.client.asynchronous import AsyncJob, AsyncTailrace, OnRewind
from tailrace.client.ended import Ended
from tailrace.consumer import MAX_DELIVERIES, TAKEOVER_S, Begin, Parked
from tailrace.schemas import (
    DEFAULT_QUEUE,
    START,
    Api,
    Chunk,
    Duration,
    EventsVersion,
    OnRestart,
    Position,
    Record,
    Result,
    Settings,
    Status,
    StreamEvent,
    TailraceError,
    UnknownRecord,
)

T = TypeVar("T")


class Job:
    """A job, by its id. Made by `submit` or `Tailrace.job`."""

    def __init__(self, tailrace: "Tailrace", job: AsyncJob) -> None:
        self._tailrace, self._job = tailrace, job
        self.id = job.id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def status(self) -> Status:
        """Where the job stands. Raises: JobNotFound, BrokerUnavailable."""
        return self._tailrace.call(self._job.status)

    def result(self, timeout: Duration | None = None) -> Result:
        """Wait for the end and return what stands: completed or incomplete.

        Raises: TimeoutError after `timeout` (the job goes on), JobFailed, JobCancelled or JobExpired (each with the partial
        result as `.result`), JobNotFound, HistoryLost, BrokerUnavailable.
        """
        return self._tailrace.call(self._job.result, timeout)

    def text(self, timeout: Duration | None = None) -> str:
        """The text of the result. Waits and raises as `result`."""
        return self.result(timeout).text

    def stream(self, after: Position | str = START, on_rewind: OnRewind = "raise") -> Generator[Chunk]:
        """Yield the output text as it comes, each chunk a `str` with a `.position` to resume from.

        No gaps, no repeats. If shown text becomes void, StreamRewound is raised (go on with
        `stream(after=error.position)`), or passed to `on_rewind` (in another thread) and the stream goes on.
        Raises: after the chunks that came JobFailed, JobCancelled or JobExpired; InvalidRequest (no position),
        JobNotFound, PositionLost, HistoryLost, BrokerUnavailable.
        """
        for chunks in self._tailrace.iterate(lambda: self._job.stream_batches(after, on_rewind)):
            yield from chunks

    def stream_events(
        self,
        version: EventsVersion = "v2",
        after: Position | str = START,
        *,
        include_names: Sequence[str] | None = None,
        include_types: Sequence[str] | None = None,
        include_tags: Sequence[str] | None = None,
        exclude_names: Sequence[str] | None = None,
        exclude_types: Sequence[str] | None = None,
        exclude_tags: Sequence[str] | None = None,
    ) -> Generator[StreamEvent]:
        """Yield the events of all steps in one order, in the shape of LangChain's StreamEvent.

        Raises: as `stream`, but never StreamRewound: a rewind is an event.
        """
        for events in self._tailrace.iterate(
            lambda: self._job.event_batches(
                version,
                after,
                include_names=include_names,
                include_types=include_types,
                include_tags=include_tags,
                exclude_names=exclude_names,
                exclude_types=exclude_types,
                exclude_tags=exclude_tags,
            )
        ):
            yield from events

    def records(self, after: Position | str = START) -> Generator[Record | UnknownRecord]:
        """Yield the raw records with their positions, the end record last.

        Raises: as `stream`, but never StreamRewound: rewinds are records, and so is what they void.
        """
        for records in self._tailrace.iterate(lambda: self._job.record_batches(after)):
            yield from records

    def cancel(self) -> Status:
        """Cancel the job, whatever state it is in, durably; what it has put out stands. The status it ended with.

        Raises: JobNotFound, BrokerUnavailable.
        """
        return self._tailrace.call(self._job.cancel)

    def delete(self) -> None:
        """Remove the job's request and records; a running one is cancelled. Raises: JobNotFound, BrokerUnavailable."""
        self._tailrace.call(self._job.delete)


class Tailrace:
    """Submit jobs and follow them. One object serves all threads, over a few connections.

    `with Tailrace() as tailrace`: Redis from TAILRACE_REDIS_URL, else the embedded server. A forked child opens its own.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        namespace: str | None = None,
        settings: Settings | None = None,
        queue_url: str | None = None,
    ) -> None:
        """`settings` replace environment and file. `queue_url`: the queue's server, if it is not that of the logs."""
        self._client = AsyncTailrace(redis_url, namespace=namespace, settings=settings, queue_url=queue_url)
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._opened_by = 0

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise TailraceError("this client is open already")
        with ExitStack() as stack:
            portal = _start_portal(stack)
            stack.enter_context(portal.wrap_async_context_manager(self._client))
            self._portal = portal
            self._opened_by = os.getpid()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        stack, self._stack = self._stack, None
        self._portal = None
        if stack is None:
            return
        if not self._is_copy:  # else its thread and its connections are the parent's
            stack.close()

    @property
    def settings(self) -> Settings:
        """What this client was opened with."""
        return self._client.settings

    @property
    def is_open(self) -> bool:
        """Whether the block is being run: what lives on the client's loop lives as long."""
        return self._portal is not None and not self._is_copy

    @property
    def _is_copy(self) -> bool:
        """Whether this process was forked off with the object. A fork leaves all threads behind, so every call would hang."""
        return self._opened_by != os.getpid()

    @property
    def unblocked(self) -> AsyncTailrace:
        """The async client behind this one. It lives on this client's loop: use it in what `call` and `start` run."""
        return self._client

    def submit(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        input: Any = None,  # noqa: A002  # the Responses API's own name
        api: Literal["auto"] | Api = "auto",
        model: str | None = None,
        upstream: str = "default",
        queue: str = DEFAULT_QUEUE,
        task: str | None = None,
        job_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        deadline: Duration | None = None,
        retention: Duration | None = None,
        delay: Duration | None = None,
        on_restart: OnRestart = "splice",
        max_attempts: int = 3,
        then: str | None = None,
        **params: Any,
    ) -> Job:
        """Store and queue a job; `params` go into the upstream's request body as they are.

        It waits in the queue of that name for the workers that serve it (`tailrace worker --queue NAME`). The same `job_id`
        with the same request gives the same job. Durations are timedelta or seconds.
        Raises: InvalidRequest, JobConflict, QueueFull, BrokerUnavailable, BrokerUnsuitable.
        """
        job = self.call(
            lambda: self._client.submit(
                prompt,
                messages=messages,
                input=input,
                api=api,
                model=model,
                upstream=upstream,
                queue=queue,
                task=task,
                job_id=job_id,
                metadata=metadata,
                tags=tags,
                deadline=deadline,
                retention=retention,
                delay=delay,
                on_restart=on_restart,
                max_attempts=max_attempts,
                then=then,
                **params,
            )
        )
        return Job(self, job)

    def submit_many(self, requests: Iterable[str | Mapping[str, Any]]) -> list[Job]:
        """Submit in one round trip: each request a prompt, or a dict of `submit`'s arguments. Jobs in the same order.

        All requests are checked before any is sent. Raises: as `submit`, for the first that is refused.
        """
        return [Job(self, job) for job in self.call(self._client.submit_many, requests)]

    def job(self, job_id: str) -> Job:
        """Attach to a job by its id; asks nobody. Raises: InvalidRequest if it is no job id."""
        return Job(self, self._client.job(job_id))

    def ended(
        self,
        group: str,
        *,
        filter: Callable[[Ended], object] | None = None,  # noqa: A002  # the word for it
        statuses: Collection[Status | str] = (),
        tags: Collection[str] = (),
        tasks: Collection[str] = (),
        begin: Begin = "oldest",
        consumer: str | None = None,
        takeover: Duration = TAKEOVER_S,
        max_deliveries: int = MAX_DELIVERIES,
    ) -> Generator[Ended]:
        """Yield the jobs that have ended, each at least once to one reader of the group, for ever; `ack()` what is done.

        What is not acknowledged within `takeover` (timedelta or seconds) is handed out again, to whichever reader of the
        group, and parked after `max_deliveries`. Dedupe by `job_id`: twice is possible. What `statuses`, `tags` (one of
        them), `tasks` and `filter` do not want is acknowledged at once. A new group begins with the oldest end that is kept,
        or "now". `consumer` is this reader's name in the group; by default a random one.
        Raises: InvalidRequest, BrokerUnavailable (at once; later on it is waited for), BrokerUnsuitable.
        """
        found = self.iterate(
            lambda: self._client.ended(
                group,
                statuses=statuses,
                tags=tags,
                tasks=tasks,
                begin=begin,
                consumer=consumer,
                takeover=takeover,
                max_deliveries=max_deliveries,
            )
        )
        with closing(found):
            for each in found:
                ended = Ended(self, each)
                # In this thread: a filter may ask for the result, and would wait for its own loop there.
                if filter is None or filter(ended):
                    yield ended
                else:
                    ended.ack()

    def parked(self, group: str) -> list[Parked]:
        """What a group of `ended` has given up, the oldest first. Raises: InvalidRequest, BrokerUnavailable."""
        return self.call(self._client.parked, group)

    def unpark(self, group: str, job_ids: Collection[str] | None = None) -> int:
        """Hand parked jobs out to the group again; None: all of them. How many. Raises: as `parked`."""
        return self.call(self._client.unpark, group, job_ids)

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run a coroutine function on the client's loop. An interrupt (Ctrl-C) cancels it."""
        with _interruptible():
            future = self.start(function, *args)
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise

    def start(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> Future[T]:
        """As `call`, without waiting. To wait for it on another event loop: `asyncio.wrap_future`."""
        return self._open_portal().start_task_soon(function, *args)

    def iterate(self, make: Callable[[], AsyncGenerator[T]]) -> Generator[T]:
        """An async generator as a blocking one: made, advanced and closed on the client's loop."""
        batches = make()

        async def advance() -> tuple[T] | None:
            try:
                return (await anext(batches),)
            except StopAsyncIteration:
                return None

        try:
            while (item := self.call(advance)) is not None:
                yield item[0]
        finally:
            if self.is_open:
                self.call(_close, batches)

    def _open_portal(self) -> BlockingPortal:
        if self._portal is None:
            raise TailraceError("this client is not open: use it in `with Tailrace() as tailrace:`")
        if self._is_copy:
            raise TailraceError("this client was opened before a fork, in the parent process: open one in each process")
        return self._portal


def _start_portal(stack: ExitStack) -> BlockingPortal:
    """An event loop in a thread of its own, until the stack is closed.

    anyio's start_blocking_portal is a generator. Collected in a forked child, that would wait for a thread that is not there.
    """
    started: Future[BlockingPortal] = Future()

    async def until_stopped() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    def run() -> None:
        try:
            anyio.run(until_stopped)
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = Thread(target=run, name="tailrace", daemon=True)

    def stop(kind: type[BaseException] | None, *_: object) -> None:
        if started.exception() is None:  # waits: a Ctrl-C may come before it has begun
            portal = started.result()
            portal.call(portal.stop, kind is not None)

    thread.start()
    stack.callback(thread.join)
    stack.push(stop)
    return started.result()


@contextmanager
def _interruptible() -> Generator[None]:
    """A Ctrl-C that hits the standard library between two of its locks' steps leaves it as an error of the lock: here it
    becomes the interrupt again. Source: github.com/python/cpython/issues/118433."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


async def _close(batches: AsyncGenerator[Any]) -> None:
    """Close a generator that an interrupt may have left in the middle of a step, which is being cancelled."""
    while True:
        try:
            await batches.aclose()
        except RuntimeError:  # "asynchronous generator is already running"
            await asyncio.sleep(0.005)
        else:
            return
