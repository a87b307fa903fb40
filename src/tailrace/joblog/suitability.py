"""Whether a server that answers can keep tailrace's promises, and what to change where it cannot.

What the server says of itself (INFO, CONFIG) is read where it may be read: managed servers refuse CONFIG, restricted
users both, and what could not be looked at is a warning. Rights are tried out, with commands that change nothing but a
probe job's keys, which are removed again and have a time to live. ACL DRYRUN would not need to write, but restricted
users may not call it, and it does not see that the memory is full or the disk refuses writes.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, cast

import redis.asyncio
from redis.asyncio import SSLConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tailrace.joblog.connections import Broker
from tailrace.joblog.replica_checks import of_cluster, of_replication
from tailrace.joblog.rights import ROLES, SUBSCRIBERS, Holds, Probe, Role, probes, rule
from tailrace.joblog.sentinel import SentinelPool
from tailrace.joblog.server_checks import SETTINGS, Finding, certificate_end, of_certificate, of_info, of_settings
from tailrace.joblog.translation import in_our_words
from tailrace.schemas.errors import BrokerUnavailable, BrokerUnsuitable
from tailrace.schemas.keys import Keys

__all__ = ["Finding", "check_server", "require_suitable"]

OLDEST_REDIS: Final = (7, 0)
OLDEST_VALKEY: Final = (7, 2)
# One stalled subscriber may take this much memory before it is cut off; the server's default is 32 MB.
PUBSUB_LIMIT_BYTES: Final = 16 * 1024 * 1024
NEARLY_FULL: Final = 0.8
#: So many ids are tried for one whose slot a node serves.
_MOST_IDS: Final = 2000


async def check_server(
    redis: redis.asyncio.Redis,
    keys: Keys | None = None,
    *,
    role: Role | None = "worker",
    holds: Holds = "all",
    serves: Callable[[str], bool] | None = None,
) -> list[Finding]:
    """Everything that was looked at, in the order in which it matters; `ok` findings included. `role`: what the user must
    be allowed to do; None: what any role does is enough. `holds`: what is on this server; `serves`: of a node of a cluster,
    whether a key is there.

    Raises: BrokerUnavailable if the server cannot be reached or is not ready yet, BrokerUnsuitable if its certificate is
    not trusted.
    """
    try:
        return await _check(redis, keys or Keys(), role, holds, serves)
    except (AuthenticationError, AuthorizationError) as error:
        return [_error("auth", f"the server refuses the login: {error}", "correct user and password in the Redis URL")]
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        ours = in_our_words(error)
        if isinstance(ours, BrokerUnsuitable):  # a certificate that is not trusted
            raise ours from error
        raise BrokerUnavailable(f"the Redis server cannot be reached or is not ready: {error}") from error


async def require_suitable(redis: redis.asyncio.Redis, keys: Keys | None = None) -> list[Finding]:
    """As `check_server`, for a worker's start: the findings if none is an error.

    Raises: BrokerUnsuitable for the first error; BrokerUnavailable.
    """
    findings = await check_server(redis, keys)
    for finding in findings:
        if finding.level == "error":
            raise BrokerUnsuitable(finding.what, cure=finding.cure)
    return findings


def _error(code: str, what: str, cure: str) -> Finding:
    return Finding("error", code, what, cure)


def _warning(code: str, what: str, cure: str) -> Finding:
    return Finding("warning", code, what, cure)


def _ok(code: str, what: str) -> Finding:
    return Finding("ok", code, what)


async def _check(
    redis: redis.asyncio.Redis, keys: Keys, role: Role | None, holds: Holds, serves: Callable[[str], bool] | None
) -> list[Finding]:
    info = await _info(redis)
    node = serves is not None
    if info is None:
        may_read = "let this user call INFO, or check version (7.0 or later), noeviction and AOF by hand"
        findings = [_warning("info", "the server does not tell about itself (INFO)", may_read)]
    else:
        checks: tuple[Callable[[Mapping[str, Any]], Finding], ...] = (
            _version, partial(_cluster, holds, node=node), partial(_role, node=node), _eviction, _memory, _aof, _last_write,
        )  # fmt: skip
        findings = [check(info) for check in checks]
        if info.get("aof_enabled"):
            findings.append(_fsync(await _config(redis, "appendfsync")))
    findings.append(_pubsub_limit(await _config(redis, "client-output-buffer-limit")))
    findings += of_info(info or {})
    settings = {name: await _config(redis, name) for name in SETTINGS}
    findings += of_settings(settings, info)
    if node:
        findings += of_cluster(await _told(redis, "CLUSTER", "INFO"), settings, info)
    else:
        watched = isinstance(redis.connection_pool, SentinelPool)
        findings += of_replication(settings, info or {}, holds, watched=watched)
    findings += await _certificate(redis)
    findings.append(await _rights(redis, keys, role, holds, serves))
    return findings


async def _info(redis: redis.asyncio.Redis) -> Mapping[str, Any] | None:
    try:
        found: Any = await redis.info()  # pyright: ignore[reportUnknownMemberType] - **kwargs without a type
    except ResponseError:
        return None
    return found if isinstance(found, dict) and "redis_version" in found else None  # pyright: ignore[reportUnknownVariableType] - foreign


async def _config(redis: redis.asyncio.Redis, name: str) -> str | None:
    """A value of the server's configuration; None where we may not look or there is no such thing."""
    try:
        found: Any = await redis.config_get(name)  # pyright: ignore[reportUnknownMemberType] - **kwargs without a type
    except ResponseError:
        return None
    value: Any = found.get(name, found.get(name.encode()))
    return value.decode() if isinstance(value, bytes) else value


