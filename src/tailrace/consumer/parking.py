"""What a group could not handle: looking at it, and having it handed out once more."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from tailrace.consumer.ended import notice_of
from tailrace.consumer.ended_scripts import PARKED_LIMIT, UNPARK
from tailrace.joblog import Broker
from tailrace.schemas import Keys, Status, check_group


@dataclass(frozen=True, slots=True)
class Parked:
    """An ended job that a group gave up."""

    id: str
    """Its place among the parked ones."""
    job_id: str
    status: Status | None
    deliveries: int
    """How often it was handed out."""
    reason: str
    parked_at: datetime


async def parked(broker: Broker, keys: Keys, group: str, *, limit: int = PARKED_LIMIT) -> list[Parked]:
    """What a group has parked, the oldest first. Raises: InvalidRequest, BrokerUnavailable, BrokerUnsuitable."""
    found = await broker.queue.call("XRANGE", keys.parked(check_group(group)), "-", "+", "COUNT", limit)
    listed: list[Parked] = []
    for entry_id, fields in found:
        notice = notice_of(fields)
        number = fields.get(b"deliveries", b"")
        listed.append(
            Parked(
                id=entry_id.decode(),
                job_id=notice.job_id if notice else fields.get(b"job", b"").decode(errors="replace"),
                status=notice.status if notice else None,
                deliveries=int(number) if number.isdigit() else 0,
                reason=fields.get(b"reason", b"").decode(errors="replace"),
                parked_at=datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000, UTC),
            )
        )
    return listed


async def unpark(broker: Broker, keys: Keys, group: str, job_ids: Collection[str] | None = None) -> int:
    """Hand parked ones out to the group again, counted from one; None: all of them. How many there were.

    Raises: InvalidRequest, BrokerUnavailable, BrokerUnsuitable.
    """
    count = 0
    for each in await parked(broker, keys, group):
        if (job_ids is None or each.job_id in job_ids) and each.job_id:
            count += await broker.queue.run(
                UNPARK, [keys.ended_of(each.job_id), keys.parked(group)], [group, "", each.id]
            )
    return count
