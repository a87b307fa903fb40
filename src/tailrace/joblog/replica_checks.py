"""What a server's own words tell of who stands in for it: the state of its cluster, or what an old primary may still take.

Pure judgements, as `server_checks`.
"""

from collections.abc import Mapping
from typing import Any, Final

from tailrace.joblog.rights import Holds
from tailrace.joblog.server_checks import Finding
from tailrace.schemas import GRACE_S

SLOTS: Final = 16384
#: The jobs of a primary that died are silent for its node timeout and a second or two: more than half of the grace after a
#: deadline, and jobs expire that might have ended.
LONGEST_NODE_TIMEOUT_MS: Final = round(GRACE_S * 500)
#: A primary that was replaced while it hung counts its replicas as good for so long.
LONGEST_REPLICA_LAG_S: Final = 5


def of_cluster(
    told: Mapping[str, str], settings: Mapping[str, str | None], info: Mapping[str, Any] | None
) -> list[Finding]:
    """Of a primary of a cluster. `told`: its CLUSTER INFO."""
    found = [_state(told)] if "cluster_state" in told else []
    if info is not None and info.get("role") == "master":
        found.append(_followed(info))
    timeout = settings.get("cluster-node-timeout")
    if timeout is not None:
        found.append(_node_timeout(_int(timeout)))
    return found


def _state(told: Mapping[str, str]) -> Finding:
    served = _int(told.get("cluster_slots_ok"))
    size = told.get("cluster_size", "?")
    what = f"{served} of {SLOTS} slots are served, by {size} primaries, as this node sees it"
    if told["cluster_state"] != "ok":
        return Finding(
            "error",
            "cluster-state",
            f"the cluster refuses (cluster_state:{told['cluster_state']}); {what}",
            "start the primaries that are missing, or their replicas (CLUSTER NODES). `cluster-require-full-coverage no` lets "
            "the others' jobs go on meanwhile",
        )
    if served < SLOTS:
        return Finding(
            "warning",
            "cluster-slots",
            f"{what}: jobs of the others stand still",
            "start the primary that is missing, or its replica (CLUSTER NODES); slots of nobody: CLUSTER ADDSLOTSRANGE",
        )
    return Finding("ok", "cluster-state", f"cluster_state:ok, {what}")


def _followed(info: Mapping[str, Any]) -> Finding:
    count = _int(info.get("connected_slaves"))
    if not count:
        return Finding(
            "warning",
            "no-replica",
            "no replica follows this node: when it dies, its jobs stand still until it is back",
            "add one (CLUSTER MEET, then CLUSTER REPLICATE), or bring back the one that is away",
        )
    return Finding("ok", "followed", f"{count} replica{'' if count == 1 else 's'} can stand in for it")


def _node_timeout(timeout_ms: int) -> Finding:
    what = f"cluster-node-timeout {timeout_ms} ms: jobs of a primary that dies are silent for some {timeout_ms / 1000 + 2:.0f} s"
    if timeout_ms > LONGEST_NODE_TIMEOUT_MS:
        return Finding("warning", "node-timeout", what, "CONFIG SET cluster-node-timeout 5000, on every node")
    return Finding("ok", "node-timeout", what)


def of_replication(
    settings: Mapping[str, str | None], info: Mapping[str, Any], holds: Holds, *, watched: bool
) -> list[Finding]:
    """Of a server with replicas, or that Sentinels watch: whether it refuses writes once it was replaced.

    Sentinels leave a primary that wakes up, or was replaced by hand, a primary for another eight seconds. What the queue's
    takes meanwhile is lost, and nobody knows of those jobs; a log that went back is noticed by who reads and writes it.
    """
    replicas = _int(info.get("connected_slaves"))
    if not watched and (not replicas or holds == "logs"):
        return []
    told = settings.get("min-replicas-to-write")
    if told is None and "min_slaves_good_slaves" not in info:
        return []
    wanted = 1 if told is None else _int(told)
    lag = settings.get("min-replicas-max-lag")
    cure = (
        "CONFIG SET min-replicas-to-write 1 and min-replicas-max-lag 2 on it and on its replicas (and in their files)"
    )
    if not wanted or lag == "0":
        what = "min-replicas-to-write 0: a primary that was replaced and wakes up takes jobs for seconds that are lost"
        return [Finding("warning", "old-primary", what, cure)]
    if lag is not None and _int(lag) > LONGEST_REPLICA_LAG_S:
        what = (
            f"min-replicas-max-lag {lag}: a primary that was replaced may take jobs for so many seconds that are lost"
        )
        return [Finding("warning", "old-primary", what, cure)]
    if replicas <= wanted:
        what = f"{replicas} replicas with min-replicas-to-write {wanted}: one that takes over has too few of its own"
        return [Finding("warning", "old-primary", what, f"have {wanted + 1} replicas")]
    return [Finding("ok", "old-primary", f"takes no writes without {wanted} of its {replicas} replicas")]


def _int(value: object) -> int:
    try:
        return int(value)  # type: ignore[call-overload,no-any-return]  # whatever it is  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError):
        return 0
