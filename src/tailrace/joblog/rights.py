"""What each role must be allowed to do on a server with access lists (ACL): the rules, and commands that try them.

docs/security.md has the same rules for the default namespace. Source: redis.io/docs/latest/operate/oss_and_stack/
management/security/acl.
"""

from dataclasses import dataclass
from typing import Final, Literal

from tailrace.schemas import Keys

Role = Literal["worker", "gateway", "producer", "consumer"]
Holds = Literal["all", "logs", "queue"]
"""What a server has: the jobs' logs, the queue and all that is not one job's, or both."""

#: From the most to the least.
ROLES: Final[tuple[Role, ...]] = ("worker", "gateway", "producer", "consumer")

#: Neither KEYS nor SCAN nor PSUBSCRIBE, and ZRANGE for the gateway only, which lists to each tenant its own: who has not been
#: told a job's id does not find it.
_COMMANDS: Final[dict[Role, str]] = {
    "worker": "+@read +@write +@pubsub +@transaction +@connection +@blocking -@dangerous -function +eval +evalsha "
    "+script|load +time +info",
    "gateway": "+ping +select +time +eval +evalsha +script|load +exists +get +getrange +hget +set +del +pttl +pexpire "
    "+pexpireat +xadd +xlen +xrange +xrevrange +xtrim +zadd +zcard +zrem +zscore +zrange +lpush +ltrim +publish +subscribe "
    "+unsubscribe +hset +hdel +hlen +hexists +hgetall +info +zcount +xinfo|stream +xinfo|groups",
    "producer": "+ping +select +time +eval +evalsha +script|load +exists +get +getrange +hget +set +del +pttl +pexpire "
    "+pexpireat +xadd +xlen +xrange +xrevrange +xtrim +zadd +zcard +zrem +zscore +lpush +ltrim +publish",
    "consumer": "+ping +select +time +exists +get +xlen +xrange +xrevrange +subscribe +unsubscribe",
}
#: What a node of a cluster is asked too: who serves which slot, a key on its way to another node, sharded channels.
_CLUSTER_COMMANDS: Final[dict[Role, str]] = {
    "worker": "+cluster|info +cluster|slots +asking",
    "gateway": "+cluster|info +cluster|slots +asking +spublish +ssubscribe +sunsubscribe",
    "producer": "+cluster|info +cluster|slots +asking +spublish",
    "consumer": "+cluster|info +cluster|slots +asking +ssubscribe +sunsubscribe",
}
_PROBE_TTL_MS: Final = 10_000
_KEYLESS: Final = frozenset({"PING", "TIME", "EVALSHA", "SCRIPT"})
_KEYLESS_SCRIPT: Final = ("EVAL", "return 1", 0)
_KEY_AT: Final[dict[str | int, int]] = {"EVAL": 3}


def rule(role: Role, keys: Keys, *, cluster: bool = False) -> str:
    """What follows `ACL SETUSER <user> on ><password>` for a user that is this and nothing more; `cluster`: on its nodes.

    The same wherever logs and queue are, so that one user is good for both; a server's own part of it would do there.
    """
    names = keys.namespace
    queues = f"~{keys.queue} ~{keys.wake} ~{keys.queues} ~{keys.queue_of('*')}"
    where = {
        "worker": f"~{names}:* ~arq:*:{names}:* &{names}:*",
        "gateway": f"~{names}:{{*}}:* ~{keys.open} {queues} ~{keys.tenant_requests('*')} "
        f"~{keys.tenant_jobs('*')} %R~{keys.tasks} {' '.join(f'%R~{each}' for each in keys.ended_streams)} "
        f"%R~{keys.workers} %R~{keys.worker('*')} "
        f"~arq:job:{names}:* &{keys.live('*')} &{keys.worker('*')}",
        "producer": f"~{names}:{{*}}:* ~{keys.open} {queues} %R~{keys.tasks} ~arq:job:{names}:* "
        f"&{keys.live('*')} &{keys.worker('*')}",
        "consumer": f"%R~{keys.log('*')} %R~{keys.snapshot('*')} &{keys.live('*')}",
    }
    return f"{where[role]} {_COMMANDS[role]}" + (f" {_CLUSTER_COMMANDS[role]}" if cluster else "")


@dataclass(frozen=True, slots=True)
class Probe:
    """A command as the rooms use it, that changes nothing but a probe job's keys, and who must be allowed to call it."""

    roles: tuple[Role, ...]
    command: tuple[str | int, ...]


def probes(keys: Keys, probe: str, holds: Holds = "all", *, cluster: bool = False) -> list[Probe]:
    """In the order to send them: what is written is removed again at the end, and has a time to live. `holds`: what the
    server has; `cluster`: whether it is a node of one."""
    of_job = {keys.log(probe), keys.request(probe), keys.snapshot(probe), keys.live(probe)}
    found = [
        each
        for each in _all_probes(keys, probe)
        if "all" in (holds, where := _needed_on(each.command, of_job)) or where == holds
    ]
    if not cluster:
        return found
    asked = [Probe(ROLES, command) for command in (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("ASKING",))]
    return [*asked, *(_sharded(each) for each in found)]


