"""What else a server's own words tell: limits that come near, settings that cost, replicas that fall behind.

Each is a judgement of INFO, or of one setting: nothing here asks the server. None of it keeps a worker from starting.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

Level = Literal["error", "warning", "ok"]

#: Of the connections that the server takes: at the last one, readers and workers are refused.
CONNECTIONS_NEARLY_FULL: Final = 0.8
#: Our longest script runs for some milliseconds; a slow disk may make that more.
SHORTEST_SCRIPT_LIMIT_MS: Final = 500
#: A replica that is further behind would lose that much at a failover.
REPLICA_LAG_S: Final = 10
#: Below that, fragmentation is the allocator's start, not a loss.
FRAGMENTED_FROM_BYTES: Final = 256 * 1024 * 1024
FRAGMENTED: Final = 1.5
#: A fork stops the server for so long: huge pages, or a machine that is short of memory.
LONG_FORK_US: Final = 500_000
#: Without a limit of its own, a server that has taken so much of its machine is near the kernel's.
UNLIMITED_SHARE: Final = 0.6
#: Idle connections that are cut sooner cost a reconnect each.
SHORTEST_IDLE_S: Final = 60
CERTIFICATE_DAYS: Final = 14
SHORT_NODES_BYTES: Final = 1024

#: The settings that are judged, if we may see them.
SETTINGS: Final = (
    "busy-reply-threshold",
    "cluster-node-timeout",
    "lua-time-limit",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "stream-node-max-bytes",
    "timeout",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the server: how grave it is, what was seen, what to do about it, and a code for scripts."""

    level: Level
    code: str
    what: str
    cure: str = ""


def of_info(info: Mapping[str, Any]) -> list[Finding]:
    """What INFO tells."""
    checks: tuple[Callable[[Mapping[str, Any]], Finding | None], ...] = (
        _connections, _replicas, _unlimited, _fragmentation, _fork, _rewrite,
    )  # fmt: skip
    return [found for check in checks if (found := check(info)) is not None]


def of_settings(settings: Mapping[str, str | None], info: Mapping[str, Any] | None) -> list[Finding]:
    """What the settings tell that could be seen; nothing of those that could not."""
    known = {name: value for name, value in settings.items() if value is not None}
    found: list[Finding] = []
    script_ms = known.get("busy-reply-threshold", known.get("lua-time-limit"))
    if script_ms is not None and 0 < _int(script_ms) < SHORTEST_SCRIPT_LIMIT_MS:
        found.append(
            Finding(
                "warning",
                "busy-scripts",
                f"after {script_ms} ms of a script the server answers BUSY to everybody",
                "CONFIG SET busy-reply-threshold 5000 (the default)",
            )
        )
    wanted = _int(known.get("min-replicas-to-write", "0"))
    good = _int((info or {}).get("min_slaves_good_slaves", (info or {}).get("connected_slaves", 0)))
    if wanted and info is not None and good < wanted:
        found.append(
            Finding(
                "error",
                "min-replicas",
                f"the server takes no writes: min-replicas-to-write is {wanted}, {good} replicas are in reach",
                "bring the replicas back, or CONFIG SET min-replicas-to-write 0",
            )
        )
    idle_s = _int(known.get("timeout", "0"))
    if 0 < idle_s < SHORTEST_IDLE_S:
        found.append(
            Finding(
                "warning",
                "idle-timeout",
                f"connections that are silent for {idle_s} s are cut, and opened anew",
                "CONFIG SET timeout 0",
            )
        )
    node = known.get("stream-node-max-bytes")
    if node is not None and not 0 < _int(node) <= SHORT_NODES_BYTES:
        told = f"stream-node-max-bytes {node}: a short job takes some 5 KB while it runs"
        found.append(Finding("ok", "stream-nodes", f"{told}, 2 KB with {SHORT_NODES_BYTES}"))
    return found


