"""The hand-off: every job that has ended, at least once, to one reader of each group.

    async for ended in reader: await index(await ended.result()); await ended.ack()

What is not acknowledged is handed out again after `takeover` seconds, to whoever asks, and parked when that was in vain
too often. Handed out twice is possible (a reader that died between its work and its `ack`, a server that went back in
time): what must not happen twice is keyed by `job_id`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tailrace.consumer.ended_scripts import HOLD, PARK, RELEASE
from tailrace.joblog import Broker, Word, read_whole
from tailrace.schemas import JobNotFound, Keys, Result, Status, check_job_id
from tailrace.views import result_of

#: Whoever looks takes over at once what has been idle for so long.
_IDLE_FOR_EVER_MS: Final = 30 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Notice:
    """What an entry of the hand-off says of a job: nothing that readers of the job may not know."""

    job_id: str
    status: Status
    task: str | None
    tags: tuple[str, ...]
    ended_at: datetime | None
    incarnation: str
    only_for: str | None
    """The group that it was put there for again; None: all."""
    trace: str | None = None
    """The W3C traceparent of the attempt that ended it, where it was traced."""


def notice_of(fields: Mapping[bytes, bytes]) -> Notice | None:
    """None if it is no entry of ours."""
    try:
        said = {name.decode(): value.decode() for name, value in fields.items()}
        tags = json.loads(said.get("tags", "[]"))
        at_ms = int(said.get("at", "0"))
        return Notice(
            job_id=check_job_id(said["job"]),
            status=Status(said["status"]),
            task=said.get("task"),
            tags=tuple(str(tag) for tag in tags),
            ended_at=datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else None,
            incarnation=said.get("incarnation", ""),
            only_for=said.get("for"),
            trace=said.get("trace"),
        )
    except (ValueError, TypeError, LookupError, OverflowError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class Membership:
    """One consumer of one group."""

    broker: Broker
    keys: Keys
    group: str
    consumer: str


class AsyncEnded:
    """A job that has ended, in this reader's hands until it is acknowledged or taken over."""

    def __init__(self, member: Membership, stream: str, entry_id: str, notice: Notice, deliveries: int) -> None:
        self._member, self._stream, self._id = member, stream, entry_id
        self.notice = notice
        self.job_id = notice.job_id
        self.status = notice.status
        self.deliveries = deliveries
        """How often it was handed out to the group, this time included."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.job_id!r}, {self.status.value!r}, deliveries={self.deliveries})"

    @property
    def task(self) -> str | None:
        """The task's name; None for a prompt."""
        return self.notice.task

    @property
    def tags(self) -> tuple[str, ...]:
        return self.notice.tags

    @property
    def ended_at(self) -> datetime | None:
        """When the end was written, by the server's clock."""
        return self.notice.ended_at

    async def ack(self) -> None:
        """It is done: the group will not see it again. Raises: BrokerUnavailable (call it again)."""
        await self._member.broker.queue.call("XACK", self._stream, self._member.group, self._id)

    async def hold(self) -> bool:
        """Keep it for another `takeover` seconds, for work that takes longer. False if it was taken over or acknowledged.

        Raises: BrokerUnavailable.
        """
        return await self._hold(again=False)

    async def try_again(self) -> bool:
        """As `hold`, and count it as handed out once more."""
        return await self._hold(again=True)

    async def release(self) -> None:
        """Hand it back: the group gets it again within seconds. Raises: BrokerUnavailable."""
        args: list[Word] = [
            self._member.group,
            self._member.consumer,
            _IDLE_FOR_EVER_MS,
            0,
            "0",
            self._id,
        ]
        await self._member.broker.queue.run(RELEASE, [self._stream], args)

    async def park(self, reason: str) -> None:
        """Give it up: acknowledged, and kept beside for people. Raises: BrokerUnavailable."""
        member = self._member
        args: list[Word] = [member.group, member.consumer, self._id, reason[:1000]]
        await member.broker.queue.run(PARK, [self._stream, member.keys.parked(member.group)], args)

    async def result(self) -> Result:
        """What stands of the job, whatever its status: a failed one has its `.error`, and what came before it.

        Raises: JobNotFound (deleted since, or its time is over), HistoryLost, BrokerUnavailable.
        """
        entries = await read_whole(self._member.broker, self._member.keys, self.job_id)
        if not entries:
            raise JobNotFound(self.job_id)
        return result_of(self.job_id, entries)

    async def _hold(self, *, again: bool) -> bool:
        args: list[Word] = [self._member.group, self._member.consumer, self._id, int(again)]
        deliveries = int(await self._member.broker.queue.run(HOLD, [self._stream], args))
        self.deliveries = deliveries or self.deliveries
        return deliveries > 0
