"""tailrace for async code."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, Literal, Self

from redis.asyncio import Redis

from tailrace.client.reading import EventStream, RecordStream, TextStream, raise_unless_well
from tailrace.consumer import (
    MAX_DELIVERIES,
    TAKEOVER_S,
    AsyncEnded,
    Begin,
    Choice,
    Consumer,
    GroupReader,
    Parked,
    parked,
    unpark,
)
from tailrace.joblog import Broker, connected
from tailrace.producer import Producer
from tailrace.schemas import (
    DEFAULT_QUEUE,
    START,
    Api,
    Chunk,
    Duration,
    EventsVersion,
    JobRequest,
    OnRestart,
    Position,
    Record,
    Result,
    Settings,
    Status,
    StreamEvent,
    StreamRewound,
    TailraceError,
    UnknownRecord,
    check_job_id,
)
from tailrace.views import ResultView

OnRewind = Literal["raise"] | Callable[[StreamRewound], object]


class AsyncJob:
    """A job, by its id. Made by `submit` or `AsyncTailrace.job`; holds no connection of its own."""

    def __init__(self, tailrace: "AsyncTailrace", job_id: str) -> None:
        self._tailrace = tailrace
        self.id = job_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def status(self) -> Status:
        """Where the job stands. Raises: JobNotFound, BrokerUnavailable."""
        return (await self._tailrace.consumer.look(self.id)).status

    async def result(self, timeout: Duration | None = None) -> Result:
        """Wait for the end and return what stands: completed or incomplete.

        Raises: TimeoutError after `timeout` (the job goes on), JobFailed, JobCancelled or JobExpired (each with the partial
        result as `.result`), JobNotFound, HistoryLost, BrokerUnavailable.
        """
        view = ResultView(self.id)
        async with asyncio.timeout(_seconds(timeout)):
            async with aclosing(self._tailrace.consumer.follow(self.id)) as batches:
                async for batch in batches:
                    view.feed(batch.entries)
        result = view.result()
        raise_unless_well(self.id, view.end, result=result)
        return result

    async def text(self, timeout: Duration | None = None) -> str:
        """The text of the result. Waits and raises as `result`."""
        return (await self.result(timeout)).text

    def stream(self, after: Position | str = START, on_rewind: OnRewind = "raise") -> AsyncGenerator[Chunk]:
        """Yield the output text as it comes, each chunk a `str` with a `.position` to resume from.

        No gaps, no repeats. If shown text becomes void, StreamRewound is raised (go on with
        `stream(after=error.position)`), or passed to `on_rewind` and the stream goes on.
        Raises: after the chunks that came JobFailed, JobCancelled or JobExpired; InvalidRequest (no position),
        JobNotFound, PositionLost, HistoryLost, BrokerUnavailable.
        """
        return TextStream(self._tailrace.consumer, self.id, Position(after), on_rewind)

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
    ) -> AsyncGenerator[StreamEvent]:
        """Yield the events of all steps in one order, in the shape of LangChain's StreamEvent.

        Raises: as `stream`, but never StreamRewound: a rewind is an event.
        """
        return self._events(
            version,
            after,
            include_names=include_names,
            include_types=include_types,
            include_tags=include_tags,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
            exclude_tags=exclude_tags,
        )

    def records(self, after: Position | str = START) -> AsyncGenerator[Record | UnknownRecord]:
        """Yield the raw records with their positions, the end record last.

        Raises: as `stream`, but never StreamRewound: rewinds are records, and so is what they void.
        """
        return RecordStream(self._tailrace.consumer, self.id, Position(after))

    async def cancel(self) -> Status:
        """Cancel the job, whatever state it is in, durably; what it has put out stands. The status it ended with.

        Raises: JobNotFound, BrokerUnavailable.
        """
        return await self._tailrace.producer.cancel(self.id)

    async def delete(self) -> None:
        """Remove the job's request and records; a running one is cancelled. Raises: JobNotFound, BrokerUnavailable."""
        await self._tailrace.producer.delete(self.id)

    def stream_batches(self, after: Position | str, on_rewind: OnRewind) -> AsyncGenerator[list[Chunk]]:
        """As `stream`, all chunks that came together in one list."""
        return TextStream(self._tailrace.consumer, self.id, Position(after), on_rewind).batches()

    def event_batches(
        self, version: EventsVersion, after: Position | str, **filters: Sequence[str] | None
    ) -> AsyncGenerator[list[StreamEvent]]:
        """As `stream_events`, all events that came together in one list."""
        return self._events(version, after, **filters).batches()

    def record_batches(self, after: Position | str) -> AsyncGenerator[list[Record | UnknownRecord]]:
        """As `records`, all records that came together in one list."""
        return RecordStream(self._tailrace.consumer, self.id, Position(after)).batches()

    def _events(self, version: EventsVersion, after: Position | str, **filters: Sequence[str] | None) -> EventStream:
        return EventStream(self._tailrace.consumer, self.id, version, Position(after), filters)


