"""A job that has ended, for blocking code."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Protocol, TypeVar

from tailrace.consumer import AsyncEnded
from tailrace.schemas import Result, Status

T = TypeVar("T")


class Portal(Protocol):
    """The client: it runs coroutine functions on its loop."""

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T: ...


class Ended:
    """A job that has ended, in this reader's hands until it is acknowledged or taken over."""

    def __init__(self, portal: Portal, ended: AsyncEnded) -> None:
        self._portal, self._ended = portal, ended
        self.job_id = ended.job_id
        self.status: Status = ended.status

    def __repr__(self) -> str:
        return repr(self._ended).removeprefix("Async")

    @property
    def deliveries(self) -> int:
        """How often it was handed out to the group, this time included."""
        return self._ended.deliveries

    @property
    def task(self) -> str | None:
        """The task's name; None for a prompt."""
        return self._ended.task

    @property
    def tags(self) -> tuple[str, ...]:
        return self._ended.tags

    @property
    def ended_at(self) -> datetime | None:
        """When the end was written, by the server's clock."""
        return self._ended.ended_at

    def ack(self) -> None:
        """It is done: the group will not see it again. Raises: BrokerUnavailable (call it again)."""
        self._portal.call(self._ended.ack)

    def hold(self) -> bool:
        """Keep it for another `takeover` seconds, for work that takes longer. False if it was taken over or acknowledged.

        Raises: BrokerUnavailable.
        """
        return self._portal.call(self._ended.hold)

    def release(self) -> None:
        """Hand it back: the group gets it again within seconds. Raises: BrokerUnavailable."""
        self._portal.call(self._ended.release)

    def park(self, reason: str) -> None:
        """Give it up: acknowledged, and kept beside for people. Raises: BrokerUnavailable."""
        self._portal.call(self._ended.park, reason)

    def result(self) -> Result:
        """What stands of the job, whatever its status: a failed one has its `.error`, and what came before it.

        Raises: JobNotFound (deleted since, or its time is over), HistoryLost, BrokerUnavailable.
        """
        return self._portal.call(self._ended.result)