async def _told(redis: redis.asyncio.Redis, *command: str) -> dict[str, str]:
    """The lines of an answer, by their names; nothing where we may not ask."""
    try:
        text: Any = await cast("Any", redis).execute_command(*command)
    except ResponseError:
        return {}
    if isinstance(text, dict):
        return {str(name): str(value) for name, value in text.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - foreign
    lines = (text.decode() if isinstance(text, bytes) else str(text)).splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


async def _certificate(redis: redis.asyncio.Redis) -> list[Finding]:
    """How long the server's certificate is good for; nothing where there is none, or it is not looked at."""
    pool: Any = getattr(redis, "connection_pool", None)
    if pool is None or not issubclass(pool.connection_class, SSLConnection):
        return []
    connection = pool.connection_class(**pool.connection_kwargs)
    try:
        await connection.connect()
        writer = getattr(connection, "_writer", None)  # redis-py has no other way to it
        told: Any = writer.get_extra_info("ssl_object").getpeercert() if writer is not None else None
        return [of_certificate(certificate_end(told["notAfter"]), datetime.now(UTC))] if told else []
    except (ValueError, LookupError):
        return []
    finally:
        await connection.disconnect()


def _version(info: Mapping[str, Any]) -> Finding:
    name, told, oldest = "Redis", str(info["redis_version"]), OLDEST_REDIS
    if "valkey_version" in info:
        name, told, oldest = "Valkey", str(info["valkey_version"]), OLDEST_VALKEY
    found = re.match(r"(\d+)\.(\d+)", told)
    if found is None:
        return _warning("version", f"{name} {told!r} is a version that cannot be read", "use Redis 7.0 or Valkey 7.2")
    if (int(found[1]), int(found[2])) < oldest:
        return _error(
            "version",
            f"{name} {told} is too old",
            f"use {name} {oldest[0]}.{oldest[1]} or later (without a server of your own: the embedded one)",
        )
    return _ok("version", f"{name} {told}")


def _cluster(holds: Holds, info: Mapping[str, Any], *, node: bool) -> Finding:
    clustered = bool(info.get("cluster_enabled"))
    if node:
        if clustered:
            return _ok("cluster", "a node of a cluster")
        return _error("cluster", "the server is no node of a cluster", "write redis:// instead of redis+cluster://")
    if not clustered:
        return _ok("cluster", "one server, no cluster")
    cures: dict[Holds, str] = {
        "all": "name the cluster as one, for the logs (TAILRACE_REDIS_URL=redis+cluster://host:port,...), and a server with one "
        "primary for the queue (TAILRACE_QUEUE_URL)",
        "logs": "name the cluster as one: TAILRACE_REDIS_URL=redis+cluster://host:port,...",
        "queue": "let TAILRACE_QUEUE_URL name a server with one primary that is no cluster: only logs can be on a cluster",
    }
    return _error("cluster", "the server runs in cluster mode", cures[holds])


def _role(info: Mapping[str, Any], *, node: bool) -> Finding:
    if info.get("role", "master") != "master":
        of = f"{info.get('master_host')}:{info.get('master_port')}"
        if node:
            return _warning("replica", f"the node has become a replica of {of}", "look again: the map is on its way")
        return _error("replica", f"the server is a replica of {of} and takes no writes", "use the primary's URL")
    return _ok("replica", "a primary")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy, limit = info.get("maxmemory_policy"), _number(info, "maxmemory")
    cure = "CONFIG SET maxmemory-policy noeviction (and in its configuration file)"
    if policy is None:
        return _warning("eviction", "the server does not tell its maxmemory-policy", "make sure it is noeviction")
    if policy == "noeviction":
        return _ok("eviction", "maxmemory-policy noeviction")
    if limit > 0:
        return _error("eviction", f"maxmemory-policy {policy} drops accepted jobs when memory runs short", cure)
    return _warning("eviction", f"maxmemory-policy {policy} drops accepted jobs once maxmemory is set", cure)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    if limit and used >= limit * NEARLY_FULL:
        return _warning(
            "memory",
            f"{used / limit:.0%} of maxmemory is used; at 100 % nothing is accepted any more",
            "raise maxmemory, or shorten the retention of jobs",
        )
    return _ok("memory", f"{used / 2**20:.1f} MB used" + (f" of {limit / 2**20:.1f}" if limit else ", no limit"))


def _aof(info: Mapping[str, Any]) -> Finding:
    if not info.get("aof_enabled"):
        return _warning(
            "aof",
            "no append-only file: a crash of the server loses what was written since its last snapshot",
            "CONFIG SET appendonly yes (and in its configuration file)",
        )
    return _ok("aof", "append-only file on")


def _last_write(info: Mapping[str, Any]) -> Finding:
    for field in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(field, "ok") != "ok":
            return _warning("disk", f"the server could not write to its disk ({field})", "free space, see its log")
    return _ok("disk", "last writes to disk went well")


def _fsync(value: str | None) -> Finding:
    cure = "CONFIG SET appendfsync everysec (or always, where not even the last second may be lost)"
    if value is None:
        return _warning("fsync", "could not check appendfsync (CONFIG is refused)", "make sure it is not `no`")
    if value == "no":
        return _warning("fsync", "appendfsync no: a power cut loses up to half a minute", cure)
    return _ok("fsync", f"appendfsync {value}" + ("" if value == "always" else ": a power cut loses up to a second"))


def _pubsub_limit(value: str | None) -> Finding:
    cure = 'CONFIG SET client-output-buffer-limit "pubsub 8mb 2mb 30" (and in its configuration file)'
    found = re.search(r"\bpubsub (\d+) ", f"{value or ''} ")
    if found is None:
        return _warning("pubsub-buffer", "could not check client-output-buffer-limit (CONFIG is refused)", cure)
    hard = int(found[1])
    if hard == 0 or hard > PUBSUB_LIMIT_BYTES:
        much = f"{hard / 2**20:.0f} MB of" if hard else "unbounded"
        return _warning("pubsub-buffer", f"one stalled reader may take {much} server memory", cure)
    return _ok("pubsub-buffer", f"a stalled reader is cut off at {hard / 2**20:.0f} MB")


def _number(info: Mapping[str, Any], field: str) -> int:
    value = info.get(field, 0)
    return value if isinstance(value, int) else 0


async def _rights(
    redis: redis.asyncio.Redis, keys: Keys, role: Role | None, holds: Holds, serves: Callable[[str], bool] | None
) -> Finding:
    probe = _probe_id(keys, serves)
    tried = probes(keys, probe, holds, cluster=serves is not None)
    async with redis.pipeline(transaction=False) as pipeline:
        for each in tried:
            pipeline.execute_command(*each.command)  # pyright: ignore[reportUnknownMemberType] - **kwargs without a type
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
    heard = Probe(SUBSCRIBERS, ("SUBSCRIBE", keys.live(probe)))
    if holds == "queue":
        heard = Probe(("worker",), ("SUBSCRIBE", keys.worker(probe)))
    elif serves is not None:
        heard = Probe(SUBSCRIBERS, ("SSUBSCRIBE", keys.live(probe)))
    tried.append(heard)
    answers.append(await _subscribe(redis, *map(str, heard.command)))
    refused: dict[Role, set[str]] = {each: set() for each in ROLES}
    broken: list[str] = []
    for each, answer in zip(tried, answers, strict=True):
        if isinstance(answer, NoPermissionError):
            for who in each.roles:
                refused[who].add(str(each.command[0]))
        # A slot that is on its way, or not served: `cluster-state` tells of that.
        elif isinstance(answer, (MovedError, AskError, TryAgainError, ClusterDownError)):
            continue
        elif isinstance(answer, (RedisConnectionError, RedisTimeoutError)):
            raise answer
        elif isinstance(answer, RedisError) and not str(answer).startswith(("NOSCRIPT", "No matching script")):
            broken.append(f"{each.command[0]}: {answer}")
    may_be = [each for each in ROLES if not refused[each]]
    if not may_be or (role is not None and role not in may_be):
        wanted = role or "consumer"
        return _error(
            "acl",
            f"this user may not call {', '.join(sorted(refused[wanted]))} on tailrace's keys and channels, as a "
            f"{wanted} must",
            f"ACL SETUSER <user> {rule(wanted, keys, cluster=serves is not None)}",
        )
    if broken:
        return _error("write", f"the server refuses what tailrace needs ({broken[0]})", "see its log and its memory")
    others = [f"a {each}" for each in ROLES if each not in may_be]
    told = f"this user may do what a {' and a '.join(may_be)} does"
    return _ok("acl", told + (f", not what {' or '.join(others)} does" if others else ""))


def _probe_id(keys: Keys, serves: Callable[[str], bool] | None) -> str:
    """An id that no job has, whose keys the server has."""
    ids = (f"probe-{secrets.token_hex(8)}" for _ in range(_MOST_IDS))
    # Of a node whose slots are not known nothing can be tried: another answers with MOVED.
    return next((probe for probe in ids if serves is None or serves(keys.log(probe))), "probe")


async def _subscribe(redis: redis.asyncio.Redis, command: str, channel: str) -> RedisError | None:
    # redis-py's own way cannot SSUBSCRIBE, but for a cluster.
    connection = await Broker(redis).own_connection()
    try:
        await connection.send_command(command, channel)
        await connection.read_response()
    except ResponseError as error:
        # A refusal is one of them. Where a cluster's slot is elsewhere, that is the answer.
        return error
    finally:
        await connection.disconnect(nowait=True)
    return None