def of_certificate(not_after: datetime, now: datetime) -> Finding:
    """How long the server's certificate is good for."""
    left = not_after - now
    told = f"the server's certificate is valid until {not_after:%Y-%m-%d}"
    if left < timedelta(days=CERTIFICATE_DAYS):
        days = max(0, left.days)
        return Finding(
            "warning",
            "certificate",
            f"{told}: {days} day{'' if days == 1 else 's'} from now nobody can connect any more",
            "renew it, and have the server load it (CONFIG SET tls-cert-file to the same path, or a restart)",
        )
    return Finding("ok", "certificate", told)


def certificate_end(text: str) -> datetime:
    """The `notAfter` of a certificate as Python's ssl has it. Raises: ValueError."""
    return datetime.strptime(text, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)


def _connections(info: Mapping[str, Any]) -> Finding | None:
    there, limit = _int(info.get("connected_clients")), _int(info.get("maxclients"))
    if not limit:
        return None
    if there >= limit * CONNECTIONS_NEARLY_FULL:
        return Finding(
            "warning",
            "connections",
            f"{there} of {limit} connections are taken; at the last one clients are refused",
            "CONFIG SET maxclients higher (its `ulimit -n` too), or find who opens so many: CLIENT LIST",
        )
    return Finding("ok", "connections", f"{there} of {limit} connections")


def _replicas(info: Mapping[str, Any]) -> Finding | None:
    if not _int(info.get("connected_slaves")):
        return None
    said: list[Any] = [value for name, value in info.items() if name.startswith("slave")]
    replicas: list[dict[str, Any]] = [value for value in said if isinstance(value, dict)]
    behind = [each for each in replicas if each.get("state") != "online" or _int(each.get("lag")) > REPLICA_LAG_S]
    if behind:
        return Finding(
            "warning",
            "replicas",
            f"{len(behind)} of {len(replicas)} replicas are not in step: a failover would lose what they lack",
            "look at the network and the disks between; `min-replicas-to-write 1` stops accepting instead",
        )
    return Finding("ok", "replicas", f"{len(replicas)} replicas in step; a failover loses what was not sent yet")


def _unlimited(info: Mapping[str, Any]) -> Finding | None:
    used, machine = _int(info.get("used_memory")), _int(info.get("total_system_memory"))
    if _int(info.get("maxmemory")) or not machine or used < machine * UNLIMITED_SHARE:
        return None
    return Finding(
        "warning",
        "unlimited",
        f"the server has no maxmemory and takes {used / machine:.0%} of its machine: the kernel would kill it",
        "CONFIG SET maxmemory to some 60 % of the machine (a fork for a snapshot needs room too)",
    )


def _fragmentation(info: Mapping[str, Any]) -> Finding | None:
    used, resident = _int(info.get("used_memory")), _int(info.get("used_memory_rss"))
    if resident < FRAGMENTED_FROM_BYTES or resident < used * FRAGMENTED:
        return None
    return Finding(
        "warning",
        "fragmentation",
        f"the server holds {resident / max(used, 1):.1f} times the memory that it uses",
        "CONFIG SET activedefrag yes, where the build has it; else a restart gives it back",
    )


def _fork(info: Mapping[str, Any]) -> Finding | None:
    spent_us = _int(info.get("latest_fork_usec"))
    if spent_us < LONG_FORK_US:
        return None
    return Finding(
        "warning",
        "fork",
        f"the last fork stopped the server for {spent_us / 1000:.0f} ms",
        "on its machine: echo never > /sys/kernel/mm/transparent_hugepage/enabled, sysctl vm.overcommit_memory=1",
    )


def _rewrite(info: Mapping[str, Any]) -> Finding | None:
    if info.get("aof_last_bgrewrite_status", "ok") == "ok":
        return None
    return Finding(
        "warning",
        "aof-rewrite",
        "the append-only file could not be rewritten: it only grows",
        "free space on its disk, then BGREWRITEAOF; sysctl vm.overcommit_memory=1 if its log says it cannot fork",
    )


def _int(value: object) -> int:
    try:
        return int(value)  # type: ignore[call-overload,no-any-return]  # whatever it is  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError):
        return 0