class AsyncTailrace:
    """Submit jobs and follow them. One object serves all tasks of an event loop, over a few connections.

    `async with AsyncTailrace() as tailrace`: Redis from TAILRACE_REDIS_URL, else the embedded server.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        namespace: str | None = None,
        settings: Settings | None = None,
        redis: Redis | None = None,
        queue_url: str | None = None,
    ) -> None:
        """`queue_url`: the queue's server, if it is not that of the logs (docs/scaling.md). `redis`: a client of yours that
        answers bytes; it is left open. `settings` replace environment and file."""
        self._settings = settings
        self._given = {"redis_url": redis_url, "queue_url": queue_url, "namespace": namespace}
        self._redis = redis
        self._stack: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise TailraceError("this client is open already")
        if self._settings is None:
            self.settings = Settings.load(**self._given)
        else:
            chosen = {name: value for name, value in self._given.items() if value is not None}
            self.settings = self._settings.model_copy(update=chosen)
        async with AsyncExitStack() as stack:
            if self._redis is not None:
                broker = Broker(self._redis)
            else:
                broker = await stack.enter_async_context(connected(await self._url(), self.settings.queue_url))
            self._consumer = await stack.enter_async_context(Consumer(broker, self.settings.keys))
            self._producer = Producer(broker, self.settings.keys, queue_capacity=self.settings.queue_capacity)
            self._broker = broker
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def _url(self) -> str:
        if self.settings.redis_url is not None:
            return self.settings.redis_url
        from tailrace.joblog.embedded import embedded_url  # who has a server never needs it

        return await asyncio.to_thread(embedded_url)

    @property
    def consumer(self) -> Consumer:
        """The reading side."""
        self._check_open()
        return self._consumer

    @property
    def producer(self) -> Producer:
        """The writing side."""
        self._check_open()
        return self._producer

    @property
    def broker(self) -> Broker:
        """The connections to Redis."""
        self._check_open()
        return self._broker

    async def submit(
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
    ) -> AsyncJob:
        """Store and queue a job; `params` go into the upstream's request body as they are.

        It waits in the queue of that name for the workers that serve it (`tailrace worker --queue NAME`). The same `job_id`
        with the same request gives the same job. Durations are timedelta or seconds.
        Raises: InvalidRequest, JobConflict, QueueFull, BrokerUnavailable, BrokerUnsuitable.
        """
        request = JobRequest.of(
            prompt,
            messages=messages,
            input=input,
            api=api,
            model=model,
            upstream=upstream,
            queue=queue,
            task=task,
            metadata=metadata,
            tags=tags,
            deadline=deadline,
            retention=retention,
            delay=delay,
            on_restart=on_restart,
            max_attempts=max_attempts,
            then=then,
            limits=self._limits(),
            **params,
        )
        return AsyncJob(self, await self.producer.submit(request, job_id=job_id))

    async def submit_many(self, requests: Iterable[str | Mapping[str, Any]]) -> list[AsyncJob]:
        """Submit in one round trip: each request a prompt, or a dict of `submit`'s arguments. Jobs in the same order.

        All requests are checked before any is sent. Raises: as `submit`, for the first that is refused.
        """
        checked: list[tuple[JobRequest, str | None]] = []
        for given in requests:
            arguments: dict[str, Any] = {"prompt": given} if isinstance(given, str) else dict(given)
            job_id = arguments.pop("job_id", None)
            checked.append((JobRequest.of(limits=self._limits(), **arguments), job_id))
        return [AsyncJob(self, job_id) for job_id in await self.producer.submit_many(checked)]

    def job(self, job_id: str) -> AsyncJob:
        """Attach to a job by its id; asks nobody. Raises: InvalidRequest if it is no job id."""
        return AsyncJob(self, check_job_id(job_id))

    def ended(
        self,
        group: str,
        *,
        filter: Callable[[AsyncEnded], object] | None = None,  # noqa: A002  # the word for it
        statuses: Collection[Status | str] = (),
        tags: Collection[str] = (),
        tasks: Collection[str] = (),
        begin: Begin = "oldest",
        consumer: str | None = None,
        takeover: Duration = TAKEOVER_S,
        max_deliveries: int = MAX_DELIVERIES,
    ) -> AsyncGenerator[AsyncEnded]:
        """Yield the jobs that have ended, each at least once to one reader of the group, for ever; `ack()` what is done.

        What is not acknowledged within `takeover` (timedelta or seconds) is handed out again, to whichever reader of the
        group, and parked after `max_deliveries`. Dedupe by `job_id`: twice is possible. What `statuses`, `tags` (one of
        them), `tasks` and `filter` do not want is acknowledged at once. A new group begins with the oldest end that is kept,
        or "now". `consumer` is this reader's name in the group; by default a random one.
        Raises: InvalidRequest, BrokerUnavailable (at once; later on it is waited for), BrokerUnsuitable.
        """
        choice = Choice(statuses, tags, tasks, filter)
        return GroupReader(
            self.broker,
            self.settings.keys,
            group,
            choice=choice,
            begin=begin,
            consumer=consumer,
            takeover=takeover,
            max_deliveries=max_deliveries,
        ).read()

    async def parked(self, group: str) -> list[Parked]:
        """What a group of `ended` has given up, the oldest first. Raises: InvalidRequest, BrokerUnavailable."""
        return await parked(self.broker, self.settings.keys, group)

    async def unpark(self, group: str, job_ids: Collection[str] | None = None) -> int:
        """Hand parked jobs out to the group again; None: all of them. How many. Raises: as `parked`."""
        return await unpark(self.broker, self.settings.keys, group, job_ids)

    def _limits(self) -> Any:
        self._check_open()
        return self.settings.limits

    def _check_open(self) -> None:
        if self._stack is None:
            raise TailraceError("this client is not open: use it in `with Tailrace() as tailrace:` (or `async with`)")


def _seconds(timeout: Duration | None) -> float | None:
    if timeout is None:
        return None
    return timeout if isinstance(timeout, int | float) else timeout.total_seconds()
