"""What `tailrace doctor` says of the hand-off: groups that are behind, and what they have given up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tailrace.cli.doctor_jobs import JobsFinding
from tailrace.joblog import Broker
from tailrace.joblog.suitability import Finding
from tailrace.schemas import BrokerUnavailable, InvalidRequest, Keys, TailraceError

#: Of what the hand-off keeps for a group that is behind.
_NEARLY_DROPPED: Final = 0.5
#: A group may be so far behind for a moment.
_BEHIND: Final = 1000


@dataclass(frozen=True, slots=True)
class Group:
    """One group of readers, over all streams."""

    name: str
    consumers: int
    behind: int
    """Ended jobs that it has not acknowledged; those that it has not been given yet among them."""
    parked: int


async def handoff_findings(broker: Broker, keys: Keys) -> list[Finding]:
    """What is not in order with the groups. Raises: BrokerUnavailable."""
    try:
        return list(told(await _groups(broker, keys), keys))
    except BrokerUnavailable:
        raise
    except TailraceError as error:  # a user that may not look: it need not
        return [Finding("ok", "handoff", f"the hand-off is not looked at: {error}")]


async def _groups(broker: Broker, keys: Keys) -> list[Group]:
    found: dict[str, list[int]] = {}
    for stream in keys.ended_streams:
        if not await broker.queue.call("EXISTS", stream):
            continue
        for said in await broker.queue.call("XINFO GROUPS", stream):
            name = said["name"].decode(errors="replace")
            sums = found.setdefault(name, [0, 0])
            sums[0] = max(sums[0], int(said["consumers"]))
            sums[1] += int(said["pending"]) + await _lag(broker, stream, said)
    groups: list[Group] = []
    for name, (consumers, behind) in found.items():
        try:
            parked = int(await broker.queue.call("XLEN", keys.parked(name)))
        except InvalidRequest:
            parked = 0
        groups.append(Group(name, consumers, behind, parked))
    return groups


async def _lag(broker: Broker, stream: str, said: dict[str, Any]) -> int:
    """Entries that the group has not been given. The server loses count when entries are deleted: then they are counted."""
    lag = said.get("lag")
    if isinstance(lag, int):
        return lag
    entries: Sequence[Any] = await broker.queue.call(
        "XRANGE", stream, f"({said['last-delivered-id'].decode()}", "+", "COUNT", _BEHIND + 1
    )
    return len(entries)


def told(groups: Sequence[Group], keys: Keys) -> Iterator[Finding]:
    """The groups in words."""
    if not groups:
        return
    for group in groups:
        fields = {"group": group.name, "behind": group.behind, "consumers": group.consumers, "parked": group.parked}
        what = f"group {group.name!r} has {group.behind} ended jobs to do"
        if group.behind and not group.consumers:
            yield JobsFinding(
                "warning",
                "group-unread",
                f"{what}, and no reader",
                f"start its reader, or `tailrace purge group {group.name}`: what it holds back is kept for it",
                fields,
            )
        elif group.behind >= min(_BEHIND, keys.ended_limit * _NEARLY_DROPPED):
            yield JobsFinding(
                "warning",
                "group-behind",
                f"{what}; beyond {keys.ended_limit} they are dropped",
                "start more readers of it; look whether one hangs",
                fields,
            )
        if group.parked:
            yield JobsFinding(
                "warning",
                "parked",
                f"group {group.name!r} has given up {group.parked} ended jobs",
                "see why (Tailrace.parked), then Tailrace.unpark hands them out again, or "
                f"`tailrace purge parked {group.name}` forgets them",
                fields,
            )
    well = [group.name for group in groups if not group.parked and (group.behind == 0 or group.consumers)]
    yield Finding("ok", "groups", f"{len(groups)} groups read the hand-off, {len(well)} of them without complaint")
