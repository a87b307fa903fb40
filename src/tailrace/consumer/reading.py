"""Following any number of jobs over one connection."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Self

from tailrace.consumer.hub import LOOK_S, Hub
from tailrace.consumer.tails import Tails
from tailrace.joblog import Batch, Broker, Overview, follow, look
from tailrace.schemas import END, START, Keys, Position, check_job_id, parse_position


class Consumer:
    """Reads jobs by id, from any position, at any time. Shared by all readers of a process."""

    def __init__(self, broker: Broker, keys: Keys, *, look_s: float = LOOK_S) -> None:
        self._broker, self._keys = broker, keys
        self._hub = Hub(broker, keys, look_s=look_s)
        self.tails = Tails(broker, keys, self._hub)
        """For those who read through a `Stream`: they share what they read."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._hub)
        await self._stack.enter_async_context(self.tails)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def followed(self) -> int:
        """How many jobs' live channels are heard."""
        return len(self._hub)

    async def follow(self, job_id: str, *, after: Position = START) -> AsyncGenerator[Batch]:
        """Yield the job's records in batches, in the order written, and return after the end record.

        Batches that are not fresh stand before `after`. Contiguous: a hole is repaired from the log or raised.
        Raises: InvalidRequest (no job id, no position), JobNotFound, PositionLost, HistoryLost, BrokerUnavailable.
        """
        check_job_id(job_id)
        parse_position(after)
        if after == END:
            return
        async with (
            self._hub.subscribed(job_id) as feed,
            aclosing(follow(self._broker, self._keys, job_id, feed, after=after)) as batches,
        ):
            async for batch in batches:
                yield batch

    async def look(self, job_id: str) -> Overview:
        """Where the job stands. Raises: InvalidRequest, JobNotFound, BrokerUnavailable."""
        return await look(self._broker, self._keys, check_job_id(job_id))