def _needed_on(command: tuple[str | int, ...], of_job: set[str]) -> Holds:
    """Where a role calls this: by its first key, or its channel."""
    if command[0] in _KEYLESS or command[:3] == _KEYLESS_SCRIPT:
        return "all"
    return "logs" if command[_KEY_AT.get(command[0], 1)] in of_job else "queue"


def _sharded(probe: Probe) -> Probe:
    name, *rest = probe.command
    return Probe(probe.roles, ("SPUBLISH", *rest)) if name == "PUBLISH" else probe


def _all_probes(keys: Keys, probe: str) -> list[Probe]:
    log, request, snapshot, queued = keys.log(probe), keys.request(probe), keys.snapshot(probe), keys.queued(probe)
    words = f"{keys.namespace}:{{{probe}}}:words"
    script = "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])"
    payload = f"arq:job:{queued}"
    let_in, bucket = keys.tenant_jobs(probe), keys.tenant_requests(probe)
    everyone: list[tuple[str | int, ...]] = [
        ("PING",),
        ("TIME",),
        ("GET", snapshot),
        ("EXISTS", log),
        ("XLEN", log),
        ("XRANGE", log, "-", "+", "COUNT", 1),
        ("XREVRANGE", log, "+", "-", "COUNT", 1),
    ]
    writers: list[tuple[str | int, ...]] = [
        ("EVAL", script, 1, request, "probe", _PROBE_TTL_MS),
        _KEYLESS_SCRIPT,
        ("EVALSHA", "0" * 40, 0),
        ("SCRIPT", "LOAD", script),
        ("GETRANGE", request, 0, 1),
        ("HGET", keys.tasks, "probe"),
        ("SET", snapshot, "probe", "PX", _PROBE_TTL_MS),
        ("PTTL", snapshot),
        ("XADD", log, "0-1", "probe", "probe"),
        ("PEXPIRE", log, _PROBE_TTL_MS),
        ("PEXPIREAT", log, 1),
        ("XTRIM", log, "MAXLEN", 0),
        ("ZADD", keys.open, "XX", 0, probe),
        ("ZREM", keys.open, probe),
        ("ZADD", keys.queue, "XX", 0, queued),
        ("ZADD", keys.queues, "XX", "GT", 0, probe),
        ("ZSCORE", keys.queue_of(probe), queued),
        ("ZCARD", keys.queue),
        ("ZSCORE", keys.queue, queued),
        ("LTRIM", keys.wake, 0, -1),
        ("LPUSH", words, "probe"),
        ("PEXPIRE", words, _PROBE_TTL_MS),
        ("SET", payload, "probe", "PX", _PROBE_TTL_MS),
        ("DEL", payload),
        ("PUBLISH", keys.live(probe), "probe"),
        ("PUBLISH", keys.worker(probe), "probe"),
    ]
    gateways: list[tuple[str | int, ...]] = [
        ("ZRANGE", keys.open, 0, 0),
        *(("XREVRANGE", stream, "+", "-", "COUNT", 1) for stream in keys.ended_streams),
        ("SET", bucket, "0", "PX", _PROBE_TTL_MS),
        ("GET", bucket),
        ("DEL", bucket),
        ("HSET", let_in, probe, "0 0"),
        ("PEXPIRE", let_in, _PROBE_TTL_MS),
        ("PTTL", let_in),
        ("HEXISTS", let_in, probe),
        ("HLEN", let_in),
        ("HGETALL", let_in),
        ("HDEL", let_in, probe),
    ]
    workers: list[tuple[str | int, ...]] = [
        ("ZRANGEBYSCORE", keys.queue, 0, 0, "LIMIT", 0, 1),
        ("ZRANGE", keys.queue, 0, 0),
        ("ZREM", keys.queue, queued),
        ("XDEL", keys.ended, "0-1"),
        ("HDEL", keys.tasks, probe),
        ("PSETEX", f"arq:in-progress:{queued}", _PROBE_TTL_MS, "probe"),
        ("GET", payload),
        ("INCR", f"arq:retry:{queued}"),
        ("EXPIRE", f"arq:retry:{queued}", 1),
        ("DEL", f"arq:in-progress:{queued}", f"arq:retry:{queued}"),
    ]
    return [
        *(Probe(ROLES, command) for command in everyone),
        *(Probe(("worker", "gateway", "producer"), command) for command in writers),
        *(Probe(("worker", "gateway"), command) for command in gateways),
        *(Probe(("worker",), command) for command in workers),
        Probe(("worker", "gateway", "producer"), ("DEL", request, log, snapshot)),
        Probe(("worker", "gateway", "producer"), ("DEL", words)),
    ]


SUBSCRIBERS: Final[tuple[Role, ...]] = ("worker", "gateway", "consumer")
"""Who subscribes, to what is published where logs are. Tried apart: it needs a connection of its own."""
